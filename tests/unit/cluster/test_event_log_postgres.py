from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from event_log_conformance import fact, finished, submitted
from postgres_server import Door, PostgresServer, a_schema

from cluster import schema
from cluster.event_log import EventLog, database_of, open_log, open_reader, stored_epoch
from cluster.store_settings import StoreSettings
from orchestrator import failpoints
from orchestrator.errors import StoreError, StoreOwned, TaskError

TESTS = Path(__file__).parents[2]
NOWHERE = Path("/nowhere")


@pytest.fixture(scope="module")
def schemas() -> Iterator[PostgresServer]:
    with a_schema() as server:
        yield server


@pytest.fixture
def server(schemas: PostgresServer) -> Iterator[PostgresServer]:
    yield schemas
    failpoints.arm("")
    schemas.end_sessions()
    schemas.execute(f"DROP SCHEMA IF EXISTS {schemas.schema} CASCADE; CREATE SCHEMA {schemas.schema}")


@pytest.fixture
def log(server: PostgresServer) -> Iterator[EventLog]:
    with open_log(quick(server), NOWHERE) as log:
        yield log


@pytest.fixture
def door(server: PostgresServer) -> Iterator[Door]:
    door = Door(server.parameters["port"])
    yield door
    door.shut()


def quick(server: PostgresServer, *, port: int = 0, patience_s: float = 3.0) -> StoreSettings:
    return StoreSettings(url=server.url(port=port), busy_timeout_s=patience_s)


async def together(log: EventLog, *appends: list) -> list:
    """Append all of them in one transaction: the first keeps the writer busy meanwhile."""
    failpoints.arm("event_log.before_append:sleep=0.1:1")
    ahead = asyncio.create_task(log.append([submitted("r-ahead")]))
    await asyncio.sleep(0.02)
    results = await asyncio.gather(*(log.append(events) for events in appends), return_exceptions=True)
    await asyncio.wait([ahead])
    ahead.exception()
    return results


# -- transactions


async def test_what_waits_is_one_transaction(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = log._writer._driver
    commits = 0

    def commit(real: Callable[[], None] = driver.commit) -> None:
        nonlocal commits
        commits += 1
        real()

    monkeypatch.setattr(driver, "commit", commit)

    await together(log, *([submitted(f"r-{n}")] for n in range(100)))

    assert commits == 2
    assert log.count() == 101
    assert log.run_ids() == ["r-ahead", *(f"r-{n}" for n in range(100))]


async def test_acknowledges_only_after_commit(log: EventLog) -> None:
    failpoints.arm("event_log.before_commit:sleep=0.3")
    waiting = asyncio.create_task(log.append([submitted("r-1")]))
    await asyncio.sleep(0.15)

    assert not waiting.done()
    assert log.events("r-1") == []

    await waiting
    assert len(log.events("r-1")) == 1


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


async def test_one_that_the_database_refuses_does_not_fail_its_neighbours(
    log: EventLog, server: PostgresServer
) -> None:
    server.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE check_violation USING MESSAGE = 'no'; END $$; "
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW "
        "WHEN (NEW.run_id = 'r-bad') EXECUTE FUNCTION refuse()"
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


async def test_a_lock_on_the_owner_s_row_is_told_and_recovered_from(server: PostgresServer) -> None:
    import psycopg

    with open_log(quick(server, patience_s=0.3), NOWHERE) as log:
        await log.append([submitted("r-1")])
        with psycopg.connect(server.url()) as other:
            other.execute("SELECT 1 FROM owner FOR UPDATE")

            with pytest.raises(StoreError, match="stayed locked by another session"):
                await log.append([fact("r-1", n=1)])
        await log.append([fact("r-1", n=2)])

        assert [event.data.get("n") for event in log.events("r-1")] == [None, 2]


def test_synchronous_commit_is_as_configured(server: PostgresServer) -> None:
    def setting(log: EventLog) -> str:
        return log._await(log._job((), work=lambda driver: driver.execute("SHOW synchronous_commit")))[0][0]

    for synchronous, server_s, expected in (
        ("FULL", "on", "on"),
        ("FULL", "off", "on"),
        ("FULL", "remote_apply", "remote_apply"),
        ("NORMAL", "on", "off"),
    ):
        options = f"-csearch_path={server.schema} -csynchronous_commit={server_s}"
        settings = StoreSettings(url=server.url(options=options), synchronous=synchronous)
        with open_log(settings, NOWHERE) as log:
            assert setting(log) == expected


# -- a server that goes away


async def test_a_session_that_the_server_ended_while_idle_is_not_noticed(
    log: EventLog, server: PostgresServer
) -> None:
    await log.append([submitted("r-1")])
    assert server.end_sessions() == 1

    (event,) = await log.append([fact("r-1")])

    assert event.seq == 2
    assert stored_epoch(quick(server), NOWHERE) == log.epoch == 1
    assert log.check().problems == ()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
async def test_a_session_ended_around_the_commit_writes_once(
    log: EventLog, server: PostgresServer, point: str
) -> None:
    await log.append([submitted("r-1")])
    failpoints.arm(f"event_log.{point}:sleep=0.5:1")
    waiting = asyncio.create_task(log.append([fact("r-1", n=1)]))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(server.end_sessions)

    (event,) = await waiting
    await log.append([fact("r-1", n=2)])

    assert event.seq == 2
    assert [each.data.get("n") for each in log.events("r-1")] == [None, 1, 2]
    assert log.events("r-1")[1] == event
    assert log.check().problems == ()


async def test_a_commit_whose_answer_was_lost_is_found_and_acknowledged(
    server: PostgresServer, door: Door
) -> None:
    with open_log(quick(server, port=door.port), NOWHERE) as log:
        await log.append([submitted("r-1")])
        door.swallow = b"COMMIT"

        (event,) = await log.append([fact("r-1", n=1)])
        await log.append([fact("r-1", n=2)])

        assert door.swallow == b""
        assert [each.data.get("n") for each in log.events("r-1")] == [None, 1, 2]
        assert log.events("r-1")[1] == event
        assert log.check().problems == ()


async def test_a_server_that_is_away_for_a_moment_costs_a_moment(server: PostgresServer, door: Door) -> None:
    with open_log(quick(server, port=door.port, patience_s=10.0), NOWHERE) as log:
        acknowledged = []

        async def work(number: int) -> None:
            for n in range(20):
                acknowledged.extend(await log.append([fact(f"r-{number}", n=n)]))
                assert len(await asyncio.to_thread(log.events, f"r-{number}")) == n + 1
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(work(number)) for number in range(10)]
        for _ in range(3):
            await asyncio.sleep(0.3)
            door.shut()
            await asyncio.sleep(0.3)
            door.open()
        await asyncio.gather(*tasks)

        kept = [event for run_id in log.run_ids() for event in log.events(run_id)]
        assert len(kept) == 200
        assert {event.hash for event in kept} == {event.hash for event in acknowledged}
        assert log.check().problems == ()


