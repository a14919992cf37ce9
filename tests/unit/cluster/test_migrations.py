from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from event_log_conformance import call, submitted
from sqlalchemy import NullPool, create_engine

from cluster import migrations, schema
from cluster.event_log import open_log, open_reader, stored_epoch
from cluster.event_log_usage import By
from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreError

SETTINGS = StoreSettings()


def at_revision(home: Path, revision: str) -> None:
    connection = sqlite3.connect(home / "events.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_migrations_lead_to_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    open_log(SETTINGS, tmp_path).close()

    engine = create_engine(f"sqlite:///{tmp_path}/events.db", poolclass=NullPool)
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


def test_the_code_knows_every_revision() -> None:
    script = ScriptDirectory.from_config(migrations.config())

    assert script.get_current_head() == schema.HEAD
    assert tuple(each.revision for each in reversed(list(script.walk_revisions()))) == schema.REVISIONS


def test_a_store_is_created_whole_by_whoever_is_first(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            open_log(SETTINGS, tmp_path).close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert stored_epoch(SETTINGS, tmp_path) == 4


def test_a_store_that_a_newer_raysmith_wrote_is_left_alone(tmp_path: Path) -> None:
    with open_log(SETTINGS, tmp_path) as log:
        log.append_blocking([submitted("r-1")])
    at_revision(tmp_path, "0999")

    newer = r"at schema 0999, written by a newer Raysmith.*upgrade Raysmith"
    with pytest.raises(StoreError, match=newer):
        open_log(SETTINGS, tmp_path)
    with open_reader(SETTINGS, tmp_path) as reader, pytest.raises(StoreError, match=newer):
        reader.runs()

    at_revision(tmp_path, schema.HEAD)
    with open_log(SETTINGS, tmp_path) as log:
        assert (log.count(), log.epoch) == (1, 2)


def test_a_reader_does_not_migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_log(SETTINGS, tmp_path).close()
    at_revision(tmp_path, "0000")
    monkeypatch.setattr(schema, "REVISIONS", ("0000", schema.HEAD))

    with (
        open_reader(SETTINGS, tmp_path) as reader,
        pytest.raises(StoreError, match=r"older than this .* start the factory once"),
    ):
        reader.runs()


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "events.db")
    with connection:
        connection.execute("CREATE TABLE shopping (item TEXT)")
    connection.close()

    with pytest.raises(StoreError, match="is not an event log of Raysmith"):
        open_log(SETTINGS, tmp_path)
    with open_reader(SETTINGS, tmp_path) as reader, pytest.raises(StoreError, match="is not an event log"):
        reader.runs()


def test_a_store_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    open_log(SETTINGS, tmp_path).close()
    code = (
        "import sys; from pathlib import Path; from cluster.event_log import open_log\n"
        "from cluster.store_settings import StoreSettings\n"
        "open_log(StoreSettings(), Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_paths_may_hold_any_character(tmp_path: Path) -> None:
    home = tmp_path / "a %s #1?mode=ro &b é"
    home.mkdir()
    with open_log(SETTINGS, home) as log:
        log.append_blocking([submitted("r-1")])
        assert log.count() == 1
    assert {path.name for path in home.iterdir()} == {"events.db"}


def test_costs_of_an_older_store_are_counted_when_it_is_migrated(tmp_path: Path) -> None:
    with open_log(SETTINGS, tmp_path) as log:
        log.append_blocking(
            [call("r-1"), call("r-1", cost_usd=1e300, engine="\ud800"), call("r-2", tenant="a")]
        )
        told = log.usage(By.STEP)
    connection = sqlite3.connect(tmp_path / "events.db")
    with connection:
        connection.execute("DROP TABLE usage")
    connection.close()
    at_revision(tmp_path, "0002")

    with open_log(SETTINGS, tmp_path) as log:
        assert log.usage(By.STEP) == told
        assert log.check().problems == ()
