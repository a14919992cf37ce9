"""Engine calls as facts of a run: a line in the log, the conversation in the artifact store."""

from __future__ import annotations

from cluster.artifacts import ArtifactStore
from orchestrator.events import Kind, NewEvent, RunState
from orchestrator.steps import EngineCall


def called(
    call: EngineCall, artifacts: ArtifactStore, state: RunState, *, dispatch_id: str, epoch: int
) -> NewEvent:
    """`call` as an event of the run `state`; every turn is an artifact, so one said again is kept once."""
    step, _, attempt = dispatch_id.partition("/")[2].rpartition(".")
    data = {
        "number": call.number,
        "engine": call.engine,
        "kind": call.kind,
        "provider": call.provider,
        "why": call.why,
        "role": call.role,
        "messages": [[role, artifacts.put(_bytes(text))] for role, text in call.messages],
        "sampling": dict(call.sampling),
        "replies": [artifacts.put(_bytes(text)) for text in call.replies],
        "finish_reason": call.finish_reason,
        "error": call.error,
        "next": call.next_move,
        "measures": artifacts.put_json(call.measures) if call.measures else None,
        "tokens": {
            "prompt": call.usage.prompt,
            "completion": call.usage.completion,
            "cached": call.usage.cached,
        },
        "gpu_s": call.usage.gpu_s,
        "cost_usd": call.usage.cost_usd,
        "requests": call.usage.requests,
        "retries": call.usage.retries,
        "wall_s": round(call.wall_s, 3),
    }
    return NewEvent(
        run_id=state.run_id,
        type=Kind.ENGINE_CALLED,
        data=data,
        step=step,
        attempt=int(attempt) if attempt.isdigit() else 0,
        epoch=epoch,
        dispatch_id=dispatch_id,
        tenant=state.tenant,
    )


def _bytes(text: str) -> bytes:
    # A model may write half of a pair of surrogates; the store takes it as it is.
    return text.encode("utf-8", "surrogatepass")
