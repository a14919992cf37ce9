"""The pages: what they show, and that nothing in a run becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from http_door import messages
from http_fakes import FakeFloor, client, site

from orchestrator.events import Kind
from serve.dashboard.pages import _coloured

EVIL = '<script>alert("1")</script><img src=x onerror=alert(1)>\'"&'


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def evil_run(floor: FakeFloor) -> str:
    run_id = floor.begin(id=EVIL, goal=EVIL, origin=EVIL)
    floor.tell(run_id, Kind.STEP_DISPATCHED, {"replica": EVIL, "role": EVIL, "method": EVIL}, step=EVIL)
    floor.patches[run_id] = f"diff --git a/{EVIL}\n@@ -1 +1 @@\n-{EVIL}\n+\udcff</pre>\n".encode(
        "utf-8", "surrogateescape"
    )
    verdict = {
        "certified": True,
        "passed": [EVIL],
        "failed": [],
        "judge": EVIL,
        "sandbox_level": EVIL,
    }
    error = {"code": "x", "message": EVIL, "next": EVIL}
    floor.end(run_id, reason=EVIL, verdict=verdict, error=error)
    return run_id


async def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = evil_run(floor)

    async with client(site(tmp_path, floor)) as http:
        pages = [await http.get("/dashboard"), await http.get(f"/dashboard/runs/{run_id}")]

    for page in pages:
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert EVIL not in page.text and "alert(&#34;1&#34;)" in page.text
        for tag, attributes in Tags(page.text).found:
            assert tag not in ("img", "iframe", "style")
            assert not any(name.startswith("on") or name == "style" for name in attributes)
            assert tag != "script" or attributes == {"src": "/dashboard/static/live.js"}


async def test_a_list_links_its_runs_its_filters_and_its_pages(tmp_path: Path) -> None:
    floor = FakeFloor()
    for number in range(60):
        floor.begin(f"r-{number:03}")
    floor.end("r-003")

    async with client(site(tmp_path, floor)) as http:
        first = (await http.get("/dashboard")).text
        second = (await http.get("/dashboard?offset=50")).text
        ended = (await http.get("/dashboard?status=succeeded")).text
        none = (await http.get("/dashboard?status=parked")).text
        wrong = await http.get("/dashboard?status=odd")

    assert 'href="/dashboard/runs/r-059"' in first and 'href="/dashboard?offset=50"' in first
    assert 'href="/dashboard/runs/r-000"' in second and 'href="/dashboard">newer' in second
    assert "51 to 60 of 60" in second
    assert "r-003" in ended and "r-004" not in ended
    assert "No runs are parked" in none
    assert wrong.status_code == 422


async def test_a_running_run_is_followed_from_where_the_page_stands(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()

    async with client(site(tmp_path, floor)) as http:
        live = (await http.get(f"/dashboard/runs/{run_id}")).text
        floor.tell(run_id, Kind.STEP_DISPATCHED, {"replica": "run-01"}, step="profile")
        floor.end(run_id)
        stream = await http.get(f"/dashboard/runs/{run_id}/events?after=2")
        ended = (await http.get(f"/dashboard/runs/{run_id}")).text

    assert f'data-live="/dashboard/runs/{run_id}/events?after=2"' in live and "live.js" in live
    told = list(messages(iter(stream.text.splitlines())))
    assert [(seq, data["type"]) for seq, data in told] == [(3, "step_dispatched"), (4, "run_finished")]
    assert set(told[0][1]) == {"seq", "time", "type", "step", "line"}
    assert 'data-live=""' in ended and "live.js" not in ended


async def test_a_patch_is_shown_and_given_as_a_file(tmp_path: Path) -> None:
    floor = FakeFloor()
    run_id = floor.begin()
    floor.patches[run_id] = b"diff --git a/a b/a\n" + b"@@ -1 +1 @@\n" + b"+x\n" * 3000

    async with client(site(tmp_path, floor)) as http:
        page = (await http.get(f"/dashboard/runs/{run_id}")).text
        file = await http.get(f"/dashboard/runs/{run_id}/diff")

    assert page.count('class="add"') < 2000 and "All of it, as a file" in page
    assert file.content == floor.patches[run_id]
    assert file.headers["content-disposition"] == f'attachment; filename="{run_id}.diff"'


async def test_style_and_script_are_served_and_nothing_else(tmp_path: Path) -> None:
    async with client(site(tmp_path)) as http:
        for name in ("page.css", "live.js"):
            assert (await http.get(f"/dashboard/static/{name}")).status_code == 200
        for name in ("pages.py", "..%2fpages.py", "../templates/run.html"):
            assert (await http.get(f"/dashboard/static/{name}")).status_code == 404


def test_a_removed_line_of_dashes_is_no_header() -> None:
    lines = [
        "diff --git a/a b/a",
        "--- a/a",
        "+++ b/a",
        "@@ -1 +1 @@",
        "--- gone",
        "+++ come",
        "\\ No newline",
    ]

    assert [kind for kind, _ in _coloured(lines)] == ["head", "head", "head", "hunk", "del", "add", "head"]
