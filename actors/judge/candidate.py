"""One test of a candidate: the run that shows outcomes, and what tells whether to believe them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from actors.judge import twins
from actors.judge.assemble import Assembled
from actors.judge.suite import Suite, run_suite
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.steps import TestRequest
from orchestrator.verdict import TestRun


async def run_candidate(
    sandbox: Sandbox, layer: Layer, request: TestRequest, assembled: Assembled
) -> TestRun:
    """Run the suite on an assembled candidate, with twins beside its run in the suite's own order.

    Raises:
        SandboxError: The sandbox could not be started or broke.
    """
    profile = request.profile
    suite = Suite(
        arguments=profile.arguments,
        options=profile.options,
        plugins=profile.plugins,
        protected=profile.protected,
        added=frozenset(request.base.changes_to(assembled.tree)) - profile.protected,
        tests=profile.protected & {test.partition("::")[0] for test in profile.expected},
    )
    seed = 0 if profile.fixed_order else request.seed
    real = run_suite(sandbox, layer, assembled.tree, suite, seed=seed, timeout_s=request.timeout_s)
    # The base's own code has nobody to agree with; one run of a certificate's is compared.
    if not suite.added or request.seed:
        return _with_findings((await real).run, assembled)
    made = twins.make(assembled.tree, profile.expected, seed=secrets.randbits(64))
    if not made.tests:
        return _with_findings((await real).run, assembled)
    other = run_suite(sandbox, layer, made.tree, suite, timeout_s=request.timeout_s)
    shown, altered = await asyncio.gather(real, other)
    return _with_findings(shown.run, assembled, twins.contradictions(made, shown.run, altered.run))


def _with_findings(run: TestRun, assembled: Assembled, more: tuple[str, ...] = ()) -> TestRun:
    return replace(run, findings=(*assembled.findings, *more), dropped=assembled.dropped)
