"""What a completed step's event tells of its model."""

from __future__ import annotations

from actors.prompts import version
from cluster.live_run import _prompts_of
from orchestrator.context import ContextManifest
from orchestrator.steps import Written


def context(template: str) -> ContextManifest:
    return ContextManifest(
        template=template,
        version=version(template) if template else "",
        prompt=1,
        room=None,
        shown=(),
        left_out=(),
    )


def test_each_prompt_is_named_once_with_its_version() -> None:
    written = Written(files={}, contexts=(context("code"), context("code"), context("repository")))

    assert _prompts_of(written) == {
        "prompts": [f"code@{version('code')}", f"repository@{version('repository')}"]
    }


def test_a_step_without_a_model_names_none() -> None:
    assert _prompts_of(Written(files={})) == {}
    assert _prompts_of(object()) == {}


def test_a_version_changes_with_what_the_template_includes() -> None:
    from actors import prompts

    assert "<<<<<<< SEARCH" in prompts._text("repair.jinja")