async def test_a_server_that_stays_away_is_told_and_recovered_from(
    server: PostgresServer, door: Door
) -> None:
    with open_log(quick(server, port=door.port, patience_s=0.3), NOWHERE) as log:
        await log.append([submitted("r-1")])
        door.shut()

        with pytest.raises(StoreError, match=r"PostgreSQL database \w+ at 127.0.0.1:\d+ cannot be reached"):
            await log.append([fact("r-1", n="away")])
        with pytest.raises(StoreError, match=r"cannot be reached .* goes on by itself"):
            log.events("r-1")
        door.open()
        await log.append([fact("r-1", n="back")])

        assert [event.data.get("n") for event in log.events("r-1")] == [None, "back"]
        assert log.check().problems == ()


async def test_when_nobody_can_say_whether_a_commit_landed_that_is_told(
    server: PostgresServer, door: Door
) -> None:
    with open_log(quick(server, port=door.port, patience_s=0.3), NOWHERE) as log:
        await log.append([submitted("r-1")])
        failpoints.arm("event_log.after_commit:sleep=0.3:1,event_log.before_commit:sleep=0.2:1")
        waiting = asyncio.create_task(log.append([fact("r-1", n=1)]))
        await asyncio.sleep(0.1)
        door.shut()

        with pytest.raises(StoreError, match="whether the last events were committed is not known"):
            await waiting
        door.open()
        await log.append([fact("r-1", n=2)])

        assert log.check().problems == ()
        assert log.events("r-1")[-1].data == {"n": 2}


async def test_a_lost_session_that_the_server_still_has_is_ended(server: PostgresServer, door: Door) -> None:
    with open_log(quick(server, port=door.port), NOWHERE) as log:
        await log.append([submitted("r-1")])
        (before,) = server.sessions()
        door.desert()

        (event,) = await log.append([fact("r-1")])

        assert event.seq == 2
        assert before not in server.sessions()
        assert len(server.sessions()) == 1


# -- one owner


def test_an_owner_on_another_machine_is_not_displaced(
    log: EventLog, server: PostgresServer, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreOwned, match=rf"held by raysmith orchestrator {os.getpid()}@.* after 0.4 s"):
        EventLog(quick(server), tmp_path, wait_s=0.4)

    assert 0.3 < time.monotonic() - began < 3
    assert stored_epoch(quick(server), tmp_path) == log.epoch
    log.append_blocking([submitted("r-1")])


