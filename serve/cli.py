"""The `raysmith` command: which commands there are, and what an error becomes. Only light imports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from orchestrator.errors import RaysmithError
from serve.commands import (
    batch,
    checking,
    contexts,
    control,
    costs,
    deciding,
    graphs,
    importing,
    keeping,
    machine,
    past,
    replaying,
    resting,
    serving,
    submitting,
    work,
)
from serve.commands.door import Interrupted
from serve.commands.running import error_object
from serve.render import clean_lines

app = typer.Typer(
    name="raysmith",
    help="An autonomous software factory: failing tests go in, a certified patch comes out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[str, tuple[Callable[..., int], ...]] = {
    "Work": (work.repair, work.test, work.verify, work.run, batch.batch, submitting.submit),
    "Runs": (
        past.show,
        past.events,
        past.diff,
        contexts.context,
        costs.usage,
        replaying.export,
        replaying.replay,
        control.cancel,
        resting.pause,
        control.resume,
        resting.retry,
        deciding.approve,
        deciding.reject,
    ),
    "Factory": (control.up, control.down, control.status, serving.serve),
    "This machine": (machine.doctor, machine.demo),
}
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command("list", rich_help_panel="Runs")(past.list_runs)
app.command("import", rich_help_panel="Runs")(importing.import_run)
app.command("check-log", rich_help_panel="Store")(checking.check_log)
app.command(rich_help_panel="Store")(keeping.backup)
app.command(rich_help_panel="Store")(keeping.restore)
app.command(rich_help_panel="Store")(keeping.prune)
app.add_typer(graphs.graph, rich_help_panel="Work")
app.add_typer(serving.keys, rich_help_panel="Factory")
app.command("_daemon", hidden=True)(control.daemon)
app.command("_job", hidden=True)(submitting.job)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"raysmith {version('raysmith')}")
        except PackageNotFoundError:
            print("raysmith, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _options(
    _show: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that no encoding knows; it must not turn a message into a crash.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: Sequence[str]) -> int:
    """One command's exit code; every error has become its message."""
    as_json = "--json" in arguments
    try:
        code = app(args=list(arguments), prog_name="raysmith", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error, as_json)
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        return _interrupted(error, as_json)
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:
        return _refuse(error if isinstance(error, RaysmithError) else _crash(error), as_json)
    # Typer turns Ctrl-C into this code.
    return _interrupted(None, as_json) if code == _INTERRUPTED else int(code or 0)


_INTERRUPTED = 130


def _usage(error: typer.TyperException, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
        print(error.format_message(), file=sys.stderr)
        return 2
    command = context.command_path if context is not None else "raysmith"
    usage = RaysmithError(error.format_message().rstrip("."), f"see {command} --help")
    usage.code = "usage"
    usage.exit_code = 2
    return _refuse(usage, as_json)


def _refuse(error: RaysmithError, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(error_object(error)), flush=True)
        return error.exit_code
    print(f"raysmith: {clean_lines(error.message)}", file=sys.stderr)
    if error.next_move:
        print(f"  next: {clean_lines(error.next_move)}", file=sys.stderr)
    return error.exit_code


def _interrupted(error: BaseException | None, as_json: bool) -> int:
    next_move = error.next_move if isinstance(error, Interrupted) else "the same command again"
    told = RaysmithError("interrupted; nothing is lost", next_move)
    told.code = "interrupted"
    told.exit_code = _INTERRUPTED
    return _refuse(told, as_json)


def _crash(error: Exception) -> RaysmithError:
    from serve.config import home
    from serve.logs import write_crash

    file = write_crash(home(), error)
    where = f"the traceback is in {file}" if file else "its log could not be written; check RAYSMITH_HOME"
    told = RaysmithError(f"this should not have happened: {type(error).__name__}: {error}", where)
    told.code = "internal"
    return told


def _pipe_closed() -> int:
    import os

    # What reads us has gone; flushing at exit would complain once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
