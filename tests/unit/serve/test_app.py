"""The HTTP application on a factory without Ray: every route, every refusal."""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from event_log_conformance import call
from http_door import BROKEN, messages, tar_gz
from http_fakes import FakeFloor, client, config, site

from orchestrator.errors import AgentError, QueueFull, StoreOwned, TaskError
from orchestrator.events import Kind
from orchestrator.tree import Tree
from serve.app import _BESIDE_STREAMS, _binds_loopback, application, create_api, refuse_unsandboxed
from serve.auth import KeyFile
from serve.config import load
from serve.problems import TITLES
from serve.routes.gate import VERSIONED

_MODEL = {"repair.policy.model": "openai:x"}
STREAM = {"Accept": "text/event-stream"}
ARCHIVE = {"archive": ("a.tgz", tar_gz(BROKEN))}


def fields(answer: Any) -> list[str]:
    return [each["field"] for each in answer.json()["errors"]]


@pytest.mark.parametrize("prefix", ["", VERSIONED])
async def test_every_route_answers_under_both_prefixes(tmp_path: Path, prefix: str) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    floor.patches[run_id] = b"--- a\n+++ b\n"
    floor.end(run_id)
    paths = [
        *("/health", "/health/ready", "/fleet", "/metrics", "/runs", f"/runs/{run_id}"),
        *(f"/runs/{run_id}/events", f"/runs/{run_id}/diff"),
    ]

    async with client(site(tmp_path, floor)) as http:
        answers = {path: (await http.get(prefix + path)).status_code for path in paths}
        cancelled = await http.post(f"{prefix}/runs/{run_id}/cancel")
        accepted = await http.post(f"{prefix}/runs", files=ARCHIVE)

    assert set(answers.values()) == {200}
    assert (cancelled.status_code, floor.cancelled) == (200, [run_id])
    assert accepted.status_code == 202
    assert accepted.json() == {"ok": True, "run_id": "r-0000000000", "status": "pending"}
    assert accepted.headers["location"] == f"{prefix}/runs/r-0000000000"


async def test_an_archive_with_fields_becomes_a_task(tmp_path: Path) -> None:
    floor = FakeFloor()
    asked = {
        "name": "calc",
        "tests": "test_calc.py -k 'not slow'",
        "protect": ["a*", "b*"],
        "budget": '{"attempts": 2}',
        "inputs": '{"who": "me"}',
    }

    async with client(site(tmp_path, floor)) as http:
        assert (await http.post("/runs", files=ARCHIVE, data=asked)).status_code == 202

    ((task, tree, candidate),) = floor.submitted
    assert (task.id, task.graph, task.origin) == ("calc", "repair", "http")
    assert task.tests == ("test_calc.py", "-k", "not slow")
    assert (task.protect, task.budget.attempts, task.inputs) == (("a*", "b*"), 2, {"who": "me"})
    assert tree is not None and set(tree.files) == set(BROKEN)
    assert candidate is None


async def test_verify_takes_two_archives(tmp_path: Path) -> None:
    floor = FakeFloor()

    async with client(site(tmp_path, floor)) as http:
        both = {**ARCHIVE, "candidate": ("b.tgz", tar_gz({"calc.py": "better"}))}
        assert (await http.post("/runs", files=both, data={"graph": "verify"})).status_code == 202
        alone = await http.post("/runs", files=ARCHIVE, data={"graph": "verify"})

    assert floor.submitted[0][2] is not None
    assert (alone.status_code, fields(alone)) == (422, ["candidate"])


@pytest.mark.parametrize(
    "asked",
    [
        {"goal": "build it"},
        {"graph": "story", "goal": "build it"},
        {"graph": "story", "inputs": {"goal": "build it"}},
    ],
)
async def test_a_goal_becomes_a_story(tmp_path: Path, asked: Mapping[str, Any]) -> None:
    floor = FakeFloor()

    async with client(site(tmp_path, floor, settings=["model=recorded:add_story"])) as http:
        assert (await http.post("/runs", json=asked)).status_code == 202

    ((task, tree, _),) = floor.submitted
    assert (task.graph, task.goal, task.model) == ("story", "build it", "recorded:add_story")
    assert tree == Tree()