def test_a_newcomer_waits_for_a_dying_owner(log: EventLog, server: PostgresServer) -> None:
    threading.Timer(0.3, log.close).start()

    with open_log(quick(server), NOWHERE) as newcomer:
        assert newcomer.epoch == log.epoch + 1


def test_of_many_newcomers_one_at_a_time_owns_a_new_store(server: PostgresServer) -> None:
    epochs: list[int] = []
    failures: list[Exception] = []

    def work() -> None:
        try:
            with open_log(quick(server), NOWHERE) as log:
                log.append_blocking([submitted(f"r-{log.epoch}")])
                epochs.append(log.epoch)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sorted(epochs) == [1, 2, 3, 4, 5]


async def test_who_took_over_while_the_lock_was_lost_fences_the_older_writer(
    log: EventLog, server: PostgresServer
) -> None:
    await log.append([submitted("r-1")])
    server.end_sessions()
    with open_log(quick(server), NOWHERE) as newcomer:
        assert newcomer.epoch == log.epoch + 1

        with pytest.raises(StoreOwned, match="held by raysmith orchestrator"):
            await log.append([fact("r-1", n="old")])
        await newcomer.append([fact("r-1", n="new")])

    with pytest.raises(StoreOwned, match="epoch is 1, but the store was taken over"):
        await log.append([fact("r-1", n="old")])
    assert [event.data.get("n") for event in log.events("r-1")] == [None, "new"]


async def test_a_transaction_under_way_keeps_a_newcomer_s_epoch_waiting(
    log: EventLog, server: PostgresServer
) -> None:
    """The lock is lost in the middle of a transaction, as with a partition: one of the two wins whole."""
    failpoints.arm("event_log.before_commit:sleep=0.4:1")
    waiting = asyncio.create_task(log.append([submitted("r-1")]))
    await asyncio.sleep(0.1)
    server.execute("SELECT 1")  # the first one is in its transaction
    raising = asyncio.create_task(
        asyncio.to_thread(server.execute, "UPDATE owner SET epoch = epoch + 1 RETURNING epoch")
    )

    (event,) = await waiting
    await raising

    assert event.seq == 1
    with pytest.raises(StoreOwned, match="taken over"):
        await log.append([fact("r-1")])
    assert len(log.events("r-1")) == 1


def test_a_home_s_low_epoch_does_not_lock_it_out(server: PostgresServer) -> None:
    for asked, expected in ((7, 7), (1, 8), (None, 9)):
        with open_log(quick(server), NOWHERE, epoch=asked) as log:
            assert log.epoch == expected


@pytest.mark.slow
def test_kill_9_loses_nothing_and_frees_the_store(server: PostgresServer, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    chance = random.Random(15)

    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, TESTS / "event_log_child.py", tmp_path, journal, server.url()],
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.1, 0.4))
            child.send_signal(signal.SIGKILL)

    acknowledged = [line.split() for line in journal.read_text().splitlines()]
    with open_reader(quick(server), tmp_path) as reader:
        kept = {
            (each.run_id, str(each.seq)): each.hash
            for run in reader.runs()
            for each in reader.events(run.run_id)
        }
        assert reader.check().problems == ()
    assert len(acknowledged) > 100
    assert [line for line in acknowledged if kept.get((line[0], line[1])) != line[2]] == []


# -- readers


def test_reading_a_store_that_is_not_there_makes_none(server: PostgresServer) -> None:
    with open_reader(quick(server), NOWHERE) as reader:
        assert reader.runs() == reader.unfinished() == reader.events("r-1") == reader.run_ids() == []
        assert (reader.count(), reader.exists, reader.run("r-1")) == (0, False, None)
        with pytest.raises(TaskError, match="no runs yet; submit a task"):
            reader.find_run("r-1")

    assert stored_epoch(quick(server), NOWHERE) == 0
    assert server.execute("SELECT 1 FROM pg_tables WHERE schemaname = %s", (server.schema,)) == []


def test_a_reader_opened_before_the_store_sees_it_appear(server: PostgresServer) -> None:
    with open_reader(quick(server), NOWHERE) as reader:
        assert reader.runs() == []
        with open_log(quick(server), NOWHERE) as log:
            log.append_blocking([submitted("r-1"), finished("r-1")])
            assert reader.find_run("r") == "r-1"
        assert reader.count() == 1


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
    assert len(log.events("r-1")) == 1
    waiting = [asyncio.create_task(log.append([fact("r-1", n=n)])) for n in range(50)]
    await asyncio.sleep(0)

    def child() -> None:
        seqs = [event.seq for event in log.events("r-1")]
        assert seqs == list(range(1, len(seqs) + 1))
        with pytest.raises(StoreError, match="opened by the parent"):
            log.append_blocking([fact("r-1")])
        log.close()

    assert in_a_fork(child) == 0
    await asyncio.gather(*waiting)
    await log.append([fact("r-1", n="last")])
    assert len(log.events("r-1")) == 52
    assert log.check().problems == ()


