"""A local model through vLLM's AsyncLLM, inside the replica's own process (its core is a child of it).

Here and in the `vllm_…` modules beside it is the one place where vLLM's errors become ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import structlog

from actors.engines.ledger import Aborted
from actors.engines.port import Measure, Message, Reply, Sampling
from actors.engines.settings import SamplingSettings, VllmSettings, drawn_as
from actors.engines.shares import GpuShares
from actors.engines.vllm_start import Words, line, started, told
from actors.engines.vllm_turn import Drawing, params
from actors.engines.weights import check_model
from orchestrator.errors import AgentError, EngineDown, MachineError, PromptTooLong
from orchestrator.steps import Usage

log = structlog.get_logger()

# A core that died is started again for the request that saw it; one that dies again is not.
LIVES = 2


def is_installed() -> bool:
    """Whether vLLM can be imported here; a folder that happens to have its name does not count."""
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


def check_installed(name: str) -> None:
    """Refuse to serve the model `name` where there is no vLLM.

    Raises:
        EngineDown: It cannot be imported.
    """
    if not is_installed():
        raise EngineDown(
            f"{name} needs vLLM, and it is not installed where the agents run",
            "pip install 'raysmith[vllm]' on a machine with a GPU, or make setup-vllm without one",
        )


class VllmEngine:
    """One AsyncLLM, loaded when first asked and shared by all agents of the replica."""

    kind = "vllm"

    def __init__(
        self,
        model: str,
        *,
        name: str = "",
        settings: VllmSettings | None = None,
        sampling: SamplingSettings | None = None,
    ) -> None:
        self.name = name or f"vllm:{model}"
        self._model = model
        self._settings = settings or VllmSettings()
        self._sampling = sampling or SamplingSettings()
        self._loading: asyncio.Task[Any] | None = None
        self._words = Words()
        self._shares = GpuShares(0.0, time.monotonic)
        self._probing = asyncio.Lock()
        self._probed_at = -math.inf

    async def complete(
        self, role: str, messages: Sequence[Message], sampling: Sampling | None = None
    ) -> Reply:
        """The model's next turn; cancelled, it aborts the request in the engine."""
        asked = sampling or Sampling()
        for life in range(1, LIVES + 1):
            engine = await self._loaded()
            try:
                with self._told():
                    return await self._watched(engine, role, messages, asked)
            except _CoreDied as died:
                await self._bury(engine)
                if life == LIVES:
                    raise died.error from died.__cause__
                log.warning("engine_core_died", engine=self.name, role=role)
        raise AssertionError

    async def measure(self, messages: Sequence[Message]) -> Measure:
        """Exact: by the engine's template and tokenizer against its `max_model_len`."""
        engine = await self._loaded()
        room = engine.model_config.max_model_len
        try:
            with self._told():
                prompt = await self._rendered(engine, messages)
        except PromptTooLong:
            # The renderer refuses what cannot fit; characters tell by how much well enough.
            characters = sum(len(message.content) for message in messages)
            return Measure(prompt=max(room + 1, characters // 3), room=room)
        return Measure(prompt=len(prompt["prompt_token_ids"]), room=room)

    async def check_health(self) -> None:
        """Load the model if it is not, and see whether its core lives and still makes a token."""
        engine = await self._loaded()
        try:
            with self._told():
                await self._probe(engine)
        except _CoreDied as died:
            await self._bury(engine)
            raise died.error from died.__cause__

    async def close(self) -> None:
        """End the core and give back its memory."""
        loading, self._loading = self._loading, None
        self._words.forget()
        if loading is None:
            return
        if not loading.done():
            loading.cancel()
            return
        with contextlib.suppress(Exception):
            await asyncio.to_thread(loading.result().shutdown, 5.0)

    async def _loaded(self) -> Any:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name=f"load {self.name}")
        loading = self._loading
        try:
            return await asyncio.shield(loading)
        except MachineError:
            if self._loading is loading:
                # What stood in the way may be gone the next time.
                self._loading = None
            raise

    async def _load(self) -> Any:
        check_installed(self.name)
        check_model(self._model)
        began = time.monotonic()
        building = asyncio.ensure_future(asyncio.to_thread(started, self._model, self._settings, self._words))
        await asyncio.wait([building], timeout=self._settings.start_timeout_s)
        if not building.done():
            building.add_done_callback(_shut_down_late)
            raise EngineDown(
                f"{self.name} was not loaded within {self._settings.start_timeout_s:g} s",
                "raise vllm.start_timeout_s, or put the weights on a faster disk",
            )
        engine = building.result()
        self._shares = GpuShares(_gpus(engine), time.monotonic)
        log.info("engine_loaded", engine=self.name, seconds=round(time.monotonic() - began, 1))
        return engine

    async def _rendered(self, engine: Any, messages: Sequence[Message]) -> Any:
        from vllm.renderers import ChatParams

        conversation = [{"role": each.role, "content": each.content} for each in messages]
        params = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        _, (prompt,) = await engine.renderer.render_chat_async([conversation], params)
        return prompt

    async def _watched(self, engine: Any, role: str, messages: Sequence[Message], asked: Sampling) -> Reply:
        """The reply; meanwhile the core is asked for a token: one that hangs still says that it lives."""
        spent: list[Usage] = []
        working = asyncio.create_task(self._generated(engine, role, messages, asked, spent))
        every_s = self._settings.probe_every_s or None
        try:
            while not (await asyncio.wait({working}, timeout=every_s))[0]:
                await self._probe(engine)
            return working.result()
        except asyncio.CancelledError as error:
            await _ended(working)
            raise Aborted(spent[0] if spent else Usage()) from error
        finally:
            await _ended(working)

    async def _probe(self, engine: Any) -> None:
        """Have one token made, unless one was made just now.

        Raises:
            _CoreDied: None came in time.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        await engine.check_health()
        async with self._probing:
            if time.monotonic() - self._probed_at < self._settings.probe_every_s / 2:
                return
            params = SamplingParams(max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY)
            name = f"raysmith-probe-{uuid.uuid4().hex}"
            try:
                async with asyncio.timeout(self._settings.probe_timeout_s):
                    async for _ in engine.generate({"prompt_token_ids": [0]}, params, request_id=name):
                        pass
            except TimeoutError as error:
                said = f"{self.name} made no token in {self._settings.probe_timeout_s:g} s: it hangs"
                raise _CoreDied(EngineDown(said, "its own words are in the replica's log")) from error
            self._probed_at = time.monotonic()

    def _adapter(self, role: str) -> Any:
        """The LoRA adapter of `role`, if it has one."""
        if role not in self._settings.lora:
            return None
        from vllm.lora.request import LoRARequest

        number = sorted(self._settings.lora).index(role) + 1
        return LoRARequest(str(role), number, self._settings.lora[role])

    async def _generated(
        self, engine: Any, role: str, messages: Sequence[Message], asked: Sampling, spent: list[Usage]
    ) -> Reply:
        prompt = await self._rendered(engine, messages)
        length, room = len(prompt["prompt_token_ids"]), engine.model_config.max_model_len
        if length >= room:
            raise PromptTooLong(
                f"the prompt has {length} tokens and {self.name} takes {room}",
                "raise vllm.args.max_model_len",
            )
        sampling = params(drawn_as(self._sampling, asked), asked, room - length)
        drawing = Drawing(length, sampling.n, self._sampling.repetition_characters)
        try:
            with self._shares.running() as share:
                name = f"raysmith-{uuid.uuid4().hex}"
                outputs = engine.generate(prompt, sampling, name, lora_request=self._adapter(role))
                # Leaving the loop early, by a cancellation too, aborts the request in the core.
                async with contextlib.aclosing(outputs):
                    async for output in outputs:
                        drawing.take(output)
                        self._probed_at = time.monotonic()
                        if drawing.is_endless:
                            break
        except asyncio.CancelledError:
            spent.append(drawing.usage(share.gpu_s))
            raise
        return drawing.reply(self.name, share.gpu_s)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """vLLM's errors as ours."""
        from vllm.exceptions import VLLMClientError, VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            yield
        except EngineDeadError as error:
            reason = self._words.last()
            said = f"the core of {self.name} has died" + (f": {line(reason)}" if reason else "")
            raise _CoreDied(EngineDown(said, "its own words are in the replica's log")) from error
        except VLLMValidationError as error:
            if error.parameter in ("input_tokens", "input_text") or "context length" in str(error):
                raise PromptTooLong(
                    f"{self.name} refused the prompt: {line(told(error))}", "raise vllm.args.max_model_len"
                ) from error
            raise EngineDown(
                f"{self.name} refused the request: {line(told(error))}", "check sampling"
            ) from error
        except VLLMClientError as error:
            raise EngineDown(
                f"{self.name} refused the request: {line(told(error))}", "check sampling"
            ) from error
        except (EngineGenerateError, ValueError) as error:
            raise AgentError(
                f"{self.name} gave no reply: {line(told(error.__cause__ or error))}", "ask again"
            ) from error

    async def _bury(self, engine: Any) -> None:
        """Forget a dead engine, unless somebody has done so already."""
        loading = self._loading
        if loading is not None and loading.done() and not loading.exception() and loading.result() is engine:
            self._loading = None
            with contextlib.suppress(Exception):
                await asyncio.to_thread(engine.shutdown, 5.0)


class _CoreDied(Exception):
    def __init__(self, error: EngineDown) -> None:
        super().__init__(error)
        self.error = error


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it is over; a core that hangs cannot hold it for long."""
    task.cancel()
    await asyncio.wait({task}, timeout=5.0)
    if task.done() and not task.cancelled():
        # Somebody has looked at it, so that nobody is warned of it.
        task.exception()


def _shut_down_late(building: asyncio.Future[Any]) -> None:
    """An engine that came too late is not left running."""
    if not building.cancelled() and building.exception() is None:
        building.result().shutdown()


def _gpus(engine: Any) -> float:
    """GPUs that the engine works on; none on a CPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return 0.0
    return float(engine.vllm_config.parallel_config.world_size)
