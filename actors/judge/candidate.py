"""One test of a candidate: the run that shows outcomes, and what tells whether to believe them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from actors.judge import twins
from actors.judge.assemble import Assembled
from actors.judge.doubts import doubts
from actors.judge.separate import Apart, run_apart
from actors.judge.suite import Suite, run_suite
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.steps import TestRequest
from orchestrator.tree import Tree
from orchestrator.verdict import JudgeKind, TestProfile, TestRun, judge

_CONTRADICTION = "what passes beside the tests does not pass in a process of its own"


async def run_candidate(
    sandbox: Sandbox, layer: Layer, request: TestRequest, assembled: Assembled
) -> TestRun:
    """Test an assembled candidate by the strongest judge that its profile allows.

    What is green in processes apart is believed as it is. What is not is run again in one process, whose
    words are better; when it is green there, either the tests need more than plain data or may do so, and the
    weaker judge's word stands as such, or the two judges contradict each other. A quick request gets one run
    in one process.

    Raises:
        SandboxError: A sandbox could not be started or broke.
    """
    profile = request.profile
    added = frozenset(request.base.changes_to(assembled.tree)) - profile.protected
    suite = Suite(
        arguments=profile.arguments,
        options=profile.options,
        plugins=profile.plugins,
        protected=profile.protected,
        added=added,
        data=frozenset(path for path in added & request.base.files.keys() if not path.endswith(".py")),
        tests=profile.protected & {test.partition("::")[0] for test in profile.expected},
    )
    seed = 0 if profile.fixed_order else request.seed
    where = (sandbox, layer, assembled.tree, suite)
    if request.quick:
        quick = await run_suite(*where, seed=seed, timeout_s=request.timeout_s, preload=profile.may_be_loaded)
        return replace(quick.run, findings=assembled.findings, dropped=assembled.dropped)
    apart: Apart | None = None
    if profile.judge is not JudgeKind.IN_PROCESS:
        apart = await run_apart(*where, seed=seed, timeout_s=request.timeout_s)
        if _is_green(profile, apart.run) and not apart.notes:
            return replace(apart.run, dropped=assembled.dropped)
    run, contradicted = await _beside(*where, request=request, seed=seed)
    more: tuple[str, ...] = ()
    if apart is not None and not _is_explained(apart, assembled.tree, suite) and _is_green(profile, run):
        again = await run_apart(*where, seed=seed, timeout_s=request.timeout_s)
        if _is_green(profile, again.run) and not again.notes:
            # Luck, which the verdict is to see: the run that failed stands.
            return replace(apart.run, dropped=assembled.dropped)
        ordered = await run_apart(*where, timeout_s=request.timeout_s) if seed else again
        # Green in the suite's own order: what tests leave behind for each other differs apart.
        more = () if _is_green(profile, ordered.run) else (_CONTRADICTION,)
    return replace(
        run,
        cpu_s=run.cpu_s + (apart.run.cpu_s if apart else 0.0),
        findings=(*assembled.findings, *more, *contradicted),
        dropped=assembled.dropped,
    )


def _is_explained(apart: Apart, tree: Tree, suite: Suite) -> bool:
    """Whether an honest candidate may have failed apart: then its failure there contradicts nothing."""
    return bool(apart.notes or apart.doubts or doubts(tree, suite.protected))


def _is_green(profile: TestProfile, run: TestRun) -> bool:
    return judge(profile, [run], runs_needed=1).certified


async def _beside(
    sandbox: Sandbox, layer: Layer, tree: Tree, suite: Suite, *, request: TestRequest, seed: int
) -> tuple[TestRun, tuple[str, ...]]:
    """A run with the code in the judge's own interpreter, and what its twins say of it."""
    real = run_suite(sandbox, layer, tree, suite, seed=seed, timeout_s=request.timeout_s)
    # The base's own code has nobody to agree with; one run of a certificate's is compared.
    if not suite.added or request.seed:
        return (await real).run, ()
    made = twins.make(tree, request.profile.expected, seed=secrets.randbits(64))
    if not made.tests:
        return (await real).run, ()
    other = run_suite(sandbox, layer, made.tree, suite, timeout_s=request.timeout_s)
    shown, altered = await asyncio.gather(real, other)
    run = replace(shown.run, cpu_s=shown.run.cpu_s + altered.run.cpu_s)
    return run, twins.contradictions(made, run, altered.run)
