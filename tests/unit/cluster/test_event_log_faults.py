from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from event_log_conformance import fact, finished, submitted

from cluster.event_log import EventLog, EventReader, open_log, open_reader, stored_epoch
from cluster.store_settings import StoreSettings
from orchestrator import failpoints
from orchestrator.errors import StoreDamaged, StoreError, StoreOwned, TaskError
from orchestrator.events import Event, canonical, chain_hash

QUICK = StoreSettings(busy_timeout_s=0.2)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with open_log(QUICK, tmp_path) as log:
        yield log


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.arm("")


def execute(home: Path, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(home / "events.db")
    with connection:
        connection.execute(statement, parameters)
    connection.close()


async def together(log: EventLog, *appends: list) -> list:
    """Append all of them in one transaction: the first keeps the writer busy meanwhile."""
    failpoints.arm("event_log.before_append:sleep=0.05:1")
    ahead = asyncio.create_task(log.append([submitted("r-ahead")]))
    await asyncio.sleep(0.01)
    results = await asyncio.gather(*(log.append(events) for events in appends), return_exceptions=True)
    await asyncio.wait([ahead])
    ahead.exception()
    return results


async def test_acknowledges_only_after_commit(log: EventLog, tmp_path: Path) -> None:
    failpoints.arm("event_log.before_commit:sleep=0.2")
    waiting = asyncio.create_task(log.append([submitted("r-1")]))
    await asyncio.sleep(0.1)

    assert not waiting.done()
    assert log.events("r-1") == []

    await waiting
    assert len(log.events("r-1")) == 1


async def test_what_waits_is_one_transaction(log: EventLog) -> None:
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    log._await(log._job((), work=lambda driver: driver._connection.set_trace_callback(count)))
    commits = 0

    await together(log, *([submitted(f"r-{n}")] for n in range(30)))

    assert commits == 2
    assert log.count() == 31


@pytest.mark.parametrize("point", ["before_append", "before_commit"])
async def test_goes_on_after_a_failed_transaction(log: EventLog, point: str) -> None:
    await log.append([submitted("r-1")])
    failpoints.arm(f"event_log.{point}:raise:1")

    with pytest.raises(StoreError):
        await log.append([fact("r-1", n=1), submitted("r-2")])
    await log.append([fact("r-1", n=2)])

    assert [event.data.get("n") for event in log.events("r-1")] == [None, 2]
    assert log.run_ids() == ["r-1"]
    assert log.check().problems == ()


async def test_a_lost_answer_to_commit_is_not_a_failure(log: EventLog) -> None:
    failpoints.arm("event_log.after_commit:raise:1")

    (event,) = await log.append([submitted("r-1")])
    await log.append([fact("r-1")])

    assert log.events("r-1")[0] == event
    assert log.check().problems == ()


async def test_one_that_the_database_refuses_does_not_fail_its_neighbours(
    log: EventLog, tmp_path: Path
) -> None:
    execute(
        tmp_path,
        "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.run_id = 'r-bad' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    )

    good, bad, after = await together(
        log,
        [submitted("r-1"), fact("r-1")],
        [fact("r-1", n="lost"), submitted("r-bad")],
        [fact("r-1", n=3)],
    )

    assert isinstance(bad, StoreError)
    assert [event.seq for event in [*good, *after]] == [1, 2, 3]
    assert log.check().problems == ()


async def test_events_that_another_writer_of_its_epoch_wrote_are_gone_on_from(
    log: EventLog, tmp_path: Path
) -> None:
    await log.append([submitted("r-1")])
    with EventLog(QUICK, tmp_path, epoch=log.epoch) as same:
        await same.append([fact("r-1", n=1)])

    (event,) = await log.append([fact("r-1", n=2)])

    assert event.seq == 3
    assert log.check().problems == ()


async def test_a_full_disk_refuses_and_recovers_without_a_restart(log: EventLog) -> None:
    def limit(pages: int) -> None:
        log._await(log._job((), work=lambda driver: driver.execute(f"PRAGMA max_page_count={pages}")))

    await log.append([submitted("r-1")])
    limit(60)
    acknowledged: list[Event] = []
    with pytest.raises(StoreError, match="full; free some space"):
        for n in range(100):
            acknowledged += await log.append([fact("r-1", n=n, blob="x" * 4000)])
    with pytest.raises(StoreError, match="full"):
        await log.append([fact("r-1", blob="x" * 4000)])

    limit(10_000)
    await log.append([fact("r-1", n="after")])

    events = log.events("r-1")
    assert len(acknowledged) > 10
    assert events[1:-1] == acknowledged
    assert events[-1].data == {"n": "after"}
    assert log.check().problems == ()


async def test_a_locked_database_is_told_and_recovered_from(log: EventLog, tmp_path: Path) -> None:
    await log.append([submitted("r-1")])
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    started = time.monotonic()
    results = await together(log, *([fact("r-1", n=n)] for n in range(10)))
    waited_s = time.monotonic() - started
    other.execute("ROLLBACK")
    other.close()
    await log.append([fact("r-1", n="after")])

    assert all("locked by another process" in str(result) for result in results)
    assert waited_s < 2
    assert [event.data.get("n") for event in log.events("r-1")] == [None, "after"]


async def test_a_newcomer_s_epoch_fences_the_older_writer(log: EventLog, tmp_path: Path) -> None:
    await log.append([submitted("r-1")])
    with open_log(QUICK, tmp_path) as newcomer:
        assert newcomer.epoch == log.epoch + 1 == stored_epoch(QUICK, tmp_path)

        with pytest.raises(StoreOwned, match="taken over"):
            await log.append([fact("r-1", n="old")])
        await newcomer.append([fact("r-1", n="new")])
        with pytest.raises(StoreOwned, match="epoch is 1"):
            await log.append([fact("r-1", n="old")])

    with pytest.raises(StoreOwned, match="at epoch 2"):
        open_log(QUICK, tmp_path, epoch=1)
    assert [event.data.get("n") for event in log.events("r-1")] == [None, "new"]


async def test_a_cancelled_append_before_its_transaction_writes_nothing(log: EventLog) -> None:
    failpoints.arm("event_log.before_append:sleep=0.1:1")
    ahead = asyncio.create_task(log.append([submitted("r-1")]))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(log.append([submitted("r-2")]))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await ahead
    await log.append([submitted("r-3")])

    assert log.run_ids() == ["r-1", "r-3"]


async def test_a_full_queue_makes_appends_wait(tmp_path: Path) -> None:
    with open_log(StoreSettings(queue_mib=1), tmp_path) as log:
        failpoints.arm("event_log.before_append:sleep=0.1:1")
        held = 0

        async def work(n: int) -> None:
            nonlocal held
            await log.append([fact(f"r-{n}", blob="x" * 300_000)])

        tasks = [asyncio.create_task(work(n)) for n in range(12)]
        while not all(task.done() for task in tasks):
            held = max(held, log._writer._held)
            await asyncio.sleep(0.002)

        await asyncio.gather(*tasks)
        assert 0 < held <= 2**20
        assert log.count() == 0 + len(log.run_ids()) == 12


async def test_close_commits_what_waits(tmp_path: Path) -> None:
    log = open_log(QUICK, tmp_path)
    failpoints.arm("event_log.before_append:sleep=0.05:1")
    waiting = [asyncio.create_task(log.append([submitted(f"r-{n}")])) for n in range(5)]
    await asyncio.sleep(0.01)
    log.close()

    await asyncio.gather(*waiting)

    with open_reader(QUICK, tmp_path) as reader:
        assert reader.count() == 5


def test_threads_and_loops_share_one_log(log: EventLog) -> None:
    def in_a_loop() -> None:
        async def work() -> None:
            for n in range(20):
                await log.append([fact("r-1", n=n)])

        asyncio.run(work())

    def blocking() -> None:
        for n in range(20):
            log.append_blocking([fact("r-1", n=n)])

    threads = [threading.Thread(target=target) for target in (in_a_loop, blocking, in_a_loop, blocking)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(log.events("r-1")) == 80
    assert log.check().problems == ()


def in_a_fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_reads_while_the_parent_writes(log: EventLog) -> None:
    await log.append([submitted("r-1")])
    waiting = [asyncio.create_task(log.append([fact("r-1", n=n)])) for n in range(50)]
    await asyncio.sleep(0)

    def child() -> None:
        seqs = [event.seq for event in log.events("r-1")]
        assert seqs == list(range(1, len(seqs) + 1))
        log.state("r-1")
        with pytest.raises(StoreError, match="opened by the parent"):
            log.append_blocking([fact("r-1")])
        log.close()

    assert in_a_fork(child) == 0
    await asyncio.gather(*waiting)
    await log.append([fact("r-1", n="last")])
    assert len(log.events("r-1")) == 52
    assert log.check().problems == ()


def test_reading_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    home = tmp_path / "nowhere"

    with open_reader(StoreSettings(), home) as reader:
        assert reader.runs() == reader.unfinished() == reader.events("r-1") == reader.run_ids() == []
        assert (reader.count(), reader.exists, reader.run("r-1")) == (0, False, None)
        assert reader.check().problems == ()
        with pytest.raises(TaskError, match="no runs yet; submit a task"):
            reader.find_run("r-1")
        with pytest.raises(TaskError, match="no runs yet"):
            reader.state("r-1")
    assert stored_epoch(StoreSettings(), home) == 0
    assert not home.exists()


def test_a_reader_opened_before_the_store_sees_it_appear(tmp_path: Path) -> None:
    with open_reader(StoreSettings(), tmp_path) as reader:
        assert reader.runs() == []
        with open_log(QUICK, tmp_path) as log:
            log.append_blocking([submitted("r-1")])
            assert reader.find_run("r") == "r-1"
        assert reader.count() == 1


def test_a_reader_meets_a_store_that_is_being_made(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")

    with open_reader(QUICK, tmp_path) as reader:
        assert reader.runs() == reader.run_ids() == []
        connection.execute("ROLLBACK")
        connection.close()
        with open_log(QUICK, tmp_path) as log:
            log.append_blocking([submitted("r-1")])
            assert reader.count() == 1


def test_reading_from_another_process_while_writing(log: EventLog, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.event_log import open_reader\n"
        "from cluster.store_settings import StoreSettings\n"
        "reader = open_reader(StoreSettings(), Path(sys.argv[1]))\n"
        "while reader.find_by_key('last') is None:\n"
        "    report = reader.check()\n"
        "    assert not report.problems, report.problems\n"
        "    print(report.events, flush=True)"
    )
    log.append_blocking([submitted("r-1")])
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        seen = [int(reading.stdout.readline())]
        for n in range(400):
            log.append_blocking([fact(f"r-{n % 7}", n=n), submitted(f"r-new-{n % 50}")])
        log.append_blocking([submitted("r-last", key="last")])
        seen += map(int, reading.stdout)

    assert reading.returncode == 0
    assert seen == sorted(seen)
    assert 1 <= seen[0] <= seen[-1] <= 802


def test_the_database_is_private(log: EventLog, tmp_path: Path) -> None:
    assert (tmp_path / "events.db").stat().st_mode & 0o077 == 0


DAMAGE = {
    "UPDATE events SET data = replace(data, 'one', '2') WHERE seq = 2": "event 2 of run r-1 is not what was",
    "UPDATE events SET at = '2020-01-01' WHERE seq = 3": "event 3 of run r-1 is not what was hashed",
    "UPDATE events SET prev_hash = '' WHERE seq = 3": "event 3 of run r-1 is not chained",
    "DELETE FROM events WHERE seq = 2": "event 3 of run r-1 comes after 1",
    "DELETE FROM events WHERE seq = 4": "run r-1 was cut off: it ends at event 3, and 4 were written",
    "DELETE FROM events WHERE seq = 1": "run r-1 is listed but its first event is absent",
    "UPDATE events SET data = '{' WHERE seq = 2": "event 2 of run r-1 has data that is not JSON",
    "UPDATE runs SET status = 'failed'": "run r-1 is listed otherwise",
    "DELETE FROM runs": "run r-1 is listed otherwise",
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_a_check_names_the_place_of_damage(log: EventLog, tmp_path: Path, statement: str) -> None:
    log.append_blocking([submitted("r-1"), fact("r-1", x="one"), fact("r-1", x="three"), finished("r-1")])
    assert log.check().problems == ()

    execute(tmp_path, statement)

    assert any(DAMAGE[statement] in problem for problem in log.check().problems)


@pytest.mark.parametrize(
    ("statement", "seq", "loads", "lost"),
    [
        ("UPDATE events SET at = '2020-01-01' WHERE seq = 3", 3, 2, 2),
        ("DELETE FROM events WHERE seq = 2", 2, 1, 3),
        ("DELETE FROM events WHERE seq > 2", 3, 2, 2),
        ("DELETE FROM events", 1, 0, 1),
        ("UPDATE events SET data = '[]' WHERE seq = 1", 1, 0, 4),
        ("UPDATE events SET data = '[]' WHERE seq = 4", 4, 3, 1),
    ],
)
def test_a_check_says_what_is_lost_and_what_still_loads(
    log: EventLog, tmp_path: Path, statement: str, seq: int, loads: int, lost: int
) -> None:
    log.append_blocking([submitted("r-1"), fact("r-1", x="one"), fact("r-1", x="three"), finished("r-1")])
    log.append_blocking([submitted("r-2")])
    execute(tmp_path, f"{statement} {'AND' if 'WHERE' in statement else 'WHERE'} run_id = 'r-1'")

    (damage,) = log.check().damaged

    assert (damage.run_id, damage.seq, damage.loads, damage.lost) == ("r-1", seq, loads, lost)
    assert len(log.events("r-1", limit=loads)) == loads


def test_a_check_names_what_only_a_newer_raysmith_knows(log: EventLog, tmp_path: Path) -> None:
    *_, last = log.append_blocking([submitted("r-1"), fact("r-1", x="one"), fact("r-1", x="two")])
    told = {name: getattr(last, name) for name in Event.__slots__ if name != "hash"}
    digest = chain_hash(**{**told, "version": 7, "data": canonical(last.data)})
    execute(tmp_path, "UPDATE events SET version = 7, hash = ? WHERE seq = 3", digest)

    report = log.check()

    assert "type 'step_progress' version 7, which this Raysmith does not know" in report.problems[0]
    assert [(each.seq, each.loads, each.lost) for each in report.damaged] == [(3, 2, 1)]


def test_a_check_finds_pages_that_are_broken(log: EventLog, tmp_path: Path) -> None:
    log.append_blocking([submitted("r-1"), *(fact("r-1", x="x" * 3000) for _ in range(200))])
    log.close()
    path = tmp_path / "events.db"
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 40_000):
        content[at] = 0xA5
    path.write_bytes(content)

    with EventReader(StoreSettings(), tmp_path) as reader:
        report = reader.check()

    assert report.problems


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM events WHERE seq = 2", "UPDATE events SET prev_hash = 'x' WHERE seq = 2"],
)
def test_a_broken_run_is_not_folded(log: EventLog, tmp_path: Path, statement: str) -> None:
    log.append_blocking([submitted("r-1"), fact("r-1"), fact("r-1")])
    execute(tmp_path, statement)

    with pytest.raises(StoreDamaged, match=r"run r-1 breaks at event \d"):
        log.state("r-1")


@pytest.mark.parametrize("change", ["type = 'run_teleported'", "version = 2"])
def test_what_only_a_newer_raysmith_knows_is_listed_but_not_folded(
    log: EventLog, tmp_path: Path, change: str
) -> None:
    log.append_blocking([submitted("r-1"), fact("r-1", x=1)])
    execute(tmp_path, f"UPDATE events SET {change} WHERE seq = 2")

    assert log.events("r-1")[1].data == {"x": 1}
    assert log.runs()[0].last_seq == 2
    with pytest.raises(StoreError, match=r"'(run_teleported|step_progress)' version [12].*upgrade Raysmith"):
        log.state("r-1")


def test_a_lost_projection_is_made_anew(log: EventLog, tmp_path: Path) -> None:
    log.append_blocking([submitted("r-1"), submitted("r-2"), finished("r-1")])
    before = log.runs()
    execute(tmp_path, "DELETE FROM runs")

    assert log.rebuild_projection() == 2
    assert log.runs() == before

    execute(tmp_path, "DELETE FROM runs")
    with open_log(QUICK, tmp_path) as again:
        again.append_blocking([fact("r-1")])
        assert again.run("r-1") is not None
        assert again.check("r-1").problems == ()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("x" * 5000)

    with pytest.raises(StoreDamaged, match="not a database"):
        open_log(QUICK, tmp_path)
    with open_reader(QUICK, tmp_path) as reader, pytest.raises(StoreDamaged, match="not a database"):
        reader.runs()


def test_a_home_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"events\.db cannot be used"):
        open_log(QUICK, tmp_path / "nowhere")


def test_a_read_only_copy_can_be_read(log: EventLog, tmp_path: Path) -> None:
    log.append_blocking([submitted("r-1")])
    log.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "events.db").write_bytes((tmp_path / "events.db").read_bytes())
    (copy / "events.db").chmod(0o400)
    copy.chmod(0o500)

    with EventReader(StoreSettings(), copy) as reader:
        assert reader.count() == 1
