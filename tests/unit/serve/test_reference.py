"""The reference pages tell what the program does now."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.config import Config, load
from serve.reference import cli_page, configuration_page, graph_schema

PAGES = Path(__file__).parents[3] / "docs/reference"


@pytest.mark.parametrize(
    ("page", "make"),
    [("cli.md", cli_page), ("configuration.md", configuration_page), ("graph.schema.json", graph_schema)],
    ids=["cli", "configuration", "graph.schema"],
)
def test_a_reference_page_is_up_to_date(page: str, make: object) -> None:
    name = page.rpartition(".")[0]

    assert (PAGES / page).read_text() == make(), (
        f"run: python -m serve.reference {name} > docs/reference/{page}"
    )  # type: ignore[operator]


def test_the_configuration_page_names_every_setting() -> None:
    page = configuration_page()
    sections = {
        key: value for key, value in Config().model_dump(mode="json").items() if isinstance(value, dict)
    }

    absent = [
        f"{key}.{name}"
        for key, section in sections.items()
        for name in section
        if f"`{key}.{name}`" not in page
    ]

    assert absent == []


def test_every_example_of_a_setting_on_the_page_works() -> None:
    environ = {"RAYSMITH_BUDGET__ATTEMPTS": "3", "RAYSMITH_FLEET__0__MAX_REPLICAS": "4"}

    loaded = load(settings=["budget.attempts=3", "fleet.0.max_replicas=4"], environ=environ)

    assert loaded.config.budget.attempts == 3
    assert loaded.config.fleet[0].max_replicas == 4
