from __future__ import annotations

import traceback

import pytest

from orchestrator.errors import TaskError
from serve.config import load

URL = "postgresql://raysmith:hunter2@db/raysmith"


@pytest.mark.parametrize("url", [URL, "postgresql://u:hun/ter2@db/d", "postgresql://db/d?password=hunter2"])
@pytest.mark.parametrize(
    ("settings", "environ"),
    [
        ([], {"RAYSMITH_STORE__QUEUE_MIB": "0"}),
        ([], {"RAYSMITH_STORE__QUEUE": "1"}),
        ([], {"RAYSMITH_STORE__SYNCHRONOUS": "OFF"}),
        (["store.url.x=1"], {}),
        (["store=1"], {}),
    ],
)
def test_a_wrong_setting_beside_a_url_does_not_tell_its_password(
    settings: list[str], environ: dict[str, str], url: str
) -> None:
    with pytest.raises(TaskError) as caught:
        load(None, settings, environ={"RAYSMITH_STORE__URL": url, **environ})

    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "ter2" not in shown


def test_a_setting_that_is_no_secret_is_shown() -> None:
    with pytest.raises(TaskError, match=r"`store\.synchronous` is 'OFF'"):
        load(None, ["store.synchronous=OFF"], environ={"RAYSMITH_STORE__URL": URL})
