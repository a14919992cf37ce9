"""What can go wrong, told by who can act on it. A failing test is a `Verdict`, never an error.

    RaysmithError
    ├── TaskError          the caller: the task, a path or an option is wrong           exit 2
    │   └── KeyReused          an idempotency key came with another request before
    ├── MachineError       the operator: this machine lacks something                   exit 3
    │   ├── SandboxError       the sandbox cannot start or broke
    │   │   └── SandboxTimeout     a command outlived its limit
    │   ├── EngineMissing      a step needs a model and none is configured
    │   └── EngineDown         the model's server does not answer, or refuses us
    ├── StoreError         the operator: the event log or artifact store cannot be used exit 3
    │   ├── StoreOwned         another living orchestrator owns it
    │   └── StoreDamaged       what was read does not hang together
    ├── AgentError         the model again: a reply that cannot be used
    │   └── PromptTooLong      a prompt that does not fit into the model's context
    ├── ReplicaLost        the scheduler: a replica died while it held a lease
    ├── StaleEpoch         nobody: a late result of a lease that was given away
    ├── BudgetSpent        nobody: what a run may cost is spent
    ├── QueueFull          the caller, later: the waiting queue is at its bound
    └── Cancelled          nobody: a person asked for it

Every argument reaches `super().__init__`, so that each error survives pickling across Ray.
"""

from __future__ import annotations


class RaysmithError(Exception):
    """What happened, and the next move. `code` is stable and machine-readable."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, next_move: str = "") -> None:
        super().__init__(message, next_move)
        self.message = message
        self.next_move = next_move

    def __str__(self) -> str:
        return f"{self.message}; {self.next_move}" if self.next_move else self.message


class TaskError(RaysmithError):
    """The task, a path or an option is wrong; the caller can mend it."""

    code = "bad_input"
    exit_code = 2


class KeyReused(TaskError):
    """An idempotency key that came with another request before."""

    code = "key_reused"


class MachineError(RaysmithError):
    """This machine lacks something that the operator can provide."""

    code = "environment"
    exit_code = 3


class SandboxError(MachineError):
    """The sandbox cannot start here, or broke."""

    code = "sandbox"


class SandboxTimeout(SandboxError):
    """A command was still running at its limit; its whole process tree is gone."""

    code = "sandbox_timeout"

    def __init__(self, command: str, timeout_s: float) -> None:
        super().__init__(
            f"{command!r} was still running after {timeout_s:g} s",
            "raise `sandbox.timeout_s` or make the tests faster",
        )
        self.args = (command, timeout_s)


class EngineMissing(MachineError):
    """A step needs a model and none is configured."""

    code = "no_model"


class EngineDown(MachineError):
    """The model's server or process does not answer, or refuses what it is asked.

    Attributes:
        retries: Requests that were sent again before it was given up.
    """

    code = "engine"
    retries: int = 0


class StoreError(MachineError):
    """The event log or the artifact store cannot be used."""

    code = "store"


class StoreOwned(StoreError):
    """Another living orchestrator owns this store."""

    code = "store_owned"


class StoreDamaged(StoreError):
    """What was read from the store does not hang together."""

    code = "store_damaged"


class AgentError(RaysmithError):
    """A reply cannot be used; asking again may help."""

    code = "agent"


class PromptTooLong(AgentError):
    """A prompt does not fit into the model's context; a shorter one may."""

    code = "prompt_too_long"


class ReplicaLost(RaysmithError):
    """A replica died while it held a lease."""

    code = "replica_lost"


class StaleEpoch(RaysmithError):
    """A result arrived under a lease that has been given to another replica."""

    code = "stale_epoch"


class BudgetSpent(RaysmithError):
    """What a run may cost is spent; no model is asked any more."""

    code = "budget_exhausted"


class QueueFull(RaysmithError):
    """The waiting queue is at its bound; ask again later."""

    code = "queue_full"


class Cancelled(RaysmithError):
    """A person asked for this to stop."""

    code = "cancelled_by_user"