async def test_a_path_is_taken_only_below_the_folders_that_are_listed(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for folder in (allowed / "calc", outside):
        folder.mkdir(parents=True)
        for name, text in BROKEN.items():
            (folder / name).write_text(text)
    (allowed / "link").symlink_to(outside)
    floor = FakeFloor()

    async with client(site(tmp_path, floor)) as http:
        closed = await http.post("/runs", json={"path": str(allowed / "calc")})
    async with client(site(tmp_path, floor, settings=[f"http.local_paths=[{allowed}]"])) as http:
        taken = await http.post("/runs", json={"path": str(allowed / "calc")})
        refused = [
            await http.post("/runs", json={"path": path})
            for path in (str(outside), str(allowed / "link"), f"{allowed}/../outside", "calc", "/\0", "~")
        ]
        absent = await http.post("/runs", json={"path": str(allowed / "nothing")})

    assert (closed.status_code, fields(closed), taken.status_code) == (422, ["path"], 202)
    assert {(each.status_code, *fields(each)) for each in [*refused, absent]} == {(422, "path")}
    assert len(floor.submitted) == 1


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"graph": "git-to-nowhere", "inputs": {}}, "graph"),
        ({"graph": "story"}, "goal"),
        ({"goal": "  "}, "goal"),
        ({"graph": "story", "inputs": {"goal": 5}}, "inputs.goal"),
        ({"graph": "repair"}, "archive"),
        ({}, "archive"),
        ({"goal": "x", "model": "http://169.254.169.254#m"}, "model"),
        ({"goal": "x", "budget": {"wall_s": 1e9}}, "budget.wall_s"),
        ({"goal": "x", "name": "../x"}, "name"),
        ({"goal": "x", "tests": ["--rootdir=/"]}, "tests"),
        ({"goal": "x", "tests": ["/etc"]}, "tests"),
        ({"goal": "x", "python": "/bin/sh"}, "python"),
        ({"goal": "x", "sandbox": {"minimum": "none"}}, "sandbox"),
    ],
)
async def test_a_request_that_cannot_be_is_refused_with_its_field(
    tmp_path: Path, asked: Mapping[str, Any], field: str
) -> None:
    floor = FakeFloor()

    async with client(site(tmp_path, floor, settings=["model=recorded:add_story"])) as http:
        answer = await http.post("/runs", json=asked)

    assert (answer.status_code, fields(answer)) == (422, [field]), answer.text
    assert floor.submitted == []


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"data": {"archive": "text"}, "files": {"x": b""}}, "archive"),
        ({"data": {"name": "a", "inputs": "{"}, "files": ARCHIVE}, "inputs"),
        ({"data": {"inputs": "NaN"}, "files": ARCHIVE}, "inputs"),
        ({"data": {"budget": "[" * 50_000}, "files": ARCHIVE}, "budget"),
        ({"data": {"tests": "'"}, "files": ARCHIVE}, "tests"),
        ({"data": {"name": ["a", "b"]}, "files": ARCHIVE}, "name"),
        ({"data": {"what": "a"}, "files": ARCHIVE}, "what"),
        ({"data": {"path": "/tmp"}, "files": ARCHIVE}, "path"),
        ({"data": {"root": "../.."}, "files": ARCHIVE}, "archive"),
        ({"files": {"archive": b"", "other": b""}}, "other"),
        ({"files": {"archive": ("a", tar_gz({"a.txt": ""}))}}, "archive"),
        ({"files": ARCHIVE, "data": {"tests": "nowhere.py"}}, "tests"),
        ({"files": {"archive": ("a", b"")}}, "archive"),
    ],
)
async def test_a_form_that_cannot_be_is_refused_with_its_field(
    tmp_path: Path, form: Mapping[str, Any], field: str
) -> None:
    async with client(site(tmp_path)) as http:
        answer = await http.post("/runs", **form)

    assert (answer.status_code, fields(answer)) == (422, [field]), answer.text


