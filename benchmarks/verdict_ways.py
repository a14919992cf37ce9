"""The ways to a verdict on one suite, each of which measures one verdict from end to end."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from docker_pytest import DockerPytest

from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import Profiled, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import judge


@dataclass(slots=True, kw_only=True)
class Cost:
    """Of one verdict; CPU seconds of every process that took part."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


Way = Callable[[], Awaitable[Cost]]


class Ways:
    """Each way is handed a candidate that nobody has tested before, and gives its outcomes back."""

    def __init__(
        self, tree: Tree, profiled: Profiled, python: Path, docker: DockerPytest | None = None
    ) -> None:
        self.tree = tree
        self.python = python
        self.runner = Runner(SandboxSettings())
        self.cold = Runner(SandboxSettings(warm=0))
        self.docker = docker
        self.profile = profiled.profile
        self._edited = next(path for path in tree.files if path not in self.profile.protected)
        self._number = 0

    def all(self) -> dict[str, Way]:
        """The ways that there are here, by name."""
        found: dict[str, Way] = {
            "plain": lambda: asyncio.to_thread(self._plain, {}),
            "plain_no_autoload": lambda: asyncio.to_thread(
                self._plain, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            ),
            "fresh": self.fresh,
            "warm": self.warm,
            "certificate": self.certificate,
        }
        if self.docker is not None:
            found["docker"] = lambda: asyncio.to_thread(self._docker, self.docker)
        return found

    async def fresh(self) -> Cost:
        """pytest in a new bubblewrap sandbox, beside the code as a quick request asks."""
        with measured(children=False) as cost:
            run = await self.cold.test(replace(self._request(), quick=True))
            cost.cpu_s += run.cpu_s
        assert not run.warm, "the runner chose another way"
        assert run.outcomes == self.profile.expected, run.output
        return cost

    async def warm(self) -> Cost:
        """A fork of a warm process, in namespaces of its own."""
        with measured() as cost:
            run = await self.runner.test(replace(self._request(), quick=True))
            cost.cpu_s += run.cpu_s
        assert run.warm, "the runner chose another way"
        assert run.outcomes == self.profile.expected, run.output
        return cost

    async def certificate(self) -> Cost:
        """Two runs side by side in another order, each by the strongest judge that holds for the suite."""
        request = self._request()
        with measured(children=False) as cost:
            runs = await asyncio.gather(
                *(self.runner.test(each) for each in (request, replace(request, seed=2)))
            )
            cost.cpu_s += sum(run.cpu_s for run in runs)
        assert judge(self.profile, runs).certified
        return cost

    async def first(self) -> Cost:
        """The first quick verdict of a runner: the warm process' start and one run."""
        runner = Runner(SandboxSettings())
        await runner.probe()
        try:
            with measured() as cost:
                run = await runner.test(replace(self._request(), quick=True))
                cost.cpu_s += runner.warm_cpu_s()
        finally:
            await runner.cancel_all()
        assert run.warm, "the runner chose another way"
        return cost

    async def close(self) -> None:
        """End the warm processes."""
        await self.runner.cancel_all()
        await self.cold.cancel_all()

    def _plain(self, environment: dict[str, str]) -> Cost:
        with measured() as cost, self._laid_out() as folder:
            done = subprocess.run(
                [str(self.python), "-m", "pytest", "-q"],
                cwd=folder,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        self._check(done.stdout)
        return cost

    def _docker(self, docker: DockerPytest) -> Cost:
        with measured() as cost, self._laid_out() as folder:
            said, inside_s = docker.run(folder)
            cost.cpu_s += inside_s
        self._check(said)
        return cost

    def _check(self, said: str) -> None:
        assert f"{len(self.profile.expected)} passed" in said, said

    def _candidate(self) -> Tree:
        self._number += 1
        file = self.tree.files[self._edited]
        content = file.content + f"\n\ndef added():\n    return {self._number}\n".encode()
        return self.tree.with_files({self._edited: File(content=content)})

    def _request(self) -> TestRequest:
        return TestRequest(
            base=self.tree, candidate=self._candidate(), profile=self.profile, python=str(self.python)
        )

    @contextmanager
    def _laid_out(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder:
            for path, file in self._candidate().files.items():
                place = Path(folder, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.content)
            yield folder


@contextmanager
def measured(*, children: bool = True) -> Iterator[Cost]:
    """Wall and CPU time of this process; with `children`, of those it waited for and that still run.

    What a sandbox or a container counts inside is added by the caller. Without `children` where a sandbox
    ends within: its supervisor has waited for what was counted inside.
    """
    cost = Cost()
    now = _cpu_s if children else time.process_time
    began, cpu_s = time.perf_counter(), now()
    yield cost
    cost.cpu_s += now() - cpu_s
    cost.wall_s = time.perf_counter() - began


def _cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        try:
            living += int(Path(f"/proc/{child}/schedstat").read_text().split()[0])
        except OSError:
            continue
    return time.process_time() + ended.ru_utime + ended.ru_stime + living / 1e9
