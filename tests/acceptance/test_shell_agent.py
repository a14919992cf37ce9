"""A package mended by a model at a shell: the command line, Ray, the sandbox, and an endpoint over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import Act, StandIn, say, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.sandbox]

ROOT = Path(__file__).parents[2]
FILES = {
    "shop/__init__.py": "",
    "shop/price.py": (
        "from shop.tax import rate\n\n\ndef gross(net):\n    return net + net * rate('standard')\n"
    ),
    "shop/tax.py": (
        "RATES = {'standrad': 0.2, 'reduced': 0.05}\n\n\n"
        "def rate(name):\n    return RATES.get(name, max(RATES.values()) + 1)\n"
    ),
    "tests/test_price.py": (
        "from shop.price import gross\n\n\ndef test_gross():\n    assert gross(100) == 120\n\n\n"
        "def test_zero():\n    assert gross(0) == 0\n"
    ),
}
STEPS = (
    "grep -rn rate shop",
    "sed -i 's/assert gross(100) == 120/assert gross(100) > 0/' tests/test_price.py && python -m pytest -q",
    "sed -i 's/standrad/standard/' shop/tax.py",
    "echo RAYSMITH_DONE",
)


def at_a_shell(*steps: str) -> Callable[[dict[str, Any]], Act]:
    """A model that follows its script: one command for each of its own earlier turns."""

    def act(request: dict[str, Any]) -> Act:
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        return say(f"Next.\n\n```bash\n{steps[min(turn, len(steps) - 1)]}\n```")

    return act


class House:
    """A folder to mend and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "package"
        for name, text in FILES.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAYSMITH_HOME": str(folder / "home"),
            "RAYSMITH_ENDPOINT_KEY": "none",
        }

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "raysmith", *words),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str) -> tuple[int, str]:
        process = await self.start(*words)
        out, err = await asyncio.wait_for(process.communicate(), 240)
        assert process.returncode is not None, err
        return process.returncode, out.decode()

    def repair(self, server: StandIn) -> tuple[str, ...]:
        shell = ("--set", "repair.agents=[shell]", "--json")
        return ("repair", str(self.path), "--model", f"{server.url}#m", *shell)


def inside(word: str) -> list[int]:
    """Processes of this machine, those in sandboxes included, whose command line holds `word`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if word.encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
    return found


async def until(holds: Callable[[], object], patience_s: float = 150.0) -> None:
    async with asyncio.timeout(patience_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_planted_bug_is_mended_and_every_turn_is_an_event(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with stand_in(by=at_a_shell(*STEPS)) as server:
        code, out = await house.run(*house.repair(server))

    result = json.loads(out)
    assert code == 0, result
    assert (result["reason"], result["repairer"]) == ("certified", "model")
    assert result["files"] == ["shop/tax.py"]
    assert result["tokens"]["prompt"] == 400

    _, told = await house.run("events", result["run_id"], "--json")
    events = json.loads(told)["events"]
    turns = [event["data"] for event in events if "turn" in event["data"]]
    assert [turn["command"] for turn in turns] == [*STEPS[:3], ""]
    assert [turn["failing"] for turn in turns] == [None, None, 0, 0]
    assert "protected" in turns[1]["told"]
    [kept] = [event["data"] for event in events if event["type"] == "patch_kept"]
    assert "shell" in kept["explanation"]
    _, lines = await house.run("events", result["run_id"])
    assert "shell turn 3: sed -i" in lines


async def test_cancelling_ends_a_command_that_runs(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with stand_in(by=at_a_shell(STEPS[2].replace("tax", "price"), "sleep 73911")) as server:
        process = await house.start(*house.repair(server))
        try:
            await until(lambda: inside("73911"))
            process.send_signal(signal.SIGINT)
            out, _ = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()

    assert process.returncode == 130, out
    assert not inside("73911")


async def test_a_killed_factory_leaves_no_sandbox(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with stand_in(by=at_a_shell("sleep 73912")) as server:
        process = await house.start(*house.repair(server))
        try:
            await until(lambda: inside("73912"))
            replicas = inside("ray::Replica")
        finally:
            process.kill()
            await process.wait()

        await until(lambda: not inside("73912") and not inside("/trusted/inside.py"), 60)

    assert replicas


async def test_a_goal_for_a_repository_is_worked_on_at_the_shell(tmp_path: Path) -> None:
    house = House(tmp_path)
    (house.path / "shop/tax.py").write_text(FILES["shop/tax.py"].replace("standrad", "standard"))
    net = "\n\ndef net(gross):\n    return gross / (1 + rate('standard'))\n"
    steps = at_a_shell(
        f"cat >> shop/price.py <<'EOF'{net}EOF\nsed -i 's/120/121/' tests/test_price.py",
        "echo RAYSMITH_DONE",
    )
    tests = "from shop.price import net\n\n\ndef test_net():\n    assert round(net(120), 6) == 100\n"

    def act(request: dict[str, Any]) -> Act:
        if request["messages"][0]["content"].startswith("You work at a shell"):
            return steps(request)
        return say(f"tests/test_net.py\n```python\n{tests}```\n")

    async with stand_in(by=act) as server:
        code, out = await house.run(
            *("run", "Add net(gross) to shop/price.py", "--path", str(house.path)),
            *(
                "--model",
                f"{server.url}#m",
                "--set",
                "shell.code_files=3",
                "--set",
                "agents.plan=never",
                "--json",
            ),
        )

    result = json.loads(out)
    assert code == 0, result
    assert result["reason"] == "certified"
    assert sorted(result["files"]) == ["shop/price.py", "tests/test_net.py"]
    assert set(result["verdict"]["passed"]) == {
        "tests/test_price.py::test_gross",
        "tests/test_price.py::test_zero",
        "tests/test_net.py::test_net",
    }
