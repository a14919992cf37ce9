"""Runs tools that read Python and execute none of it: each in a process of its own, on a bounded copy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.languages import is_foreign
from orchestrator.tree import File, Tree

_SECONDS = 60
# Sets limits in its own process: after a fork of a process with threads no Python may run.
_BOUNDED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}\.pyi?")


def python_of(tree: Tree) -> dict[str, File]:
    """The Python files of `tree` that are its own."""
    return {
        path: file
        for path, file in sorted(tree.files.items())
        if path.endswith(".py") and not is_foreign(path)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a tool said, and the files as it left them, by their own paths."""

    exit_code: int
    output: bytes
    said: str
    after: Mapping[str, bytes]
    own: Mapping[str, str]

    def path(self, told: str) -> str:
        """The own path of a file as the tool names it."""
        return self.own[Path(told).parent.name]

    def json(self) -> Any:
        """The output as JSON.

        Raises:
            MachineError: It is none.
        """
        try:
            return json.loads(self.output)
        except ValueError as error:
            raise MachineError(f"a tool answered no JSON: {self.said or error}", "see its version") from error


def run_tool(module: str, arguments: Sequence[str], files: Mapping[str, File]) -> Ran:
    """`python -m module arguments FOLDER` on a copy of `files`, each in a numbered folder of the copy.

    Raises:
        MachineError: The tool is not installed here, or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="raysmith-tool-") as name:
        folder = Path(name).resolve()
        own, places = {}, {}
        for number, (path, file) in enumerate(files.items()):
            # A file's own name could be an option or climb; only its last part means something to tools.
            last = path.rpartition("/")[2]
            place = folder / f"m{number}" / (last if _PLAIN.fullmatch(last) else "module.py")
            place.parent.mkdir()
            place.write_bytes(file.content)
            own[f"m{number}"], places[path] = path, place
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(
                    [sys.executable, "-I", "-c", _BOUNDED, module, *arguments, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    timeout=_SECONDS,
                    check=False,
                    cwd=folder,
                )
            except subprocess.TimeoutExpired as error:
                raise MachineError(
                    f"{module} was still reading {len(files)} files after {_SECONDS} s",
                    "leave it out of the graph",
                ) from error
            output.seek(0)
            told = output.read()
        said = done.stderr.decode(errors="replace").strip()[-300:]
        if f"No module named {module}" in said:
            raise MachineError(f"{module} is not installed here", f"run `pip install {module}`")
        after = {path: place.read_bytes() for path, place in places.items()}
    return Ran(exit_code=done.returncode, output=told, said=said, after=after, own=own)
