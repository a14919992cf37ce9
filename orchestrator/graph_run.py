"""Executes a declared graph: a node starts when its own needs have ended, whatever else still runs.

Like every graph this is executed again from its start after a crash. A node whose end is in the log is
answered from there and never worked on again; the calls of one that was cut off are answered as far as
they had come.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import failpoints
from orchestrator.checkpoints import resources
from orchestrator.codec import from_json, to_json
from orchestrator.declaration import Agent, Approval, Declaration, Node, Policy, RepairLoop, Retry, SubGraph
from orchestrator.errors import RaysmithError, StoreError, TaskError
from orchestrator.events import Status
from orchestrator.graph_check import given_by, inputs_of, needed, valued
from orchestrator.graph_fan import asks_engines, beside, items_of, together
from orchestrator.graph_values import holds, resolved
from orchestrator.loop import Outcome
from orchestrator.node_output import AWAITING, NodeStatus, Output, failed, output_of, skipped
from orchestrator.node_run import NodeRun, Place
from orchestrator.packages import Waits
from orchestrator.patch import Changes
from orchestrator.ports import Run
from orchestrator.purse import Purse
from orchestrator.steps import Allowance, Usage
from orchestrator.tree import Tree

Work = Callable[["Given"], Awaitable[tuple[Outcome, Mapping[str, Any]]]]
FindWork = Callable[[Node], Work]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a work is done with.

    Attributes:
        run: Its node's view of the run; `run.tree` is what the node works on.
        inputs: Its inputs, references resolved.
        on: What the node gave that it works on.
        others: What the nodes that it needs gave, by name.
        base: The tree of the run.
    """

    node: Node
    run: NodeRun
    inputs: Mapping[str, Any]
    on: Output | None
    others: Mapping[str, Output]
    base: Tree


class NodeTimeout(RaysmithError):
    """A node was still worked on at its limit."""

    code = "timeout"


