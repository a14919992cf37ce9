"""Runs test files with node's own test runner inside a sandbox; standard library only.

`node_suite.py REPORTER GUARD FILE...`: GUARD is loaded before each file; what the reporter tells, a JSON
object a line, goes to descriptor 3.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def main() -> int:
    """Node's exit code; 127 where there is no node."""
    reporter, guard, *files = sys.argv[1:]
    node = shutil.which("node")
    if node is None:
        return 127
    told = os.fdopen(3, "wb", closefd=True)
    os.set_inheritable(3, False)
    command = [
        node,
        "--require",
        guard,
        "--test",
        f"--test-reporter={reporter}",
        "--test-reporter-destination=stdout",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    done = subprocess.run(
        [*command, *files], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, check=False
    )
    told.write(done.stdout)
    told.close()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
