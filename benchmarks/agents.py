"""What one-shot repair and the shell agent cost on planted bugs: replies, tokens, seconds.

    python benchmarks/agents.py [--json] [--files 150] [--context 32768] [--only NAME]

No model is asked. Both ways work with a stand-in that always knows the right edit: at the shell it looks with
the commands that a person would use; in one prompt it mends the file if the prompt shows the mistake, and can
say nothing if not. So the figures tell what each way costs and what reaches the model, not how able it is.
Sandbox, runner and judge are real. A token is four characters; cached tokens are those of the longest prefix
that an earlier prompt of the same work shares, as an engine with prefix caching finds them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from local_runners import tree_of  # noqa: E402
from one_runner import OneRunner  # noqa: E402

from actors.engines.port import Measure, Message, Reply, Sampling  # noqa: E402
from actors.model_repairer import ModelRepairer  # noqa: E402
from actors.runner import Runner  # noqa: E402
from actors.shell.repairer import ShellRepairer  # noqa: E402
from orchestrator.loop import failure_details  # noqa: E402
from orchestrator.steps import ProfileRequest, Repaired, RepairRequest, TestRequest, Usage  # noqa: E402
from orchestrator.tree import Tree  # noqa: E402
from orchestrator.verdict import judge  # noqa: E402

WAYS = ("one_shot", "shell")


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A file with a mistake in it, the test that sees it, and how a person would find it."""

    name: str
    path: str
    good: str
    wrong: str
    right: str
    test: str
    looks: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def mend(self) -> str:
        program = f"import pathlib; p = pathlib.Path({self.path!r}); t = p.read_text()"
        change = f"p.write_text(t.replace({self.wrong!r}, {self.right!r}))"
        return f"python - <<'EOF'\n{program}\n{change}\nEOF\ngit diff --stat"

    def tree(self, files: int) -> Tree:
        assert self.good.count(self.right) == 1
        bad = self.good.replace(self.right, self.wrong)
        return tree_of({**padding(files), **self.files, self.path: bad, "tests/test_bug.py": self.test})


def padding(files: int) -> dict[str, str]:
    """A repository around the bug: modules of about four kilobytes that have nothing to do with it."""
    text = {"app/__init__.py": "", "README.md": "# App\n"}
    for number in range(files):
        lines = [f'"""Part {number}."""\n']
        for item in range(40):
            lines.append(
                f"\ndef part_{number}_{item}(value):\n    return (value + {item}) * {number + 1} - {item}\n"
            )
        text[f"app/part_{number:03}.py"] = "".join(lines)
    return text


HELPERS = "".join(f"\n\ndef helper_{number}(value):\n    return value - {number}\n" for number in range(60))
BUGS = (
    Bug(
        name="traceback",
        path="app/parse.py",
        good='"""Parsing."""\n\n\ndef fields(line):\n    return line.rstrip().split(",")\n' + HELPERS,
        wrong='line.rstrip().splitt(",")',
        right='line.rstrip().split(",")',
        test="from app.parse import fields\n\n\ndef test_fields():\n    assert fields('a,b') == ['a', 'b']\n",
        looks=("python -m pytest -q 2>&1 | tail -n 20",),
    ),
    Bug(
        name="called",
        path="app/ledger.py",
        good='"""Sums."""\n\n\ndef balance(rows):\n    return sum(amount for _, amount in rows)\n' + HELPERS,
        wrong="sum(amount for _, amount in rows[1:])",
        right="sum(amount for _, amount in rows)",
        files={
            "app/report.py": (
                "from app.ledger import balance\n\n\ndef line(rows):\n    return f'{balance(rows)} EUR'\n"
            )
        },
        test=(
            "from app.report import line\n\n\n"
            "def test_line():\n    assert line([('a', 1), ('b', 2)]) == '3 EUR'\n"
        ),
        looks=(
            "python -m pytest -q 2>&1 | tail -n 20",
            "cat app/report.py; grep -n 'def balance' -A 4 app/ledger.py",
        ),
    ),
    Bug(
        name="data",
        path="app/rates.json",
        good=json.dumps(
            {f"rate_{number}": number / 100 for number in range(400)} | {"standard": 0.2}, indent=1
        ),
        wrong='"standrad": 0.2',
        right='"standard": 0.2',
        files={
            "app/tax.py": (
                "import json\nimport pathlib\n\n"
                "RATES = json.loads((pathlib.Path(__file__).parent / 'rates.json').read_text())\n\n\n"
                "def gross(net):\n    return net * (1 + RATES.get('standard', 0))\n"
            )
        },
        test="from app.tax import gross\n\n\ndef test_gross():\n    assert gross(100) == 120\n",
        looks=(
            "python -m pytest -q 2>&1 | tail -n 20",
            "cat app/tax.py; grep -n stand app/rates.json",
        ),
    ),
    Bug(
        name="far",
        path="app/wire.py",
        good='"""Frames."""\n\n\ndef frame(body):\n    return len(body).to_bytes(4, "big") + body\n'
        + HELPERS,
        wrong='to_bytes(4, "little")',
        right='to_bytes(4, "big")',
        files={
            "app/kinds.py": "KINDS = {'frame': 'app.wire:frame'}\n",
            "app/send.py": "import importlib\n\nfrom app.kinds import KINDS\n\n\ndef send(kind, body):\n"
            "    module, name = KINDS[kind].split(':')\n"
            "    return getattr(importlib.import_module(module), name)(body)\n",
        },
        test=(
            "from app.send import send\n\n\n"
            "def test_send():\n    assert send('frame', b'ab')[:4] == b'\\0\\0\\0\\2'\n"
        ),
        looks=(
            "python -m pytest -q 2>&1 | tail -n 20",
            "cat app/send.py app/kinds.py",
            "sed -n '1,20p' app/wire.py",
        ),
    ),
)