class _Ended(Exception):
    """A node ended in a way that ends the graph."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


async def execute(graph: Declaration, run: Run, find: FindWork) -> Outcome:
    """How `graph` ends on `run`; `find` gives the work of a node that is done by agents.

    Raises:
        RaysmithError: A node failed with it, and its policy is to stop.
    """
    return await GraphRun(graph, run, find, inputs=inputs_of(graph, run.task.inputs)).execute()


class GraphRun:
    """One graph being executed.

    Invariant: a node is started only when every node it needs is in `outputs`, and at most once in a life
    unless it waited for a person.
    """

    def __init__(
        self,
        graph: Declaration,
        run: Run,
        find: FindWork,
        *,
        inputs: Mapping[str, Any],
        above: str = "",
        base: Tree | None = None,
    ) -> None:
        self.graph = graph
        self.run = run
        self.outputs: dict[str, Output] = {}
        self._find = find
        self._inputs = inputs
        self._above = above
        self._base = base or run.tree
        self._needs = {name: needed(node) for name, node in graph.nodes.items()}
        self._beside = beside(graph)
        self._purse = Purse(run.left, run.spent)
        self._shares: dict[str, Allowance] = {}
        # Nodes that were tried in this life, and those that would be tried again.
        self._tried: set[str] = set()
        self._again: set[str] = set()
        self._waiting: set[str] = set()
        self._running: dict[asyncio.Task[Output], str] = {}

    async def execute(self) -> Outcome:
        """Start what can be started until everything has ended, or only people can go on."""
        decided = self.run.decided()
        try:
            while True:
                decided.clear()
                self._start_ready()
                if not self._running:
                    break
                await self._next(decided)
        except _Ended as ended:
            return replace(ended.outcome, usage=self._usage())
        finally:
            await self._cancel_rest()
        return self._outcome()

    def _start_ready(self) -> None:
        running = set(self._running.values())
        for name, needs in self._needs.items():
            if name in self.outputs or name in running or not needs <= self.outputs.keys():
                continue
            if name in self._waiting and not self._may_go_on(name):
                continue
            self._waiting.discard(name)
            if asks_engines(self.graph.nodes[name]):
                self._shares[name] = self._purse.reserve(f"{self._path(name)}/", self._sharers(name))
            task = asyncio.create_task(self._node(name), name=f"{self._above}{name}")
            self._running[task] = name

    def _sharers(self, name: str) -> int:
        """How many nodes may ask engines beside `name`, itself included, and have no share yet."""
        beside = (
            self._beside.get(name, frozenset()) - self.outputs.keys() - self._shares.keys() - self._waiting
        )
        return 1 + len(beside)

    def _may_go_on(self, name: str) -> bool:
        """A gate goes on once it is decided; a graph with gates in it has to look for itself."""
        if isinstance(self.graph.nodes[name], Approval):
            return self.run.decision(self._path(name)) is not None
        return self._looks_again

    _looks_again = False

    async def _next(self, decided: asyncio.Event) -> None:
        """Wait for the end of a node, or, where some wait for people, for a decision."""
        news = asyncio.create_task(decided.wait()) if self._waiting else None
        try:
            done, _ = await asyncio.wait(
                [*self._running, *([news] if news else [])], return_when=asyncio.FIRST_COMPLETED
            )
            self._looks_again = news in done
        finally:
            if news is not None:
                news.cancel()
        ended = {task: self._running.pop(task) for task in list(self._running) if task in done}
        if errors := [error for task in ended if (error := task.exception()) is not None]:
            raise worst(errors)
        for name in ended.values():
            self._shares.pop(name, None)
            self._purse.settle(f"{self._path(name)}/")
        for task, name in ended.items():
            self._take(name, task.result())

    def _take(self, name: str, output: Output) -> None:
        if output.status is NodeStatus.WAITING:
            self._waiting.add(name)
            return
        self.outputs[name] = output
        if output.status is NodeStatus.FAILED and self._stops(name):
            raise _Ended(output.outcome or Outcome(status=Status.FAILED, reason="error"))

    async def _cancel_rest(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running))
            for task in self._running:
                if not task.cancelled():
                    task.exception()  # of a sibling: the first one is told

    def _stops(self, name: str) -> bool:
        return self.graph.nodes[name].policy.on_failure == "stop"

    # ---- one node

    async def _node(self, name: str) -> Output:
        path = self._path(name)
        if self.graph.checkpoints and (kept := await self.run.recall(path)) is not None:
            output: Output = from_json(Output, kept)
            return output
        node = self.graph.nodes[name]
        if not self._is_wanted(node):
            output = skipped()
        else:
            if self.graph.checkpoints:
                await self.run.begin(path)
            failpoints.hit("graph.node_begun")
            output = await self._worked(name, node)
        if self.graph.checkpoints and not self._is_open(name, output):
            await self._end(path, output)
            failpoints.hit("graph.node_ended")
        return output

    def _is_open(self, name: str, output: Output) -> bool:
        """Whether a later life has to look at the node again."""
        fails = output.status is NodeStatus.FAILED and self._stops(name)
        return output.status is NodeStatus.WAITING or fails

    def _is_wanted(self, node: Node) -> bool:
        values = [self.outputs[each] for each in valued(node)]
        if any(each.status is NodeStatus.SKIPPED for each in values):
            return False
        return holds(node.when, self._scope())

    async def _end(self, path: str, output: Output) -> None:
        outcome = output.outcome
        data = {
            "status": str(output.status),
            "reason": outcome.reason if outcome else "",
            "explanation": (outcome.explanation if outcome else "")[:500],
            "files": sorted(outcome.changes) if outcome else [],
            "tokens": {"prompt": output.usage.prompt, "completion": output.usage.completion},
            "resources": resources(output.usage, output.cpu_s),
            "metrics": output.data.get("metrics") or {},
        }
        await self.run.end(path, data, to_json(output))

    async def _worked(self, name: str, node: Node) -> Output:
        """The output of the node's tries; with `continue` an error is one of them."""
        usage = [Usage()]
        try:
            async with asyncio.timeout(node.policy.budget.wall_s) as limit:
                return await self._tries(name, node, usage)
        except TimeoutError:
            if not limit.expired():
                raise
            told = f"{node.policy.budget.wall_s:g} s of wall time are spent (`policy.budget.wall_s`)"
            outcome = Outcome(status=Status.FAILED, reason="budget_exhausted", explanation=told)
            return output_of(replace(outcome, changes=self._kept(self._path(name))), {}, usage[0])
        except (StoreError, _Ended):
            raise
        except RaysmithError as error:
            if self._stops(name):
                raise
            return failed(error, usage[0], self._kept(self._path(name)))

    def _kept(self, path: str) -> Changes:
        """The best patch that a node kept before it was ended."""
        kept = self.run.kept(path)
        return self._base.changes_to(self.run.tree.with_files(kept[0])) if kept else {}

    async def _tries(self, name: str, node: Node, usage: list[Usage]) -> Output:
        retry = node.policy.retry
        for number in range(1, retry.attempts + 1):
            (self._again.add if number < retry.attempts else self._again.discard)(name)
            try:
                return await self._try(name, node, usage)
            except StoreError:
                raise
            except RaysmithError as error:
                if number == retry.attempts or error.code not in retry.errors:
                    raise
                await asyncio.sleep(pause_s(retry, number, f"{self.run.task.id}/{self._path(name)}"))
        raise AssertionError("a node has one try at least")

    async def _try(self, name: str, node: Node, usage: list[Usage]) -> Output:
        limit_s = node.policy.timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._once(name, node, usage)
        except TimeoutError:
            if not limit.expired():
                raise
            raise NodeTimeout(
                f"node {self._path(name)} was still worked on after {limit_s:g} s",
                "raise its `policy.timeout_s`",
            ) from None

    async def _once(self, name: str, node: Node, usage: list[Usage]) -> Output:
        if isinstance(node, Approval):
            return await self._gate(name, node)
        place = self._place(name, node)
        # What tries before this one cost counts against their own budgets.
        before = self.run.spent(place.under) if name in self._tried else Usage()
        self._tried.add(name)
        share = self._shares.get(name)
        if getattr(node, "for_each", None) is not None:
            place = replace(place, prefix="")
            run = NodeRun(
                self.run,
                place,
                node.policy,
                tree=self._tree(node),
                share=self._shares.get(name),
                before=before,
            )
            return await self._fan_out(name, node, usage, run)
        scope = self._scope()
        policy = _resolved_policy(node, scope)
        run = NodeRun(self.run, place, policy, tree=self._tree(node), share=share, before=before)
        return await self._one(name, node, usage, scope, run)

    def _place(self, name: str, node: Node, item: str = "") -> Place:
        path = f"{self._path(name)}{item}"
        is_whole = node.plain_steps or isinstance(node, SubGraph)
        return Place(path=path, prefix="" if is_whole else f"{path}/")

    async def _one(
        self, name: str, node: Node, usage: list[Usage], scope: Mapping[str, Any], run: NodeRun
    ) -> Output:
        """The node, or one item of it, on its own view of the run."""
        if isinstance(node, SubGraph):
            output = await self._sub_graph(node, scope, run)
            usage[0] = usage[0] + output.usage
            return output
        given = Given(
            node=node,
            run=run,
            inputs=resolved(getattr(node, "inputs", {}), scope),
            on=self.outputs[on] if (on := getattr(node, "patch_of", None)) else None,
            others={each: self.outputs[each] for each in self._needs[name]},
            base=self._base,
        )
        try:
            outcome, data = await self._find(node)(given)
        except Waits:
            return output_of(Outcome(status=Status.PARKED, reason=AWAITING), {}, run.usage)
        finally:
            usage[0] = usage[0] + run.usage
        changes = self._base.changes_to(run.tree.with_files(outcome.changes))
        outcome = replace(outcome, changes=changes, repairer=outcome.repairer or _author(given.on))
        return replace(output_of(outcome, data, run.usage), cpu_s=run.cpu_s)

    async def _fan_out(self, name: str, node: Node, usage: list[Usage], whole: NodeRun) -> Output:
        """The node once for each item, side by side; it is done when all are."""
        assert isinstance(node, Agent | RepairLoop | SubGraph)
        items = items_of(name, resolved(node.for_each, self._scope()))
        room = asyncio.Semaphore(node.max_parallel)
        purse, waiting = Purse(whole.left, whole.spent), len(items)

        async def one(number: int, item: Any) -> Output:
            nonlocal waiting
            async with room:
                scope = {**self._scope(), "item": item}
                place = self._place(name, node, f"[{number}]")
                share = purse.reserve(place.under, waiting)
                waiting -= 1
                policy = _resolved_policy(node, scope)
                run = NodeRun(whole, place, policy, tree=self._tree(node), share=share)
                try:
                    return await self._one(name, node, usage, scope, run)
                except StoreError:
                    raise
                except RaysmithError as error:
                    is_tried_again = name in self._again and error.code in node.policy.retry.errors
                    if self._stops(name) or is_tried_again:
                        raise
                    return failed(error, run.usage, self._kept(place.path))
                finally:
                    purse.settle(place.under)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number, item)) for number, item in enumerate(items)]
        except BaseExceptionGroup as several:
            raise worst(several.exceptions) from None
        return together([task.result() for task in tasks])

    async def _sub_graph(self, node: SubGraph, scope: Mapping[str, Any], run: NodeRun) -> Output:
        graph = self.graph.graphs[node.graph]
        inner = GraphRun(
            graph,
            run,
            self._find,
            inputs=inputs_of(graph, resolved(node.inputs, scope)),
            above=run.place.under,
            base=self._base,
        )
        outcome = await inner.execute()
        on = self.outputs[node.patch_of] if node.patch_of else None
        outcome = replace(outcome, repairer=outcome.repairer or _author(on))
        output = output_of(outcome, next((each.data for each in inner.results()), {}), outcome.usage)
        return replace(output, cpu_s=sum(each.cpu_s for each in inner.outputs.values()))

    async def _gate(self, name: str, node: Approval) -> Output:
        path = self._path(name)
        on = self.outputs[node.patch_of] if node.patch_of else None
        decision = self.run.decision(path)
        if decision is None:
            files = sorted(on.outcome.changes) if on and on.outcome else []
            await self.run.ask(path, {"message": node.message, "files": files})
            return output_of(Outcome(status=Status.PARKED, reason=AWAITING), {}, Usage())
        outcome = on.outcome if on and on.outcome else Outcome(status=Status.SUCCEEDED, reason="approved")
        said = {"by": decision.get("by", ""), "why": decision.get("why", "")}
        if not decision["approved"]:
            outcome = replace(outcome, status=Status.FAILED, reason="rejected")
        return output_of(outcome, said, Usage())

    # ---- what nodes are given, and what comes of them

    def _path(self, name: str) -> str:
        return f"{self._above}{name}"

    def _tree(self, node: Node) -> Tree:
        on = getattr(node, "patch_of", None)
        outcome = self.outputs[on].outcome if on else None
        return self._base.with_files(outcome.changes) if outcome else self.run.tree

    def _scope(self) -> dict[str, Any]:
        task = self.run.task
        about = {
            "id": task.id,
            "goal": task.goal or "",
            "model": task.model or "",
            "review": task.agents.review,
            "tests": list(task.tests),
            "protect": list(task.protect),
        }
        return {
            **{name: self._fields(name, output) for name, output in self.outputs.items()},
            "inputs": dict(self._inputs),
            "task": about,
        }

    def _fields(self, name: str, output: Output) -> dict[str, Any]:
        """What `$name` stands for: what a node that was skipped or failed did not give is null."""
        own = dict.fromkeys(given_by(self.graph.nodes[name], self.graph))
        return {**own, **output.fields()}

    def _usage(self) -> Usage:
        return sum((each.usage for each in self.outputs.values()), Usage())

    def _outcome(self) -> Outcome:
        if self._waiting:
            best = next((each.outcome for each in self._latest() if each.outcome), None)
            waits = Outcome(status=Status.PARKED, reason=AWAITING)
            told = replace(best, status=waits.status, reason=waits.reason) if best else waits
            return replace(told, usage=self._usage())
        for output in self.results():
            assert output.outcome is not None
            return replace(output.outcome, usage=self._usage())
        return Outcome(status=Status.SUCCEEDED, reason="nothing_to_do", usage=self._usage())

    def results(self) -> list[Output]:
        """What the nodes gave that may be the result, the first that counts first."""
        found = [self.outputs[name] for name in self.graph.result if name in self.outputs]
        return [each for each in found if each.status is not NodeStatus.SKIPPED and each.outcome is not None]

    def _latest(self) -> list[Output]:
        """What gates that wait were asked about, and then the other outputs, the last first."""
        asked = [getattr(self.graph.nodes[name], "patch_of", None) for name in sorted(self._waiting)]
        return [self.outputs[on] for on in asked if on] + list(self.outputs.values())[::-1]


