"""The command `submit`: a batch as a job of a Ray cluster, and what runs there."""

from __future__ import annotations

import gzip
import io
import json
import re
import secrets
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import TaskError
from orchestrator.tree import File, FileMode, Tree
from serve.commands import options
from serve.commands.door import Door, Interrupted, open_door
from serve.render import clean, clean_lines

if TYPE_CHECKING:
    from cluster.jobs import Jobs, JobState
    from serve.batch import Batch, Entry

ADDRESS = "http://127.0.0.1:8265"
# What a job is packed as: its tasks, their folders, and a configuration.
_TASKS, _FOLDERS, _CONFIG = "tasks.jsonl", "folders.tar.gz", "config.yaml"
# Begins a line of the job's output that holds one task's result, for the submitter.
_RESULT = "raysmith-result: "


def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="A batch, as `raysmith batch` takes it.")
    ],
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The cluster's dashboard.",
        ),
    ] = ADDRESS,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave as soon as the job is handed in; it goes on.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where results are written; default: FILE-out beside FILE."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Run nothing when a line is broken.")] = False,
    model: options.Model = None,
    attempts: options.Attempts = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> int:
    """Run a batch as a job of a Ray cluster, with the folders that its tasks name."""
    from cluster.jobs import Jobs

    door = open_door(
        as_json=as_json,
        verbose=verbose,
        file=config,
        settings=settings,
        model=model,
        budget__attempts=attempts,
    )
    tasks = _read(door, file, strict=strict)
    folder = (out or file.with_name(f"{file.stem}-out")).absolute()
    jobs = Jobs(address)
    job_id = _job_id(file)
    flags = [*(["--strict"] if strict else []), *(["--config", _CONFIG] if config else [])]
    flags += ["--model", model] if model else []
    flags += ["--attempts", str(attempts)] if attempts else []
    flags += [word for setting in settings or () for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="raysmith-submit-") as packed:
        pack(door, file, tasks, Path(packed), config)
        jobs.submit(
            shlex.join(["python", "-m", "raysmith", "_job", job_id, *flags]),
            Path(packed),
            job_id=job_id,
            metadata={"raysmith": "batch", "file": file.name, "tasks": str(len(tasks.entries))},
        )
    told = {"job_id": job_id, "address": jobs.address}
    door.screen.line(f"job {job_id} on {jobs.address}: {len(tasks.entries)} tasks")
    if not no_wait:
        return _wait(door, jobs, told, tasks, folder)
    if as_json:
        door.screen.object({**told, "status": jobs.state(job_id).status})
    for line in _how(told):
        door.screen.line(line)
    return 0


def _wait(door: Door, jobs: Jobs, told: Mapping[str, str], tasks: Batch, out: Path) -> int:
    output = _Output(door)
    try:
        state = jobs.follow(told["job_id"], output.take)
    except KeyboardInterrupt:
        follow, stop = _how(told)
        raise Interrupted(f"the job goes on; {follow}; {stop}") from None
    output.end()
    results = _kept(tasks, output.results, out)
    if door.screen.as_json:
        door.screen.object(
            {**told, "status": state.status, "exit_code": state.exit_code, **_why(state), "results": results}
            | {"out": str(out)}
        )
    else:
        door.screen.line(f"job {told['job_id']} {state.status}", "green" if not _code(state) else "red")
        if told_why := _why(state).get("message"):
            door.screen.line(clean(told_why))
        if results:
            door.screen.line(f"results in {out / 'results.jsonl'}")
    return _code(state)


def _how(told: Mapping[str, str]) -> tuple[str, str]:
    """How to follow a job and how to stop it."""
    where = f"--address {shlex.quote(told['address'])} {told['job_id']}"
    return f"follow it: ray job logs --follow {where}", f"stop it: ray job stop {where}"


def _why(state: JobState) -> dict[str, str]:
    """What Ray says of a job that did not succeed; the log that it repeats was shown."""
    message = state.message.partition(", last available logs")[0].strip()
    return {} if state.status == "SUCCEEDED" else {"message": message}


def _code(state: JobState) -> int:
    if state.status == "SUCCEEDED":
        return 0
    # A batch's own codes; a shell's and a signal's say no more than that it failed.
    return state.exit_code if state.exit_code in (1, 2, 3) else 1


