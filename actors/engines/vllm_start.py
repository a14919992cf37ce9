"""Starts vLLM's AsyncLLM. What stands in its way becomes an EngineDown with sizes and the setting to change.

vLLM's core is a child process that tells its parent only that it failed. Its reason goes to its log, and
from there to a file that we read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from actors.engines.settings import VllmSettings
from actors.engines.weights import (
    LARGER,
    MORE_CACHE,
    alone_on_card,
    check_adapter,
    check_fit,
    wait_for_memory,
)
from orchestrator.errors import EngineDown

_LOGGING = "VLLM_LOGGING_CONFIG_PATH"
_FILE = "errors.log"
_RECORD = "\x1e"
# Where a traceback ends and the error's own words begin.
_ERROR = re.compile(r"^(?=[A-Za-z_][\w.]*(?:Error|Exception)\b)", re.MULTILINE)
_SHOWN = 400
_KV = re.compile(
    r"max seq len \((?P<length>\d+)\), \((?P<needed>[\d.]+) GiB KV cache is needed, which is larger than the "
    r"available KV cache memory \((?P<there>[\d.]+) GiB\)\.(?:.*?maximum model length is (?P<fits>\d+))?",
    re.DOTALL,
)
# vLLM's words, what they mean, and the next move.
_KNOWN = (
    (
        "No available memory for the cache blocks",
        "{model} does not fit: it leaves no memory for a KV cache",
        f"{LARGER}, or {MORE_CACHE}",
    ),
    (
        "(?i)out of memory",
        "{model} does not fit",
        f"lower vllm.args.max_num_seqs, max_num_batched_tokens or gpu_memory_utilization, or {LARGER}",
    ),
    (
        "(?:Free|Available) memory on .*less than",
        "there is no room to start {model}",
        "end what holds the memory (nvidia-smi), or lower vllm.args.gpu_memory_utilization",
    ),
    (
        "derived max_model_len",
        "{model} has a shorter context than is asked for",
        "lower vllm.args.max_model_len (-1: as much as fits)",
    ),
    (
        "couldn't connect|cached snapshot|LocalEntryNotFound|RepositoryNotFound|GatedRepo|model identifier",
        "{model} is in no cache here, and the model hub did not give it",
        "run `hf download {model}` where the agents run, or name a folder with --model vllm:PATH",
    ),
)


class Words:
    """What the processes of one engine say about errors, in a folder that is there while it may be up."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Processes started meanwhile write their errors down, unless logging is configured otherwise."""
        from vllm import envs

        self.forget()
        if os.environ.get(_LOGGING) or not envs.VLLM_CONFIGURE_LOGGING:
            yield
            return
        self._folder = Path(tempfile.mkdtemp(prefix="raysmith-vllm-"))
        os.environ[_LOGGING] = str(_config(self._folder))
        try:
            yield
        finally:
            os.environ.pop(_LOGGING, None)

    def last(self) -> str:
        """The last error, leaving out those that only say that another failed; empty for none."""
        if self._folder is None:
            return ""
        try:
            records = (self._folder / _FILE).read_text(errors="replace").split(_RECORD)
        except OSError:
            return ""
        told = [errors[-1] for record in records if (errors := _ERROR.split(record)[1:])]
        return next((each.strip() for each in reversed(told) if "initialization failed" not in each), "")

    def forget(self) -> None:
        """Remove the folder, and what writes to it in this process."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        for handler in list(logging.getLogger("vllm").handlers):
            if getattr(handler, "baseFilename", "") == str(folder / _FILE):
                logging.getLogger("vllm").removeHandler(handler)
        shutil.rmtree(folder, ignore_errors=True)


def _config(folder: Path) -> Path:
    """A file for Python's `dictConfig`: vLLM's own handler, and one of ours for errors."""
    from vllm.logger import DEFAULT_LOGGING_CONFIG

    config = deepcopy(DEFAULT_LOGGING_CONFIG)
    config["formatters"]["raysmith"] = {"format": f"{_RECORD}%(message)s"}
    config["handlers"]["raysmith"] = {
        "class": "logging.FileHandler",
        "filename": str(folder / _FILE),
        "formatter": "raysmith",
        "level": "ERROR",
        "delay": True,
    }
    config["loggers"]["vllm"]["handlers"].append("raysmith")
    file = folder / "logging.json"
    file.write_text(json.dumps(config))
    return file


def started(model: str, settings: VllmSettings, words: Words) -> Any:
    """An AsyncLLM with its core up. Blocks for as long as loading takes.

    Raises:
        EngineDown: It cannot be had, and why.
    """
    # vLLM tells its makers how it is used unless it is told not to, before it is imported.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    args = dict(settings.args)
    for role, folder in settings.lora.items():
        check_adapter(role, folder)
    if settings.lora:
        # vLLM's CPU kernels give requests without an adapter the last slot's: it stays empty.
        spare = int(current_platform.is_cpu())
        args = {"enable_lora": True, "max_loras": len(settings.lora) + spare, **args}
    try:
        # A home folder is the shell's to expand, and behind `vllm:` it does not.
        checked = AsyncEngineArgs(model=str(Path(model).expanduser()), **args)
    except (TypeError, ValueError) as error:
        raise EngineDown(
            f"vLLM does not take these arguments: {line(told(error))}", "mend vllm.args"
        ) from error
    except OSError as error:
        raise refused(model, told(error)) from error
    check_fit(model, args)
    try:
        with alone_on_card(), words.heard():
            wait_for_memory(args, settings.memory_timeout_s)
            return AsyncLLM.from_engine_args(checked, stat_loggers=_stat_loggers())
    except EngineDown:
        words.forget()
        raise
    except Exception as error:
        reason = words.last() or told(error)
        words.forget()
        raise refused(model, reason) from error


def refused(model: str, reason: str) -> EngineDown:
    """Why vLLM cannot start `model`, from its own words."""
    if found := _KV.search(reason):
        fits = int(found["fits"] or 0)
        return EngineDown(
            f"{model} does not fit: max_model_len {found['length']} needs {found['needed']} GiB of KV cache, "
            f"and {found['there']} GiB are there" + (f", enough for {fits} tokens" if fits else ""),
            f"set vllm.args.max_model_len to {fits or 'less'} (-1: as much as fits), or {MORE_CACHE}",
        )
    for words, said, next_move in _KNOWN:
        if re.search(words, reason):
            return EngineDown(f"{said.format(model=model)}: {line(reason)}", next_move.format(model=model))
    return EngineDown(
        f"vLLM cannot start {model}: {line(reason)}",
        "its own words are in the replica's log; vllm.args takes every argument of vLLM",
    )


def told(error: BaseException) -> str:
    """Kind and words of an error."""
    return f"{type(error).__name__}: {error}"


def line(text: str) -> str:
    """`text` on one line, and not for ever."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _stat_loggers() -> list[Any] | None:
    """vLLM's numbers on Ray's metrics, in a process that Ray knows."""
    # Not imported here: without Ray there is nobody to tell.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return [RayPrometheusStatLogger]
