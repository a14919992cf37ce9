"""Looks at a folder of weights before an engine is started on it, and says what is wrong with it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import EngineDown

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_MIB = 2**20
LARGER = "use a smaller or quantized model"
# What leaves more memory to the KV cache, on a GPU and on a CPU.
MORE_CACHE = (
    "raise vllm.args.gpu_memory_utilization (without a GPU: VLLM_CPU_KVCACHE_SPACE in the group's `env`)"
)


def check_model(model: str) -> None:
    """Refuse a path that holds no model, and a hub's name that is in no cache where the hub may not be asked.

    Raises:
        EngineDown: It does not exist, or lacks what a model has.
    """
    if not _is_path(model):
        _check_cache(model)
        return
    folder = Path(model).expanduser()
    if not folder.exists():
        raise EngineDown(
            f"there is no folder {model} where the agents run",
            "put the weights there, or mend --model vllm:PATH",
        )
    if folder.is_file():
        return
    if not (folder / "config.json").is_file():
        raise EngineDown(
            f"{model} holds no model: it has no config.json",
            "name the folder with config.json and the weights",
        )
    if weights_mib(folder) == 0:
        raise EngineDown(
            f"{model} has a config.json and no weights ({', '.join(_WEIGHTS)})", "download the model again"
        )


def check_fit(model: str, args: Mapping[str, Any]) -> None:
    """Refuse weights that are larger than the memory they are to be loaded into.

    Raises:
        EngineDown: They are, with both sizes and the setting to change.
    """
    folder = Path(model).expanduser() if _is_path(model) else cached(model)
    if folder is None or args.get("load_format") == "dummy":
        return
    needed = weights_mib(folder)
    room, share, where, setting = _memory(args)
    shards = int(args.get("tensor_parallel_size", 1)) * int(args.get("pipeline_parallel_size", 1))
    if needed / shards > room * share:
        raise EngineDown(
            f"{model} does not fit: its weights take {needed / shards:.0f} MiB, and of the {room:.0f} MiB "
            f"{where} vLLM may use {room * share:.0f}",
            setting,
        )


def check_adapter(role: str, folder: str) -> None:
    """Refuse a folder that holds no LoRA adapter.

    Raises:
        EngineDown: It lacks what one has.
    """
    if not (Path(folder) / "adapter_config.json").is_file():
        raise EngineDown(
            f"{folder}, the adapter of role {role}, has no adapter_config.json", f"mend vllm.lora.{role}"
        )


def wait_for_memory(
    args: Mapping[str, Any],
    timeout_s: float,
    free: Callable[[], tuple[float, float] | None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the GPU has the memory that vLLM is going to take: an engine that ended gives it back late.

    Args:
        args: Of the engine.
        timeout_s: Longest wait.
        free: MiB that are free and that there are, None where there is no GPU to ask.
        sleep: Waits.

    Raises:
        EngineDown: It did not come free, with both sizes.
    """
    share = float(args.get("gpu_memory_utilization", 0.92))
    ask = free or _gpu_memory
    waited = 0.0
    while (told := ask()) is not None and told[0] < told[1] * share:
        if waited >= timeout_s:
            raise EngineDown(
                f"{told[0]:.0f} of {told[1]:.0f} MiB of the GPU are free, and vLLM is to take "
                f"{told[1] * share:.0f}",
                "end what holds it (nvidia-smi), or lower vllm.args.gpu_memory_utilization",
            )
        sleep(1.0)
        waited += 1.0


@contextlib.contextmanager
def alone_on_card(card: str | None = None) -> Iterator[None]:
    """Let engines of this machine that share a card start one after another.

    vLLM measures what a start takes by the card's free memory, and fails when that changes meanwhile.

    Args:
        card: Its name; None for those that this process sees, "" for no card.
    """
    card = _cards() if card is None else card
    if not card:
        yield
        return
    name = hashlib.sha256(card.encode()).hexdigest()[:12]
    file = Path(tempfile.gettempdir()) / f"raysmith-card-{os.getuid()}-{name}.lock"
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Said aloud: a core that was forked meanwhile has the file open for as long as it lives.
            fcntl.flock(lock, fcntl.LOCK_UN)


def _cards() -> str:
    from vllm.platforms import current_platform

    return os.environ.get("CUDA_VISIBLE_DEVICES", "all") if current_platform.is_cuda() else ""


def _gpu_memory() -> tuple[float, float] | None:
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    # Asked of NVML: a CUDA context in this process would take memory from the engine's.
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    try:
        device = current_platform.device_id_to_physical_device_id(0)
        told = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(device))
    finally:
        pynvml.nvmlShutdown()
    return told.free / _MIB, told.total / _MIB


def weights_mib(folder: Path) -> float:
    """Size of the weights in `folder`; of one kind of file, the first that there is."""
    if folder.is_file():
        return folder.stat().st_size / _MIB
    for pattern in _WEIGHTS:
        if size := sum(file.stat().st_size for file in folder.glob(pattern)):
            return size / _MIB
    return 0.0


def cached(model: str) -> Path | None:
    """The folder in which the hub's model `model` is cached here, None where it is not."""
    if "://" in model:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "config.json")
    except (ImportError, ValueError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def _check_cache(model: str) -> None:
    if "://" in model or cached(model):
        return
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    if constants.is_offline_mode():
        raise EngineDown(
            f"{model} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set",
            f"run `hf download {model}` with the network, or name a folder with --model vllm:PATH",
        )


def _is_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).exists()


def _memory(args: Mapping[str, Any]) -> tuple[float, float, str, str]:
    """MiB that there are, the share of them that may be used, where, and what to do about too little."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages / _MIB, 0.9, "of free memory", LARGER
    # Asked of NVML: a CUDA context in this process would take memory from the engine's.
    total = current_platform.get_device_total_memory()
    share = float(args.get("gpu_memory_utilization", 0.92))
    return total / _MIB, share, "on the card", f"{LARGER}, or raise vllm.args.gpu_memory_utilization"
