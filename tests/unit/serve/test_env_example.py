"""`.env.example` names every variable that is read, and no other."""

from __future__ import annotations

from pathlib import Path

from serve.config import Config, load, variables_beside_settings
from serve.reference import environment_page

FILE = Path(__file__).parents[3] / ".env.example"


def named() -> dict[str, str]:
    """The variables of the file and their values, as if every line were uncommented."""
    lines = [
        line.removeprefix("#") for line in FILE.read_text().splitlines() if line.startswith("#RAYSMITH_")
    ]
    return dict(line.split("=", 1) for line in lines)


def test_it_is_what_the_program_writes() -> None:
    assert FILE.read_text() == environment_page(), "run: python -m serve.reference env > .env.example"


def test_it_names_every_setting_and_every_other_variable_once() -> None:
    names = [
        line[1:].split("=")[0] for line in FILE.read_text().splitlines() if line.startswith("#RAYSMITH_")
    ]
    sections = Config().model_dump(mode="json")
    settings = {
        f"RAYSMITH_{section.upper()}__{name.upper()}"
        for section, values in sections.items()
        if isinstance(values, dict)
        for name in values
    }
    fleet = {f"RAYSMITH_FLEET__0__{name.upper()}" for name in sections["fleet"][0]}
    plain = [name for name, value in sections.items() if value == {} or isinstance(value, str)]
    single = {f"RAYSMITH_{name.upper()}" for name in plain}

    assert len(names) == len(set(names))
    assert set(names) == settings | fleet | single | variables_beside_settings().keys()


def test_every_line_of_it_can_be_uncommented_and_changes_nothing() -> None:
    environ = {name: value for name, value in named().items() if name not in variables_beside_settings()}

    assert load(environ=environ).config == load(environ={}).config


def test_it_holds_no_value_that_is_a_secret() -> None:
    secret = {
        name: value for name, value in named().items() if name.endswith(("TOKEN", "KEY", "KEYS", "URL"))
    }

    assert {name: value for name, value in secret.items() if value and not value.startswith("https://")} == {}
