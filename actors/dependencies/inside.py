"""Runs pip inside an install sandbox: trusted, standard library and pip only, no network, wheels only.

Standard input is JSON. Without `lock` it resolves `wanted` under `constraints` and answers the wheels that
pip chose; with `lock` it installs exactly these files by their hashes and answers the packages as an archive.
The answer goes to descriptor 3; what pip says goes to the output.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tarfile
import tempfile
from pathlib import Path

INDEX, PIP = "index", "pip-lib"


def main() -> None:
    """Do what is asked, and answer."""
    asked = json.loads(sys.stdin.read())
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    sys.path.insert(0, str(Path(sys.prefix, PIP)))
    if asked["lock"]:
        install(asked["lock"])
    else:
        resolve(asked["wanted"], asked["constraints"])


def resolve(wanted: list[str], constraints: list[str]) -> None:
    """Let pip choose wheels; it reads their metadata and runs nothing of them."""
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        limits.write_text("\n".join(constraints))
        pip("--dry-run", "--ignore-installed", "--report", str(report), "-c", str(limits), *wanted)
        chosen = json.loads(report.read_text())["install"]
    answer([each["download_info"]["url"].rpartition("/")[2] for each in chosen])


def install(lock: list[str]) -> None:
    """Unpack the locked wheels and hand the packages out."""
    with tempfile.TemporaryDirectory() as folder:
        lines, target = Path(folder, "lock.txt"), Path(folder, "site")
        lines.write_text("\n".join(lock))
        target.mkdir()
        pip("--no-deps", "--require-hashes", "--no-compile", "--target", str(target), "-r", str(lines))
        with os.fdopen(3, "wb", closefd=False) as out, tarfile.open(fileobj=out, mode="w|gz") as archive:
            archive.add(target, arcname="")


def pip(*words: str) -> None:
    """Run pip's install command in this process.

    Raises:
        SystemExit: It failed; what it said is in the output.
    """
    fixed = ["--isolated", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "install"]
    fixed += [
        "--no-index",
        "--find-links",
        str(Path(sys.prefix, INDEX)),
        "--only-binary",
        ":all:",
        "--no-warn-conflicts",
    ]
    sys.argv = ["pip", *fixed, *words]
    try:
        runpy.run_module("pip", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def answer(value: object) -> None:
    """Write JSON to descriptor 3."""
    with os.fdopen(3, "w", closefd=False) as out:
        out.write(json.dumps(value))


if __name__ == "__main__":
    main()
