from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store_settings import StoreSettings
from orchestrator.errors import StoreError

HOME = Path("/home/somebody/raysmith")


def test_the_default_is_two_places_in_home() -> None:
    settings = StoreSettings()

    assert settings.database(HOME) == HOME / "events.db"
    assert settings.artifacts_url(HOME) == str(HOME / "artifacts")
    assert settings.node_local


def test_both_can_be_elsewhere() -> None:
    settings = StoreSettings(url="sqlite:////data/e.db", artifacts="gs://bucket/a")

    assert settings.database(HOME) == Path("/data/e.db")
    assert settings.artifacts_url(HOME) == "gs://bucket/a"


@pytest.mark.parametrize(
    ("url", "artifacts", "node_local"),
    [
        ("", "gs://b/a", True),
        ("postgresql://db/raysmith", "", True),
        ("postgresql://db/raysmith", "/mnt/a", True),
        ("postgresql://db/raysmith", "local:///mnt/a", True),
        ("sqlite:////mnt/e.db", "file:///mnt/a", True),
        ("postgresql://db/raysmith", "file:///mnt/a", False),
        ("postgresql://db/raysmith", "memory://a", True),
        ("postgresql://db/raysmith", "gs://b/a", False),
    ],
)
def test_a_file_on_either_side_binds_to_one_machine(url: str, artifacts: str, node_local: bool) -> None:
    assert StoreSettings(url=url, artifacts=artifacts).node_local is node_local


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/d", "sqlite://", "sqlite:///", "sqlite:///:memory:", "x.db"]
)
def test_a_url_that_cannot_be_opened_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(StoreError, match=r"this release cannot open.*sqlite:///PATH") as told:
        StoreSettings(url=url).database(HOME)

    assert "hunter2" not in str(told.value)


def test_a_postgres_url_is_for_its_driver() -> None:
    settings = StoreSettings(url="postgresql://u:hunter2@h/d")

    assert settings.is_postgres
    assert not StoreSettings(url="sqlite:////data/e.db").is_postgres
    assert "hunter2" not in repr(settings)


def test_only_durable_settings_are_taken() -> None:
    with pytest.raises(ValueError, match="'OFF'; use FULL or NORMAL"):
        StoreSettings(synchronous="OFF")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"queue_mib": 0}, {"event_mib": 0}, {"busy_timeout_s": -1.0}])
def test_a_bound_that_lets_nothing_through_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="from 1"):
        StoreSettings(**wrong)  # type: ignore[arg-type]