async def test_a_body_of_another_kind_is_refused(tmp_path: Path) -> None:
    async with client(site(tmp_path)) as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await http.post("/runs", content=b"{}", headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        broken = await http.post(
            "/runs", content=b"--", headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        nameless = await http.post("/runs", content=b"--", headers={"Content-Type": "multipart/form-data"})
    assert {broken.status_code, nameless.status_code} == {422}


async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 100_000

    served = site(tmp_path, settings=["http.max_body_mib=1"])
    async with client(served) as http:
        announced = await http.post("/runs", content=b"x" * 2_000_000)
        chunked = await http.post("/runs", content=endless(), headers={"Content-Type": "application/json"})

    assert {announced.status_code, chunked.status_code} == {413}
    assert chunked.json()["code"] == "body_too_large"
    assert chunked.headers["connection"] == "close"
    assert sent <= 12


async def test_one_key_is_one_request(tmp_path: Path) -> None:
    floor = FakeFloor()
    named = {"Idempotency-Key": "k"}

    async with client(site(tmp_path, floor)) as http:
        first = await http.post("/runs", files=ARCHIVE, headers=named)
        repacked = {"archive": ("b.tgz", tar_gz(dict(reversed(BROKEN.items()))))}
        again = await http.post("/runs", files=repacked, headers=named)
        other = await http.post("/runs", files=ARCHIVE, data={"name": "other"}, headers=named)
        unnamed = [await http.post("/runs", files=ARCHIVE) for _ in range(2)]
        strange = await http.post("/runs", files=ARCHIVE, headers={"Idempotency-Key": "a b"})

    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (other.status_code, other.json()["code"], fields(other)) == (
        422,
        "key_reused",
        ["Idempotency-Key"],
    )
    assert len({each.json()["run_id"] for each in (first, *unnamed)}) == 3
    assert (strange.status_code, fields(strange)) == (422, ["Idempotency-Key"])


async def test_two_callers_may_use_the_same_words_as_keys(tmp_path: Path) -> None:
    floor = FakeFloor()
    callers = [KeyFile(tmp_path).create(name)[0] for name in ("one", "two")]

    async with client(site(tmp_path, floor, is_open=False), **{"Idempotency-Key": "k"}) as http:
        ids = [
            (await http.post("/runs", files=ARCHIVE, headers={"Authorization": f"Bearer {key}"})).json()[
                "run_id"
            ]
            for key in [*callers, *callers]
        ]

    assert ids == [ids[0], ids[1], ids[0], ids[1]] and ids[0] != ids[1]


async def test_what_the_log_could_not_keep_in_one_event_is_refused(tmp_path: Path) -> None:
    async with client(site(tmp_path, settings=["model=recorded:add_story"])) as http:
        answer = await http.post("/runs", json={"goal": "x", "inputs": {"a": "\u00e9" * 400_000}})

    assert (answer.status_code, fields(answer)) == (422, ["body"])


@pytest.mark.parametrize(
    ("ours", "serves", "is_open"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", False),
        ("127.0.0.1", None, False),
        ("127.0.0.1", ValueError("no controller"), False),
        ("0.0.0.0", "127.0.0.1", False),
    ],
)
def test_the_door_is_open_only_where_settings_and_serve_say_loopback(
    monkeypatch: pytest.MonkeyPatch, ours: str, serves: Any, is_open: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray.serve

    def get(*_: Any, **__: Any) -> Any:
        if isinstance(serves, Exception):
            raise serves
        return SimpleNamespace(host=serves)

    controller = SimpleNamespace(get_http_config=SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr(ray, "get_actor", lambda *_, **__: controller)
    monkeypatch.setattr(ray, "get", get)

    assert _binds_loopback(config(f"http.host={ours}")) is is_open


async def test_a_full_queue_is_429_and_a_lost_orchestrator_503(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    async with client(site(tmp_path, floor)) as http:
        floor.room = 0
        full = await http.post("/runs", files=ARCHIVE)
        floor.room, floor.lost = 1, True
        lost = [
            await http.post("/runs", files=ARCHIVE),
            *[
                await http.get(path)
                for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/diff", "/fleet")
            ],
            await http.post(f"/runs/{run_id}/cancel"),
        ]
        health, ready = await http.get("/health"), await http.get("/health/ready")

    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    assert {(each.status_code, each.json()["code"]) for each in lost} == {(503, "unavailable")}
    assert all(int(each.headers["retry-after"]) > 0 for each in [full, *lost])
    assert (health.status_code, health.json()["live"], health.json()["ready"]) == (200, True, False)
    assert (ready.status_code, ready.json()["detail"]) == (503, "replica_lost")
    assert floor.submitted == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull("full", "later"), 429),
        (StoreOwned("another factory", "end it"), 503),
        (AgentError("secret traceback", ""), 500),
        (RuntimeError("secret traceback"), 500),
    ],
)
async def test_what_breaks_behind_the_door_is_a_problem_without_its_insides(
    tmp_path: Path, error: Exception, status: int
) -> None:
    async with client(site(tmp_path, FakeFloor(error=error))) as http:
        answer = await http.get("/runs")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


async def test_paths_and_methods_that_are_not_there_are_problems(tmp_path: Path) -> None:
    async with client(site(tmp_path)) as http:
        for path in ("/", "/run", "/runs/", "/api/v1", "/docs", "/runs/r-1/none", "/dashboard/static/app.py"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["instance"]) == (404, path)
        for run_id in ("r-9", "r-", "..%2f", "%00", "r-0000000001x", "a" * 200, "%ff"):
            assert (await http.get(f"/runs/{run_id}")).status_code == 404
        refused = await http.put("/runs")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
        assert (await http.get("/runs?limit=0")).json()["errors"][0]["field"] == "limit"
        assert (await http.get("/runs?status=odd")).json()["errors"][0]["field"].startswith("status")


async def test_a_run_is_known_by_its_whole_id_only(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()

    async with client(site(tmp_path, floor)) as http:
        assert (await http.get(f"/runs/{run_id[:-1]}")).status_code == 404
        assert (await http.get(f"/runs/{run_id}/diff")).json()["code"] == "no_patch"


async def test_lists_are_paged_and_filtered(tmp_path: Path) -> None:
    floor = FakeFloor()
    for number in range(5):
        floor.begin(f"r-{number}")
    floor.end("r-1")

    async with client(site(tmp_path, floor)) as http:
        seen: list[str] = []
        path: str | None = "/runs?limit=2&status=running"
        while path:
            page = (await http.get(path)).json()
            seen += [run["run_id"] for run in page["runs"]]
            path = page["next"]

    assert (seen, page["total"]) == (["r-4", "r-3", "r-2", "r-0"], 4)


async def test_bytes_that_are_no_text_still_arrive(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    floor.patches = {"d" * 64: b"+\xff\n", run_id: b"+\xff\n"}
    floor.end(run_id, diff="d" * 64)

    async with client(site(tmp_path, floor)) as http:
        told = (await http.get(f"/runs/{run_id}")).json()
        assert (told["diff"], b64decode(told["diff_base64"])) == ("+\ufffd\n", b"+\xff\n")
        assert (await http.get(f"/runs/{run_id}/diff")).content == b"+\xff\n"


async def test_a_stream_resumes_after_the_event_last_seen_and_ends_with_the_run(tmp_path: Path) -> None:
    floor = FakeFloor()
    served = site(tmp_path, floor)
    run_id = floor.begin()

    async def later() -> None:
        await asyncio.sleep(0.1)
        assert served.streams_open == 1
        floor.lost = True
        await asyncio.sleep(0.1)
        floor.lost = False
        floor.tell(run_id, Kind.ATTEMPT_STARTED, attempt=1)
        floor.end(run_id)
        floor.tell(run_id, Kind.EFFECT_INTENDED, {"effect": "slack", "key": "k"})

    async with client(served) as http:
        ending = asyncio.create_task(later())
        answer = await http.get(f"/runs/{run_id}/events", headers={**STREAM, "Last-Event-ID": "1"})
        await ending
        over = [
            await http.get(f"/runs/{run_id}/events", headers={**STREAM, "Last-Event-ID": str(seq)})
            for seq in (4, 5, 6, 99)
        ]
        whole = await http.get(f"/runs/{run_id}/events?after=2", headers=STREAM)

    told = list(messages(iter(answer.text.splitlines())))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [(seq, data["seq"]) for seq, data in told] == [(2, 2), (3, 3), (4, 4)]
    assert told[-1][1]["type"] == "run_finished"
    assert ": nothing new" in answer.text and ": the orchestrator restarts" in answer.text
    assert [each.status_code for each in over] == [204] * 4
    assert [seq for seq, _ in messages(iter(whole.text.splitlines()))][:2] == [3, 4]
    assert served.streams_open == 0


async def test_a_stream_of_a_run_taken_up_again_goes_on(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    floor.end(run_id, status="cancelled", reason="cancelled_by_user")
    floor.tell(run_id, Kind.RUN_RESUMED, {"life": "l"})
    floor.end(run_id)

    async with client(site(tmp_path, floor)) as http:
        answer = await http.get(f"/runs/{run_id}/events", headers=STREAM)

    assert [seq for seq, _ in messages(iter(answer.text.splitlines()))] == [1, 2, 3, 4, 5]


async def test_streams_are_bounded_and_a_cursor_is_a_number(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    served = site(tmp_path, floor, settings=["http.max_streams=0"])

    async with client(served) as http:
        full = await http.get(f"/runs/{run_id}/events", headers=STREAM)
        pages = await http.get(f"/runs/{run_id}/events?after=1")
        for cursor in ("x", "-1", "1.5", "9" * 30, "\u0661".encode()):
            wrong = await http.get(f"/runs/{run_id}/events", headers={**STREAM, "Last-Event-ID": cursor})
            assert (wrong.status_code, fields(wrong)) == (422, ["Last-Event-ID"])

    assert (full.status_code, full.json()["code"]) == (503, "too_many_streams")
    assert [event["seq"] for event in pages.json()["events"]] == [2]


def test_serve_is_told_to_hold_all_streams_and_more() -> None:
    with warnings.catch_warnings():
        # Ray declares its fields in pydantic's old way.
        warnings.simplefilter("ignore")
        import ray.serve  # noqa: F401
    loaded = load(settings=["http.max_streams=300", "http.labels=[raysmith.io/pool=control]"], environ={})

    deployment = application(loaded)._bound_deployment

    assert deployment.max_ongoing_requests == 300 + _BESIDE_STREAMS
    assert deployment.ray_actor_options["label_selector"] == {"raysmith.io/pool": "control"}
    assert deployment.ray_actor_options["num_cpus"] == 0


async def test_beyond_loopback_every_route_but_health_needs_a_key(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    text, _ = KeyFile(tmp_path).create("ci")
    served = site(tmp_path, floor, is_open=False)
    routes = [
        (method, route.path.replace("{run_id}", run_id).replace("{name}", "page.css"))
        for route in create_api(served).routes  # type: ignore[attr-defined]
        for method in route.methods or ()
    ]

    async with client(served) as http:
        for method, path in routes:
            answer = await http.request(method, path)
            if path.endswith(("/health", "/health/ready")):
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401, path
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"
            assert answer.headers["www-authenticate"].startswith(
                "Basic" if path.startswith("/dashboard") else "Bearer"
            )
            wrong = await http.request(method, path, headers={"Authorization": f"Bearer {text}x"})
            assert wrong.status_code == 401
        assert (await http.get("/nowhere")).status_code == 401
        known = {"Authorization": f"Bearer {text}"}
        assert (await http.get("/runs", headers=known)).status_code == 200
    assert len(routes) > 20


async def test_a_tenant_s_key_sees_and_makes_its_own_runs_only(tmp_path: Path) -> None:
    floor = FakeFloor()
    mine, other = floor.begin("r-mine", tenant="web"), floor.begin("r-other")
    for run_id in (mine, other):
        floor.patches[run_id] = b"--- a\n+++ b\n"
        tenant = "web" if run_id == mine else "default"
        floor.log.append_blocking([call(run_id, tenant=tenant)])
    web, _ = KeyFile(tmp_path).create("web-ci", "web")
    operator, _ = KeyFile(tmp_path).create("ops")
    served = site(tmp_path, floor, is_open=False)
    below = ["", "/events", "/diff"]

    async with client(served, Authorization=f"Bearer {web}") as http:
        listed = (await http.get("/runs")).json()
        mine_told = [(await http.get(f"/runs/{mine}{path}")).status_code for path in below]
        told = [(await http.get(f"/runs/{other}{path}")).status_code for path in below]
        told += [(await http.get(f"{VERSIONED}/runs/{other}")).status_code]
        told += [(await http.post(f"/runs/{other}/cancel")).status_code]
        pages = ["", "/events", "/diff"]
        told += [(await http.get(f"/dashboard/runs/{other}{path}")).status_code for path in pages]
        dashboard = (await http.get("/dashboard")).text
        refused = [(await http.get(path)).status_code for path in ("/fleet", "/metrics")]
        usage = (await http.get("/usage?by=run")).json()
        accepted = await http.post("/runs", files=ARCHIVE)
    async with client(served, Authorization=f"Bearer {operator}") as http:
        totals = (await http.get("/usage")).json()
        assert (await http.get("/fleet")).status_code == 200
        assert {run["tenant"] for run in (await http.get("/runs")).json()["runs"]} == {"web", "default"}

    assert ([run["run_id"] for run in listed["runs"]], listed["total"]) == ([mine], 1)
    assert mine_told == [200] * 3
    assert set(told) == {404}
    assert floor.cancelled == []
    assert mine in dashboard and other not in dashboard
    assert refused == [403, 403]
    assert [(each["tenant"], each["run_id"], each["cost_usd"]) for each in usage["usage"]] == [
        ("web", mine, 0.1)
    ]
    assert (accepted.status_code, floor.submitted[0][0].tenant) == (202, "web")
    assert ([each["tenant"] for each in totals["usage"]], totals["total"]["requests"]) == (
        ["default", "web"],
        2,
    )


async def test_costs_are_asked_for_by_group_and_day(tmp_path: Path) -> None:
    floor = FakeFloor()
    floor.log.append_blocking([call("r-1"), call("r-1", step="test")])

    async with client(site(tmp_path, floor)) as http:
        steps = (await http.get("/usage?by=step&since=2020-01-01")).json()
        later = (await http.get("/usage?since=2999-01-01")).json()
        wrong = [await http.get(f"/usage?{query}") for query in ("since=soon", "by=colour")]

    assert [(each["step"], each["tokens"]) for each in steps["usage"]] == [
        ("repair", {"prompt": 10, "completion": 2, "cached": 4}),
        ("test", {"prompt": 10, "completion": 2, "cached": 4}),
    ]
    assert (later["usage"], later["total"]["requests"], later["since"]) == ([], 0, "2999-01-01")
    assert [(each.status_code, fields(each)) for each in wrong] == [(422, ["since"]), (422, ["by"])]


async def test_a_browser_may_look_with_a_password_and_change_nothing(tmp_path: Path) -> None:
    text, _ = KeyFile(tmp_path).create("ci")

    async with client(site(tmp_path, is_open=False)) as http:
        assert (await http.get("/dashboard", auth=("me", text))).status_code == 200
        assert (await http.get("/dashboard", auth=("me", "wrong"))).status_code == 401
        assert (await http.get("/runs", auth=("me", text))).status_code == 401
        assert (await http.post("/runs", auth=("me", text), files=ARCHIVE)).status_code == 401


async def test_on_loopback_no_key_is_needed_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    async with client(site(tmp_path)) as http:
        assert (await http.get("/runs")).status_code == 200
        assert (await http.get("/runs", headers={"Authorization": "Bearer x"})).status_code == 401
        for forged in ("X-Forwarded-For", "X-Real-Ip", "Forwarded"):
            assert (await http.get("/runs", headers={forged: "127.0.0.1"})).status_code == 200
    async with client(site(tmp_path, is_open=False)) as http:
        for forged in ("X-Forwarded-For", "X-Real-Ip", "Forwarded"):
            assert (await http.get("/runs", headers={forged: "127.0.0.1"})).status_code == 401


@pytest.mark.parametrize(
    ("host", "is_open", "settings", "status"),
    [
        ("localhost:8000", True, [], 200),
        ("[::1]:8000", True, [], 200),
        ("LOCALHOST", True, [], 200),
        ("evil.example:8000", True, [], 421),
        ("127.0.0.1.evil.example", True, [], 421),
        ("", True, [], 421),
        ("[", True, [], 421),
        ("factory.lan", True, ["http.allowed_hosts=[factory.lan]"], 200),
        ("anything", False, [], 401),
        ("evil.example", False, ["http.allowed_hosts=[factory.lan]"], 421),
        ("factory.lan", False, ["http.allowed_hosts=[factory.lan]"], 401),
    ],
)
async def test_a_name_that_is_not_ours_is_refused(
    tmp_path: Path, host: str, is_open: bool, settings: list[str], status: int
) -> None:
    async with client(site(tmp_path, is_open=is_open, settings=settings)) as http:
        assert (await http.get("/runs", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://127.0.0.1:8000"}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_a_page_of_another_site_makes_no_run(
    tmp_path: Path, headers: Mapping[str, str], status: int
) -> None:
    floor = FakeFloor()

    async with client(site(tmp_path, floor)) as http:
        answer = await http.post("/runs", files=ARCHIVE, headers=headers)
        preflight = await http.options("/runs", headers={"Origin": "https://evil.example"})

    assert (answer.status_code, len(floor.submitted)) == (status, int(status == 202))
    assert not any("access-control" in name for name in [*answer.headers, *preflight.headers])


@pytest.mark.parametrize(
    "settings",
    [
        ["sandbox.minimum=none"],
        ["sandbox.allow_unsandboxed=I-accept-that-generated-code-runs-as-me"],
    ],
)
def test_no_setting_runs_code_unsandboxed_over_http(settings: list[str]) -> None:
    with pytest.raises(TaskError, match="never runs code without a sandbox"):
        refuse_unsandboxed(config(*settings))
    with pytest.raises(TaskError, match="never runs code without a sandbox"):
        application(load(settings=settings, environ={}))


async def test_an_unsandboxed_factory_gets_no_work_over_http(tmp_path: Path) -> None:
    floor = FakeFloor(unsandboxed=True)

    async with client(site(tmp_path, floor)) as http:
        answer = await http.post("/runs", files=ARCHIVE)
        ready = await http.get("/health/ready")

    assert (answer.status_code, answer.json()["code"], floor.submitted) == (503, "unsandboxed", [])
    assert ready.status_code == 503


async def test_metrics_count_by_pattern_and_never_by_name(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()

    async with client(site(tmp_path, floor)) as http:
        for path in (f"/runs/{run_id}", f"{VERSIONED}/runs/{run_id}", "/secret-path", "/runs/r-none"):
            await http.get(path)
        await http.request("BREW", "/runs")
        page = (await http.get("/metrics")).text

    counted = dict(re.findall(r"^raysmith_http_requests_total\{(.*)\} (.*)$", page, re.MULTILINE))
    assert counted['code="200",method="GET",replica="",route="/runs/{run_id}"'] == "2.0"
    assert counted['code="404",method="GET",replica="",route="none"'] == "1.0"
    assert counted['code="405",method="other",replica="",route="/runs"'] == "1.0"
    assert 'raysmith_http_refused_total{reason="not_found",replica=""} 2.0' in page
    assert run_id not in page and "secret" not in page


def problem_codes(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.py"):
        yield from re.findall(r'Problem\(\s*\d+,\s*"(\w+)"', file.read_text())


def test_every_code_that_is_used_has_a_title_and_is_documented() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs/reference/http.md").read_text()

    assert set(problem_codes(root / "serve")) <= set(TITLES)
    assert [code for code in TITLES if f"`{code}`" not in page] == []


async def test_the_openapi_describes_both_bodies_and_every_refusal(tmp_path: Path) -> None:
    async with client(site(tmp_path, is_open=False)) as http:
        text, _ = KeyFile(tmp_path).create("ci")
        document = (await http.get("/openapi.json", headers={"Authorization": f"Bearer {text}"})).json()

    submit = document["paths"]["/runs"]["post"]
    assert set(submit["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"202", "401", "413", "415", "422", "429", "503"} <= set(submit["responses"])
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "HTTPValidationError" not in json.dumps(document)


async def test_a_person_decides_at_a_gate(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    for gate in ("one", "two"):
        floor.tell(run_id, Kind.APPROVAL_ASKED, {"message": "Ship it?"}, step=gate)

    async with client(site(tmp_path, floor)) as http:
        unnamed = await http.post(f"/runs/{run_id}/approve")
        yes = await http.post(f"/runs/{run_id}/approve", json={"node": "one", "why": "fine"})
        again = await http.post(f"/runs/{run_id}/reject", json={"node": "one"})
        no = await http.post(f"/runs/{run_id}/reject")
        absent = await http.post("/runs/r-none/approve")
        wrong = await http.post(f"/runs/{run_id}/approve", json={"nod": "one"})

    assert (unnamed.status_code, "name one or two" in unnamed.json()["next"]) == (422, True)
    assert (yes.status_code, yes.json()["status"]) == (200, "running")
    assert again.status_code == 422 and "approved by http" in again.json()["detail"]
    assert (no.status_code, absent.status_code, wrong.status_code) == (200, 404, 422)
    decided = floor.log.state(run_id).approvals
    assert [(gate.approved, gate.by, gate.why) for gate in decided.values()] == [
        (True, "http", "fine"),
        (False, "http", ""),
    ]


async def test_a_release_is_asked_for_with_its_pull_request(tmp_path: Path) -> None:
    floor = FakeFloor()
    asked = {"graph": "git-to-prod-multi"}

    async with client(site(tmp_path, floor)) as http:
        taken = await http.post("/runs", files=ARCHIVE, data={**asked, "inputs": '{"pr_number": 17}'})
        wrong = await http.post("/runs", files=ARCHIVE, data={**asked, "inputs": '{"pr_number": "many"}'})

    assert taken.status_code == 202 and wrong.status_code == 422
    assert [each["field"] for each in wrong.json()["errors"]] == ["inputs"]
    ((task, _, _),) = floor.submitted
    assert (task.graph, task.inputs) == ("git-to-prod-multi", {"pr_number": 17})


async def test_a_run_is_paused_and_resumed_by_whom_the_key_names(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    async with client(site(tmp_path, floor)) as http:
        paused = await http.post(f"/runs/{run_id}/pause", json={"why": "later", "now": True})
        assert (paused.status_code, paused.json()["run_id"]) == (200, run_id)
        pause = floor.log.state(run_id).pause
        assert pause is not None
        assert (pause.why, pause.now) == ("later", True)

        assert (await http.post(f"/api/v1/runs/{run_id}/resume")).status_code == 200
        assert floor.log.state(run_id).pause is None

        floor.end(run_id)
        refused = await http.post(f"/runs/{run_id}/pause")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")


async def test_another_tenant_s_run_is_steered_by_nobody_else(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin(tenant="theirs")
    served = site(tmp_path, floor, is_open=False)
    secret, _ = KeyFile(tmp_path).create("mine", tenant="ours")
    async with client(served, Authorization=f"Bearer {secret}") as http:
        for method, path, body in (
            ("POST", "pause", {}),
            ("POST", "resume", None),
            ("POST", "retry", {"node": "x"}),
            ("POST", "replay", {"from": "x"}),
            ("GET", "export", None),
            ("GET", f"compare/{run_id}", None),
        ):
            answer = await http.request(method, f"/runs/{run_id}/{path}", json=body)
            assert answer.status_code == 404, path


async def test_a_replay_says_what_is_different(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin(graph="repair")
    floor.tell(run_id, Kind.STEP_DISPATCHED, {"replica": "r"}, step="profile")
    floor.tell(run_id, Kind.STEP_COMPLETED, {"result": None}, step="profile")
    floor.end(run_id, status="failed", reason="attempts_exhausted")
    async with client(site(tmp_path, floor)) as http:
        made = await http.post(
            f"/runs/{run_id}/replay", json={"from": "profile", "set": {"repair.policy.timeout_s": 9}}
        )
        assert made.status_code == 202
        assert made.headers["Location"] == f"/runs/{made.json()['run_id']}"
        ((start, declaration),) = floor.forked
        assert start == "profile"
        assert declaration is not None
        assert declaration["nodes"]["repair"]["policy"]["timeout_s"] == 9

        for body in (
            {"from": "nothing"},
            {},
            {"from": "profile", "set": {"repair.policy.model": "openai:x"}},
        ):
            assert (await http.post(f"/runs/{run_id}/replay", json=body)).status_code == 422
        assert (await http.post(f"/runs/{run_id}/retry", json={"node": "profile"})).status_code == 202
        assert (await http.post(f"/runs/{run_id}/retry", json={"node": "nothing"})).status_code == 422


async def test_a_run_is_taken_along_and_compared(tmp_path: Path) -> None:
    floor = FakeFloor()
    first, second = floor.begin("r-0000000001"), floor.begin("r-0000000002")
    floor.end(first)
    async with client(site(tmp_path, floor)) as http:
        export = await http.get(f"/runs/{first}/export")
        assert (export.headers["Content-Type"], export.content) == (
            "application/zip",
            f"export of {first}".encode(),
        )
        told = (await http.get(f"/runs/{first}/compare/{second}")).json()
        assert (told["runs"], told["equal"]) == ([first, second], False)
        assert (await http.get(f"/runs/{first}/compare/r-nothing")).status_code == 404
