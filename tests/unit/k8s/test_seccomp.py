"""The runners' system call filter lets bubblewrap build a sandbox, and little else that is dangerous."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from manifests import BUILDS, K8S, built, of_kind

FILE = K8S / "components" / "seccomp" / "raysmith-runner.json"
PROFILE = json.loads(FILE.read_text())
ALLOWED = {name for rule in PROFILE["syscalls"] for name in rule["names"]}
BUBBLEWRAP = {
    "clone",
    "unshare",
    "mount",
    "umount2",
    "pivot_root",
    "sethostname",
    "seccomp",
    "prctl",
    "capset",
}
DANGEROUS = """
    acct add_key bpf chroot clock_settime delete_module fanotify_init finit_module fsmount fsopen init_module
    io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl mount_setattr move_mount
    name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd process_vm_readv
    process_vm_writev ptrace quotactl reboot request_key settimeofday swapoff swapon
    syslog userfaultfd vhangup
"""
# Loads the profile as a container runtime would, then becomes the command.
UNDER = """
import json, os, sys
import pyseccomp

profile, missing = json.load(open(sys.argv[1])), sys.argv[2]
rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(profile["defaultErrnoRet"]))
for rule in profile["syscalls"]:
    for name in rule["names"]:
        arguments = [pyseccomp.Arg(a["index"], pyseccomp.EQ, a["value"]) for a in rule.get("args", [])]
        try:
            number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
        except ValueError:
            continue
        if name != missing and number >= 0:
            rules.add_rule(pyseccomp.ALLOW, name, *arguments)
rules.load()
os.execvp(sys.argv[3], sys.argv[3:])
"""
SANDBOX = shlex.split("""
    bwrap --unshare-all --unshare-user --disable-userns --die-with-parent --new-session --clearenv --uid 1000
    --gid 1000 --cap-drop ALL --hostname sandbox --ro-bind /usr /usr --symlink usr/lib /lib
    --symlink usr/lib64 /lib64 --proc /proc --dev /dev --remount-ro /dev --size 1048576 --tmpfs /tmp
    --remount-ro / -- /usr/bin/id -u
""")
UNPRIVILEGED = shlex.split("setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs")


def under_the_profile(command: list[str], *, without: str = "-") -> subprocess.CompletedProcess[str]:
    unprivileged = UNPRIVILEGED if os.geteuid() == 0 else []
    return subprocess.run(
        [sys.executable, "-c", UNDER, str(FILE), without, *unprivileged, *command],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    unprivileged = UNPRIVILEGED if os.geteuid() == 0 else []
    done = subprocess.run([*unprivileged, *SANDBOX], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"bubblewrap builds no sandbox here: {done.stderr.strip()}")


def test_allows_what_is_named_and_refuses_the_rest() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {rule["action"] for rule in PROFILE["syscalls"]} == {"SCMP_ACT_ALLOW"}
    # Fields of Docker's dialect would be passed over in silence by a kubelet's runtime.
    assert set(PROFILE) == {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    assert all(set(rule) <= {"names", "action", "args"} for rule in PROFILE["syscalls"])


def test_names_the_calls_of_bubblewrap_and_none_that_are_dangerous() -> None:
    assert BUBBLEWRAP <= ALLOWED
    assert not set(DANGEROUS.split()) & ALLOWED


def test_sockets_are_of_four_families_only() -> None:
    rules = [rule for rule in PROFILE["syscalls"] if "socket" in rule["names"]]

    assert sorted(rule["args"][0]["value"] for rule in rules) == [1, 2, 10, 16]


@pytest.mark.sandbox
@pytest.mark.usefixtures("bubblewrap")
def test_bubblewrap_builds_a_sandbox_under_it() -> None:
    done = under_the_profile(SANDBOX)

    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr


@pytest.mark.sandbox
@pytest.mark.usefixtures("bubblewrap")
@pytest.mark.parametrize("call", ["mount", "pivot_root", "clone"])
def test_bubblewrap_needs_what_runtime_default_refuses(call: str) -> None:
    assert under_the_profile(SANDBOX, without=call).returncode != 0


def test_refuses_for_real() -> None:
    vsock = "import socket; socket.socket(40, socket.SOCK_STREAM)"

    done = under_the_profile([sys.executable, "-c", vsock])

    assert done.returncode == 1
    assert "PermissionError" in done.stderr or "Permission denied" in done.stderr


@pytest.mark.parametrize("build", BUILDS)
def test_every_overlay_brings_the_profile_to_the_nodes(build: str) -> None:
    documents = built(build)
    (holder,) = (d for d in of_kind(documents, "ConfigMap") if "raysmith-runner.json" in d["data"])
    (installer,) = of_kind(documents, "DaemonSet")
    volumes = {volume["name"]: volume for volume in installer["spec"]["template"]["spec"]["volumes"]}

    assert json.loads(holder["data"]["raysmith-runner.json"]) == PROFILE
    assert volumes["profile"]["configMap"]["name"] == holder["metadata"]["name"]
    assert volumes["node"]["hostPath"]["path"] == "/var/lib/kubelet/seccomp/profiles"
