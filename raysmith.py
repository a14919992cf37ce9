"""Raysmith: an autonomous software factory. The Python API, and the `raysmith` command.

    import raysmith

    result = raysmith.repair("path/to/package")       # joins the living factory, or starts one for this call
    print(result.status, result.reason, result.diff)

    with raysmith.connect() as factory:               # several things on one factory
        run = factory.repair("path/to/package")       # returns at once
        for event in run.events():
            print(event.type)
        print(run.result().verdict)

Results speak the words of `--json`; errors are `RaysmithError`s; docs/howto/python-api.md has more.
"""

from __future__ import annotations

import signal
import sys

from orchestrator.errors import EngineMissing, MachineError, RaysmithError, ReplicaLost, StoreOwned, TaskError
from orchestrator.events import Event, Kind, Status
from orchestrator.verdict import Verdict
from serve.api import (
    batch,
    compare,
    connect,
    export,
    import_run,
    new_app,
    repair,
    replay,
    run,
    test,
    verify,
)
from serve.api_factory import Factory, Run
from serve.results import Result, Tokens

__all__ = [
    "EngineMissing",
    "Event",
    "Factory",
    "Kind",
    "MachineError",
    "RaysmithError",
    "ReplicaLost",
    "Result",
    "Run",
    "Status",
    "StoreOwned",
    "TaskError",
    "Tokens",
    "Verdict",
    "batch",
    "compare",
    "connect",
    "export",
    "import_run",
    "new_app",
    "repair",
    "replay",
    "run",
    "test",
    "verify",
]


def main() -> None:
    """Run one command and leave with its exit code.

    Ctrl-C waits while the program loads: there is nobody yet to tell it.
    """
    loading = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from serve.cli import main as command

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, loading)
        command()
    except KeyboardInterrupt:
        print("raysmith: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