# -- what is in the database


def test_migrations_lead_to_the_schema_that_the_code_uses(log: EventLog, server: PostgresServer) -> None:
    engine = database_of(quick(server), NOWHERE).reading()
    with engine.connect() as connection:
        options = {
            "compare_type": True,
            "include_object": lambda _object, name, *_: schema.is_described(name),
        }
        context = MigrationContext.configure(connection, opts=options)
        difference = compare_metadata(context, schema.metadata)
        assert context.get_current_revision() == schema.HEAD
    engine.dispose()

    assert difference == []


def test_a_store_that_a_newer_raysmith_wrote_is_left_alone(server: PostgresServer) -> None:
    with open_log(quick(server), NOWHERE) as log:
        log.append_blocking([submitted("r-1")])
    server.execute("UPDATE alembic_version SET version_num = '0999'")

    with pytest.raises(StoreError, match=r"at schema 0999, written by a newer Raysmith.*upgrade Raysmith"):
        open_log(quick(server), NOWHERE)
    with open_reader(quick(server), NOWHERE) as reader, pytest.raises(StoreError, match="newer Raysmith"):
        reader.runs()

    assert server.sessions() == []


def test_a_database_of_something_else_is_left_alone(server: PostgresServer) -> None:
    server.execute("CREATE TABLE shopping (item TEXT)")

    with pytest.raises(StoreError, match=r"is not an event log of Raysmith; name another `store.url`"):
        open_log(quick(server), NOWHERE)
    with open_reader(quick(server), NOWHERE) as reader, pytest.raises(StoreError, match="not an event log"):
        reader.runs()


def test_a_migration_that_fails_leaves_nothing(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import event_log

    def break_off(connection: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(event_log, "_take_epoch", lambda *_, **__: break_off(None))
    with pytest.raises(RuntimeError):
        open_log(quick(server), NOWHERE)

    assert server.execute("SELECT 1 FROM pg_tables WHERE schemaname = %s", (server.schema,)) == []
    assert server.sessions() == []


# -- what cannot work


def test_a_schema_that_is_not_there_is_told(server: PostgresServer) -> None:
    settings = StoreSettings(url=server.url(options="-csearch_path=nowhere_at_all"))

    with pytest.raises(StoreError, match="no schema to make tables in; create the schema"):
        open_log(settings, NOWHERE)


def test_a_standby_is_not_written_to(server: PostgresServer) -> None:
    options = f"-csearch_path={server.schema} -cdefault_transaction_read_only=on"

    with pytest.raises(StoreError, match=r"cannot be reached .*read-only"):
        open_log(StoreSettings(url=server.url(options=options)), NOWHERE)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/d", "PostgreSQL database d at 127.0.0.1:1 cannot be reached"),
        ("postgresql://nobody:hunter2@127.0.0.1:{port}/test", 'role "nobody" does not exist'),
        ("postgresql://u:hunter2@h:abc/d", "is not a PostgreSQL URL; write postgresql://USER"),
        ("postgresql://u:hunt/er2@h/d", "is not a PostgreSQL URL"),
        ("postgresql://u:hunt@er2@h/d", "cannot be reached|is not a PostgreSQL URL"),
        ("postgresql://u:hunt%zzer2@h/d", "is not a PostgreSQL URL"),
        ("postgresql://u:hunter2@[::1/d", "is not a PostgreSQL URL"),
        ("postgresql://u:hunter2@h/d?nothing=1", "is not a PostgreSQL URL"),
        ("postgresql://u@h/d?password=hunter2&port=1,2", "cannot be reached"),
    ],
)
def test_no_error_tells_the_password(server: PostgresServer, url: str, told: str) -> None:
    settings = StoreSettings(url=url.format(port=server.parameters["port"]), busy_timeout_s=0.1)
    for open_it in (open_log, lambda s, h: open_reader(s, h).runs()):
        with pytest.raises(StoreError, match=told) as caught:
            open_it(settings, NOWHERE)

        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(settings)
        assert not any(part in shown for part in ("hunter2", "hunt", "er2@")), shown
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_nothing_is_logged_of_the_password(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = server.url(password="hunter2")

    with open_log(StoreSettings(url=url), NOWHERE) as log:
        log.append_blocking([submitted("r-1")])
        assert log.count() == 1

    assert "hunter2" not in caplog.text


def test_psycopg_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(StoreError, match=r"psycopg is not installed; pip install 'raysmith\[postgres\]'"):
        open_log(StoreSettings(url="postgresql://u:p@h/d"), NOWHERE)
