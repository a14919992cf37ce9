"""Where the token may stand, and that no message about settings shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import TaskError
from serve.commands.door import factory_settings
from serve.config import load

TOKEN = "xoxb-very-secret-0123456789"


def test_the_token_comes_from_the_environment_and_shows_nowhere() -> None:
    loaded = load(environ={"RAYSMITH_SLACK__TOKEN": TOKEN, "RAYSMITH_SLACK__CHANNEL": "C0123456789"})

    assert loaded.config.slack.token.get_secret_value() == TOKEN
    assert loaded.config.slack.is_on
    assert TOKEN not in repr(loaded) + str(loaded.mapping())


def test_a_token_in_a_file_or_a_flag_is_refused_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"slack: {{token: {TOKEN}}}\n")

    for given in ({"file": file}, {"settings": [f"slack.token={TOKEN}"]}):
        with pytest.raises(TaskError, match="RAYSMITH_SLACK__TOKEN") as caught:
            load(environ={}, **given)  # type: ignore[arg-type]
        assert TOKEN not in str(caught.value)


def test_a_file_that_holds_the_token_switches_it_on() -> None:
    assert load(settings=["slack.token_file=/run/secrets/slack"], environ={}).config.slack.is_on
    assert not load(environ={}).config.slack.is_on


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("slack.channel=#builds", "channel's id"),
        ("slack.base_url=http://slack.example/api/", "https"),
        ("slack.pace_s=-1", "0 or more"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_and_never_with_the_token(setting: str, words: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(settings=[setting], environ={"RAYSMITH_SLACK__TOKEN": TOKEN})

    assert setting.partition("=")[0] in str(caught.value)
    assert words in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_local_stand_in_may_be_asked_without_tls() -> None:
    loaded = load(settings=["slack.base_url=http://127.0.0.1:9/api/"], environ={})

    assert loaded.config.slack.base_url == "http://127.0.0.1:9/api/"


def test_a_factory_has_a_reporter_only_with_a_token() -> None:
    environ = {"RAYSMITH_SLACK__TOKEN": TOKEN, "RAYSMITH_SLACK__CHANNEL": "C0123456789"}

    assert factory_settings(load(environ={})).reporter is None
    settings = factory_settings(load(environ=environ))
    assert settings.reporter is not None
    assert settings.reporter.config["token"] == TOKEN
    assert TOKEN not in repr(settings)