def _job_id(file: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", file.stem).strip("-")[:40] or "batch"
    return f"raysmith-{plain}-{secrets.token_hex(4)}"


@dataclass(slots=True)
class _Output:
    """A job's output as it arrives: lines for a person, and results between them."""

    door: Door
    results: list[dict[str, Any]] = field(default_factory=list)
    _rest: str = ""

    def take(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        if line.startswith(_RESULT):
            try:
                self.results.append(json.loads(line.removeprefix(_RESULT)))
                return
            except ValueError:
                pass
        self.door.screen.line(clean_lines(line))


def _read(door: Door, file: Path, *, strict: bool) -> Batch:
    """The batch, with what is wrong in it told before anything travels."""
    from serve.tasks import read_batch

    # The cluster may have a model where this machine has none.
    tasks = read_batch(door.config, file, model="the cluster's")
    for line in tasks.broken:
        door.screen.line(f"line {line.number}: {clean(line.message)}", "red")
    if not tasks.entries or (strict and tasks.broken):
        lines = "; ".join(f"line {line.number}: {line.message}" for line in tasks.broken[:5])
        raise TaskError(f"{file}: {lines}", "mend them and run the command again; nothing was submitted")
    return tasks


def pack(door: Door, file: Path, tasks: Batch, into: Path, config: Path | None = None) -> None:
    """Write into `into` what the job needs: the tasks, their folders, the configuration; nothing else.

    A folder travels as its snapshot, so without environments, caches and what git ignores. The same
    batch makes the same bytes, which Ray uploads once.

    Raises:
        TaskError: A folder cannot be taken.
    """
    entries = {entry.number: entry for entry in tasks.entries}
    lines = []
    with (
        (into / _FOLDERS).open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
            entry = entries.get(number)
            lines.append(line if entry is None else _packed(door, archive, entry, line))
    (into / _TASKS).write_text("\n".join(lines), "utf-8")
    if config is not None:
        shutil.copyfile(config, into / _CONFIG)


def _packed(door: Door, archive: tarfile.TarFile, entry: Entry, line: str) -> str:
    """The line as the job has it, once its folder is in the archive."""
    from serve.tasks import take_entry

    tree = take_entry(door.config, entry, door.note)
    if tree is None:
        return line
    folder = f"folders/{entry.task.id}"
    _add(archive, folder, tree)
    return json.dumps({**json.loads(line), "path": folder}, ensure_ascii=True)


def _add(archive: tarfile.TarFile, folder: str, tree: Tree) -> None:
    top = tarfile.TarInfo(folder)
    top.type, top.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(top)
    for path, file in sorted(tree.files.items()):
        archive.addfile(*_member(f"{folder}/{path}", file))


def _member(name: str, file: File) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    member = tarfile.TarInfo(name)
    if file.mode is FileMode.LINK:
        member.type, member.linkname = tarfile.SYMTYPE, file.content.decode("utf-8", "surrogateescape")
        return member, None
    member.mode = 0o755 if file.mode is FileMode.EXECUTABLE else 0o644
    member.size = len(file.content)
    return member, io.BytesIO(file.content)


def _kept(tasks: Batch, lines: Sequence[Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Write the results that came with the output as `raysmith batch` would have; gives them as written."""
    from serve.batch import Results
    from serve.commands.running import write_results

    entries = {entry.task.id: entry for entry in tasks.entries}
    mine = [line for line in lines if line.get("id") in entries]
    if not mine:
        return []
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.jsonl")
    results.load()
    told = []
    for line in mine:
        folder = out / line["id"]
        written = {**line, "out": str(folder), "key": entries[line["id"]].key}
        write_results(folder, written, str(line.get("diff") or "").encode("utf-8", "surrogateescape"))
        results.add(written)
        told.append(written)
    results.compact(entries)
    return told


def job(
    job_id: Annotated[str, typer.Argument()],
    strict: Annotated[bool, typer.Option("--strict")] = False,
    model: options.Model = None,
    attempts: options.Attempts = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
) -> int:
    """Be the job that `submit` handed in: in its folder, run the batch and print every result."""
    from serve.commands.batch import batch

    door = open_door(file=config, settings=settings)
    out = door.home / "out" / job_id
    with tempfile.TemporaryDirectory(prefix="raysmith-job-") as folder:
        # Ray's own unpacking forgets which files are executable, and links.
        with tarfile.open(_FOLDERS) as archive:
            archive.extractall(folder, filter="data")
        shutil.copyfile(_TASKS, Path(folder) / _TASKS)
        try:
            return batch(
                file=Path(folder) / _TASKS,
                out=out,
                strict=strict,
                model=model,
                attempts=attempts,
                config=config,
                settings=settings,
            )
        finally:
            _print_results(out)


def _print_results(out: Path) -> None:
    results = out / "results.jsonl"
    if results.exists():
        for line in results.read_text().splitlines():
            print(f"{_RESULT}{line}", flush=True)
