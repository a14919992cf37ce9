"""The HTTP door as it is used: a real Ray Serve in front of a real factory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from http_door import (
    BROKEN,
    FIXED_LINE,
    Door,
    entry,
    follow,
    messages,
    served,
    sleepy,
    tar_gz,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with served(tmp_path_factory.mktemp("serve")) as opened:
        yield opened
    assert opened.process.returncode == 0, opened.log.read_text()


def kept(door: Door) -> list[Path]:
    """Everything in the store, so that a test can tell that nothing was added."""
    return sorted((door.home / "artifacts").rglob("*"))


def test_an_archive_becomes_a_certified_diff_that_a_stream_tells_of(door: Door) -> None:
    run_id = door.submit(BROKEN, name="calc")

    told = follow(door, run_id)

    assert [seq for seq, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1]["data"]["reason"] == "certified"
    run = door.run(run_id)
    assert (run["status"], run["task"], run["verdict"]["certified"]) == ("succeeded", "calc", True)
    with door.client() as client:
        diff = client.get(f"/api/v1/runs/{run_id}/diff")
        page = client.get(f"/dashboard/runs/{run_id}")
        listed = client.get("/runs", params={"status": "succeeded"}).json()
        streams = client.get("/metrics").text
    assert diff.headers["content-type"].startswith("text/x-diff")
    assert FIXED_LINE in diff.text.splitlines()
    assert page.status_code == 200 and "return a + b" in page.text
    assert run_id in [each["run_id"] for each in listed["runs"]]
    assert 'raysmith_http_requests_total{code="202",method="POST"' in streams
    with door.client(headers={"Accept": "text/event-stream", "Last-Event-ID": str(len(told))}) as client:
        assert client.get(f"/runs/{run_id}/events").status_code == 204


def test_one_idempotency_key_is_one_run(door: Door) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: door.submit(sleepy(0), key="one", graph="test"), range(4)))

    assert len(set(ids)) == 1
    with door.client(headers={"Idempotency-Key": "one"}) as client:
        other = client.post(
            "/runs", files={"archive": ("a.tgz", tar_gz(sleepy(0.1)))}, data={"graph": "test"}
        )
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    assert door.ended(ids[0])["reason"] == "certified"


BOMB = tar_gz({"zeros.py": "\0" * 60_000_000})


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (tar_gz({"../outside.py": "x"}), "climbs"),
        (tar_gz({"/etc/outside.py": "x"}), "absolute"),
        (tar_gz(BROKEN, link=entry("out", tarfile.SYMTYPE, "../../etc/passwd")), "leaves the folder"),
        (tar_gz(BROKEN, link=entry("out", tarfile.LNKTYPE, "../../etc/passwd")), "climbs"),
        (tar_gz(BROKEN, link=entry("null", tarfile.CHRTYPE)), "device"),
        (BOMB, "200 times"),
        (b"no archive at all", "neither tar.gz"),
    ],
    ids=["dotdot", "absolute", "symlink", "hardlink", "device", "bomb", "garbage"],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(door: Door, archive: bytes, reason: str) -> None:
    before = kept(door)

    with door.client() as client:
        total = client.get("/runs").json()["total"]
        answer = client.post("/runs", files={"archive": ("a.tgz", archive)})

        assert (answer.status_code, answer.json()["code"]) == (422, "archive")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == "archive"
        assert reason in answer.json()["detail"]
        assert client.get("/runs").json()["total"] == total
    assert kept(door) == before


def test_what_cannot_be_answered_is_a_problem_document(door: Door) -> None:
    asked = {
        "404": ("GET", "/runs/r-0000000000", {}),
        "404 path": ("GET", "/nowhere", {}),
        "405": ("DELETE", "/runs", {}),
        "415": ("POST", "/runs", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        "422": ("POST", "/runs", {"json": {"goal": 5}}),
        "422 query": ("GET", "/runs?limit=many", {}),
        "421": ("GET", "/runs", {"headers": {"Host": "evil.example"}}),
        "403": ("POST", "/runs", {"json": {}, "headers": {"Origin": "http://evil.example"}}),
        "401": ("GET", "/runs", {"headers": {"Authorization": "Bearer rsk_wrong"}}),
    }
    with door.client() as client:
        for told, (method, path, options) in asked.items():
            answer = client.request(method, path, **options)

            assert str(answer.status_code) == told[:3], answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
            if told.startswith("422"):
                assert answer.json()["errors"][0]["field"] in ("goal", "limit")


def raw(door: Door, head: str) -> socket.socket:
    host, _, port = door.url.removeprefix("http://").partition(":")
    opened = socket.create_connection((host, int(port)), timeout=30)
    opened.sendall(head.replace("\n", "\r\n").encode())
    return opened


def memory_mib(pid: int) -> float:
    (line,) = (
        each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def test_an_oversized_body_is_refused_before_it_is_there(door: Door) -> None:
    head = "POST /runs HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
    with raw(door, f"{head}Content-Length: 1000000000\n\n") as announced:
        assert b" 413 " in announced.recv(4096).split(b"\r\n")[0]

    before = {pid: memory_mib(pid) for pid in door.pids("ray::")}
    answer = b""
    with raw(door, f"{head}Transfer-Encoding: chunked\n\n") as chunked:
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        # The door closes the connection while we still send; what it said may be lost with that.
        with contextlib.suppress(OSError):
            for _ in range(400):
                chunked.sendall(chunk)
        with contextlib.suppress(OSError):
            answer = chunked.recv(4096)
    grown = {pid: memory_mib(pid) - was for pid, was in before.items() if Path(f"/proc/{pid}").exists()}

    assert not answer or b" 413 " in answer.split(b"\r\n")[0]
    assert max(grown.values()) < 350, grown
    with door.client() as client:
        assert client.get("/health").json()["ready"] is True


def form_of(files: dict[str, str]) -> tuple[str, bytes]:
    """The head and the body of a submission, for a client that leaves where a real one would not."""
    form = (
        b'--x\r\nContent-Disposition: form-data; name="graph"\r\n\r\ntest\r\n'
        b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\n'
        + tar_gz(files)
        + b"\r\n--x--\r\n"
    )
    head = (
        "POST /runs HTTP/1.1\nHost: 127.0.0.1\n"
        f"Content-Type: multipart/form-data; boundary=x\nContent-Length: {len(form)}\n\n"
    )
    return head, form


def runs_after(door: Door, total: int) -> list[str]:
    with door.client() as client:
        page = client.get("/runs", params={"limit": 500}).json()
    return [run["run_id"] for run in page["runs"]][: page["total"] - total]


def test_a_client_that_leaves_cancels_nothing(door: Door) -> None:
    with door.client() as client:
        total = client.get("/runs").json()["total"]
    head, form = form_of(sleepy(0.5))

    for pause_s in (0.0, 0.005, 0.01, 0.02, 0.04, 0.08):
        with raw(door, head) as leaving:
            leaving.sendall(form)
            time.sleep(pause_s)
    with raw(door, head) as leaving:
        leaving.sendall(form[: len(form) // 2])

    time.sleep(2)
    accepted = runs_after(door, total)
    assert len(accepted) <= 6
    # Whatever was accepted is worked on: none is left pending in the log.
    assert {door.ended(run_id)["reason"] for run_id in accepted} <= {"certified"}


def test_a_client_that_leaves_while_its_files_are_stored_cancels_nothing(door: Door) -> None:
    with door.client() as client:
        total = client.get("/runs").json()["total"]
    many = {f"data/{number}.txt": f"{number}" * 50 for number in range(3000)}
    head, form = form_of({**many, **sleepy(0.1)})
    before = len(kept(door))

    with raw(door, head) as leaving:
        leaving.sendall(form)
        until(lambda: len(kept(door)) > before + 100)

    until(lambda: len(runs_after(door, total)) == 1)
    assert door.ended(runs_after(door, total)[0])["reason"] == "certified"


def test_a_stream_that_breaks_is_resumed_where_it_was(door: Door) -> None:
    run_id = door.submit(sleepy(2), graph="test")

    with door.client(headers={"Accept": "text/event-stream"}) as client:
        with client.stream("GET", f"/runs/{run_id}/events") as answer:
            told = messages(answer.iter_lines())
            first = [next(told) for _ in range(2)]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(first[-1][0])}
    with door.client(headers=headers) as client:
        with client.stream("GET", f"/runs/{run_id}/events") as answer:
            rest = list(messages(answer.iter_lines()))

    assert [seq for seq, _ in first + rest] == list(range(1, len(first) + len(rest) + 1))
    assert rest[-1][1]["type"] == "run_finished"
    assert door.run(run_id)["status"] == "succeeded"


def test_an_orchestrator_that_is_killed_costs_a_503_and_no_run(door: Door) -> None:
    runs = [door.submit(sleepy(3), graph="test", key=f"kill-{number}") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        following = [pool.submit(follow, door, run_id) for run_id in runs]
        until(lambda: door.run(runs[0])["status"] == "running")
        victim = door.owner_pid()

        os.kill(victim, signal.SIGKILL)
        refused = []
        with door.client() as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                answer = client.get("/runs")
                if answer.status_code == 200 and refused:
                    break
                if answer.status_code != 200:
                    refused.append(answer)
                time.sleep(0.05)
            assert client.get("/health").status_code == 200

        assert {(each.status_code, each.json()["code"]) for each in refused} == {(503, "unavailable")}
        assert all(int(each.headers["retry-after"]) > 0 for each in refused)
        assert door.owner_pid() != victim
        for told in (each.result() for each in following):
            assert [seq for seq, _ in told] == list(range(1, len(told) + 1))
            assert told[-1][1]["data"]["reason"] == "certified"
    again = [door.submit(sleepy(3), graph="test", key=f"kill-{number}") for number in range(3)]
    assert again == runs


def test_an_ingress_that_is_killed_under_load_loses_no_run_and_no_event(door: Door) -> None:
    accepted: list[str] = []
    done = threading.Event()

    def load(number: int) -> None:
        count = 0
        while not done.is_set():
            count += 1
            try:
                # Asked again under its key until it is answered, as a careful client does.
                accepted.append(door.submit(sleepy(0.2), graph="test", key=f"load-{number}-{count}"))
            except (httpx2.TransportError, AssertionError):
                count -= 1
            time.sleep(0.3)

    watched = door.submit(sleepy(6), graph="test")
    with ThreadPoolExecutor(4) as pool:
        following = pool.submit(follow, door, watched)
        loading = [pool.submit(load, number) for number in range(2)]
        until(lambda: len(accepted) >= 2)
        (victim,) = door.pids("ray::ServeReplica:raysmith:HttpDoor")

        os.kill(victim, signal.SIGKILL)
        until(lambda: door.pids("ray::ServeReplica:raysmith:HttpDoor") not in ([], [victim]), 60)
        before = len(accepted)
        until(lambda: len(accepted) >= before + 2, 60)
        done.set()
        for each in loading:
            each.result()
        told = following.result()

    assert [seq for seq, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1]["data"]["reason"] == "certified"
    assert len(set(accepted)) == len(accepted)
    assert {door.ended(run_id)["reason"] for run_id in accepted} == {"certified"}