def worst(errors: Sequence[BaseException]) -> BaseException:
    """The error that is told of several: one of the store before all others, whoever can act on it."""
    return next((each for each in errors if isinstance(each, StoreError)), errors[0])


def _resolved_policy(node: Node, scope: Mapping[str, Any]) -> Policy:
    """The node's policy with the model that it refers to."""
    model = node.policy.model
    if model is None or not model.startswith("$"):
        return node.policy
    found = resolved(model, scope)
    if not isinstance(found, str | None):
        raise TaskError(f"`policy.model` is {model}, which stands for {found!r:.100}", "refer to a text")
    return node.policy.model_copy(update={"model": found})


def _author(on: Output | None) -> str | None:
    """Whose work it stays when a node works on a patch and tells of no author of its own."""
    return on.outcome.repairer if on is not None and on.outcome is not None else None


def pause_s(retry: Retry, number: int, who: str) -> float:
    """Seconds to wait after try `number`; the jitter is drawn from `who`, so that two nodes part."""
    whole = min(retry.longest_s, retry.backoff_s * retry.factor ** (number - 1))
    drawn = int.from_bytes(hashlib.sha256(f"{who}/{number}".encode()).digest()[:4], "big") / 2**32
    return float(whole * (1 - retry.jitter * drawn))
