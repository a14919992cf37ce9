"""What the start-up self-test tries from inside a sandbox; prints what worked, which should be nothing."""

import contextlib
import ctypes
import json
import os
import socket
import sys
from pathlib import Path

ESCAPES = ("/escape", "/usr/escape", "/env/escape", "/trusted/escape", "/etc/escape", "/dev/escape")


def main() -> None:
    """Try everything, tell what was possible."""
    asked = json.loads(sys.stdin.read())
    worked = []
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", asked["port"]), timeout=0.3).close()
        worked.append("reached a listener on the host")
    with contextlib.suppress(OSError), Path(asked["secret"]).open() as file:
        file.read()
        worked.append("read a file of the host")
    for family, target in (("path", asked["socket"]), ("abstract", "\0" + asked["mark"])):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as unix:
            unix.connect(target)
            worked.append(f"reached a socket of the host by {family} name")
    for place in (*ESCAPES, asked["outside"]):
        with contextlib.suppress(OSError), Path(place).open("w"):
            worked.append(f"wrote {place}")
            if place != asked["outside"]:
                Path(place).unlink()
    with contextlib.suppress(OSError):
        os.kill(asked["pid"], 0)
        worked.append("could signal a process of the host")
    if ctypes.CDLL(None).unshare(0x10000000) == 0:
        worked.append("made a user namespace")
    with contextlib.suppress(OSError):
        socket.socket(40, socket.SOCK_STREAM).close()
        worked.append("made a vsock socket")
    if asked["key"] in os.environ:
        worked.append("saw the environment of the host")
    # A grandchild that leaves its session: it must not outlive the sandbox.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                sleep = "import time; time.sleep(60)"
                os.execv(sys.executable, [sys.executable, "-S", "-c", sleep, asked["mark"]])  # noqa: S606
        os._exit(0)
    os.wait()
    with contextlib.suppress(OSError):
        socket.create_server(("127.0.0.1", 0)).close()
        worked.append("own loopback")
    kernel = os.uname()
    worked.append(f"kernel {kernel.release} {kernel.version}")
    print(json.dumps(worked))


if __name__ == "__main__":
    main()