class StandIn:
    """An engine that knows the edit; it counts what it is asked."""

    kind = "scripted"

    def __init__(self, bug: Bug, context: int) -> None:
        self.name = f"scripted:{bug.name}"
        self._bug = bug
        self._context = context
        self._seen: list[str] = []

    async def complete(
        self, role: str, messages: Sequence[Message], _sampling: Sampling | None = None
    ) -> Reply:
        text = "".join(message.content for message in messages)
        said = self._at_the_shell(messages) if role == "shell" else self._in_one_prompt(text)
        cached = max((shared(text, seen) for seen in self._seen), default=0)
        self._seen.append(text)
        return Reply(
            text=said,
            usage=Usage(prompt=len(text) // 4, completion=len(said) // 4, cached=cached // 4, requests=1),
        )

    def _at_the_shell(self, messages: Sequence[Message]) -> str:
        steps = (*self._bug.looks, self._bug.mend, "echo RAYSMITH_DONE")
        turn = sum(message.role == "assistant" for message in messages)
        return f"Next.\n\n```bash\n{steps[min(turn, len(steps) - 1)]}\n```"

    def _in_one_prompt(self, text: str) -> str:
        if self._bug.wrong not in text:
            return "The file with the mistake is not here."
        return f"{self._bug.path}\n```\n{self._bug.good}\n```\n"

    async def measure(self, messages: Sequence[Message]) -> Measure:
        return Measure(prompt=sum(len(each.content) for each in messages) // 4, room=self._context)

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...

    def __call__(self, _model: str) -> StandIn:
        return self


def shared(text: str, other: str) -> int:
    """Characters that both begin with."""
    return len(os.path.commonprefix([text, other]))  # noqa: RUF071  # texts, not paths


async def _ignore(news: object) -> None: ...


async def measured(way: str, bug: Bug, runner: Runner, files: int, context: int) -> dict[str, Any]:
    tree = bug.tree(files)
    profiled = await runner.profile(ProfileRequest(tree=tree, timeout_s=120))
    request = RepairRequest(
        base=tree,
        tree=tree,
        profile=profiled.profile,
        failing=profiled.profile.failing,
        details=failure_details([profiled.run]),
        model="m",
        wall_s=300,
        timeout_s=120,
    )
    engine, began = StandIn(bug, context), time.monotonic()
    if way == "shell":
        found = await ShellRepairer(engine).repair(request, OneRunner(runner), _ignore)
    else:
        found = await ModelRepairer(engine).repair(request)
    wall_s = time.monotonic() - began
    usage = found.usage
    return {
        "bug": bug.name,
        "way": way,
        "certified": await certified(found, request, runner),
        "replies": usage.requests,
        "prompt_tokens": usage.prompt,
        "cached_tokens": usage.cached,
        "completion_tokens": usage.completion,
        "wall_s": round(wall_s, 2),
    }


async def certified(found: Repaired, request: RepairRequest, runner: Runner) -> bool:
    if found.best is None:
        return False
    asked = TestRequest(
        base=request.base,
        candidate=request.base.with_files(found.best.changes),
        profile=request.profile,
        timeout_s=120,
    )
    runs = [await runner.test(replace(asked, seed=seed)) for seed in (0, 2)]
    return judge(request.profile, runs).certified


def table(rows: list[dict[str, Any]]) -> None:
    widths = dict.fromkeys(rows[0], 18) | {"bug": 10, "way": 9, "certified": 10, "replies": 8, "wall_s": 8}
    print("".join(f"{name:<{width}}" for name, width in widths.items()))
    for row in rows:
        print("".join(f"{row[name]!s:<{width}}" for name, width in widths.items()))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    flat: dict[str, Any] = {"bugs": len(rows) // len(WAYS)}
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        flat[f"{way}_certified"] = sum(row["certified"] for row in mine)
        for name in ("replies", "prompt_tokens", "cached_tokens", "completion_tokens"):
            flat[f"{way}_{name}"] = sum(row[name] for row in mine)
        flat[f"{way}_wall_s"] = round(sum(row["wall_s"] for row in mine), 2)
    return flat


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--only")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if options.only in (None, bug.name)]
    if not chosen:
        parser.error(
            f"no bug is called {options.only!r}; choose one of {', '.join(bug.name for bug in BUGS)}"
        )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    runner = Runner()
    rows = [
        await measured(way, bug, runner, options.files, options.context) for bug in chosen for way in WAYS
    ]
    figures = {**summary(rows), "files": options.files, "context_tokens": options.context}
    if options.json:
        print(json.dumps(figures))
    else:
        table(rows)
        print(*(f"{name:32} {value}" for name, value in figures.items()), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
