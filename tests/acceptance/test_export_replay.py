"""A run of the shell agent behind a real endpoint, taken along as a file and done again without any of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
SECRET = "sk-acceptance-0123456789"
STEPS = (
    "cat tax.py && date",
    "sed -i 's/standrad/standard/' tax.py",
    "echo RAYSMITH_DONE",
)


def act(request: dict[str, Any]) -> Act:
    turn = sum(message["role"] == "assistant" for message in request["messages"])
    return say(f"Next.\n\n```bash\n{STEPS[min(turn, 2)]}\n```")


async def raysmith(folder: Path, home: str, *words: str, key: str = "") -> tuple[int, dict[str, Any]]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "RAYSMITH_HOME": str(folder / home)}
    if key:
        environment["RAYSMITH_ENDPOINT_KEY"] = key
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "raysmith", *words, "--json"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None, err
    return process.returncode, json.loads(out)


async def test_a_shell_agents_run_is_equal_elsewhere_without_its_model(tmp_path: Path) -> None:
    package, file = tmp_path / "package", str(tmp_path / "run.zip")
    package.mkdir()
    (package / "tax.py").write_text(
        "RATES = {'standrad': 0.2}\n\n\ndef rate(n):\n    return RATES.get(n, 1)\n"
    )
    (package / "test_tax.py").write_text(
        "from tax import rate\n\n\ndef test_rate():\n    assert rate('standard') == 0.2\n"
    )
    async with stand_in(by=act) as server:
        model = ("--model", f"{server.url}#m", "--set", "repair.agents=[shell]")
        code, result = await raysmith(tmp_path, "home", "repair", str(package), *model, key=SECRET)
    assert (code, result["reason"]) == (0, "certified"), result

    code, exported = await raysmith(tmp_path, "home", "export", result["run_id"], "--out", file, key=SECRET)
    assert (code, exported["run_id"]) == (0, result["run_id"])
    code, done = await raysmith(tmp_path, "elsewhere", "replay", file, "--rerun-tests")

    assert (code, done["equal"], done["difference"]) == (0, True, None), done
    assert (done["status"], done["verdict"]) == ("succeeded", result["verdict"])
    compared = done["compared"]
    assert (compared["replies"], compared["steps_redone"], compared["steps_taken"]) == (3, 1, 0)
    # The base, the shell agent's own look at its change, and both runs of the certificate.
    assert (compared["tests_rerun"], compared["tests_equal"]) == (4, 4)

    code, refused = await raysmith(tmp_path, "elsewhere", "replay", str(package / "tax.py"))
    assert (code, refused["error"]["code"]) == (2, "export")
