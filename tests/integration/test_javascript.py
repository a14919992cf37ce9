"""JavaScript for real: node in the sandbox, and a repair that is found by search."""

from __future__ import annotations

import shutil

import pytest

from actors.languages.javascript_search import JavaScriptRepairer
from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import Improvement, ProfileRequest, RepairRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, judge

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
]
FILES = {
    "package.json": '{"type": "module"}',
    "lib/tax.js": "export const tax = (net) => Math.floor(net * 0.91);\nexport const big = (n) => n > 10;\n",
    "tax.test.js": (
        'import assert from "node:assert/strict";\nimport { test } from "node:test";\n'
        'import { big, tax } from "./lib/tax.js";\n'
        'test("tax", () => assert.equal(tax(100), 91));\ntest("ten is big", () => assert.ok(big(10)));\n'
    ),
}


def tree(**changes: str) -> Tree:
    files = {**FILES, **{name.replace("__", "/") + ".js": text for name, text in changes.items()}}
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


class Session:
    """A warm sandbox of a runner, as the fleet lends it."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.runner, self.name, self.cpu_s = runner, name, 0.0

    async def call(self, method: str, arguments: dict[str, object], timeout_s: float) -> object:
        result, self.cpu_s = await self.runner.call_session(self.name, method, dict(arguments), timeout_s)
        return result


class Pool:
    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def session(self, spec: object) -> Pool:
        self.spec = spec
        return self

    async def __aenter__(self) -> Session:
        self.name = await self.runner.open_session(self.spec)  # type: ignore[arg-type]
        return Session(self.runner, self.name)

    async def __aexit__(self, *_: object) -> None:
        await self.runner.close_session(self.name)


async def test_a_wrong_operator_is_found_and_certified() -> None:
    runner, base, told = Runner(SandboxSettings()), tree(), []
    profile = (await runner.profile(ProfileRequest(tree=base, language="javascript"))).profile
    assert profile.expected == {
        "tax.test.js::tax": Outcome.PASSED,
        "tax.test.js::ten is big": Outcome.FAILED,
    }

    async def progress(news: Improvement) -> None:
        told.append(news.explanation)

    request = RepairRequest(base=base, tree=base, profile=profile, failing=profile.failing, cpu_s=60)
    repaired = await JavaScriptRepairer().repair(request, Pool(runner), progress)  # type: ignore[arg-type]

    assert repaired.best is not None and b"n >= 10" in repaired.best.changes["lib/tax.js"].content  # type: ignore[union-attr]
    assert told == ["lib/tax.js:2: `>=` instead of `>`"]
    candidate = base.with_files(repaired.best.changes)
    runs = [await runner.test(TestRequest(base=base, candidate=candidate, profile=profile)) for _ in range(2)]
    assert judge(profile, runs).certified


async def test_a_candidate_cannot_bring_tests_or_end_them() -> None:
    runner, base = Runner(SandboxSettings()), tree()
    profile = (await runner.profile(ProfileRequest(tree=base, language="javascript"))).profile
    easy = base.with_files({"tax.test.js": File(content=b"")})
    ends = tree(lib__tax="export const tax = 1, big = 2;\nprocess.exit(0);\n")

    without = await runner.test(TestRequest(base=base, candidate=easy, profile=profile))
    ended = await runner.test(TestRequest(base=base, candidate=ends, profile=profile))

    assert without.outcomes["tax.test.js::ten is big"] is Outcome.FAILED
    verdict = judge(profile, [ended, ended])
    assert not verdict.certified and verdict.alarm and verdict.missing
