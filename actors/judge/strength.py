"""How much tests notice: they have to fail on a stub of the code, and on small changes to it."""

from __future__ import annotations

import ast
import asyncio
import random
from collections.abc import Iterator, Mapping

from actors.judge.suite import Suite, run_suite
from actors.sandbox.layer import Layer
from actors.sandbox.port import Sandbox
from orchestrator.steps import StrengthRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Outcome, RunEnd, Strength, TestRun

_AT_ONCE = 2
_COMPARED: Mapping[type, type] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: Mapping[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
}  # fmt: skip


async def measure(sandbox: Sandbox, layer: Layer, request: StrengthRequest) -> Strength:
    """Run the tests on a stub of the code and on mutants of it.

    Raises:
        SandboxError: A sandbox could not be started or broke.
    """
    profile, tree = request.profile, request.tree
    suite = Suite(
        arguments=profile.arguments,
        options=profile.options,
        plugins=profile.plugins,
        protected=profile.protected,
    )
    gate = asyncio.Semaphore(_AT_ONCE)

    async def run(changed: Tree) -> TestRun:
        async with gate:
            return (await run_suite(sandbox, layer, changed, suite, timeout_s=request.timeout_s)).run

    made = mutants(tree, request.code, most=request.mutants, seed=request.seed, names=request.names)
    on_stub, *on_mutants = await asyncio.gather(
        run(stub(tree, request.code)), *(run(mutant) for _, mutant in made)
    )
    passed = {test for test, outcome in on_stub.outcomes.items() if outcome is Outcome.PASSED}
    tests = tuple(profile.expected)
    return Strength(
        tests=len(tests),
        idle=tuple(test for test in tests if test in passed),
        mutants=len(made),
        survivors=tuple(
            where for (where, _), shown in zip(made, on_mutants, strict=True) if _is_unnoticed(shown, tests)
        ),
    )


def _is_unnoticed(run: TestRun, tests: tuple[str, ...]) -> bool:
    told = run.outcomes
    fell = any(told.get(test) in (None, Outcome.FAILED, Outcome.ERROR) for test in tests)
    return run.end is RunEnd.EXITED and run.complete and not fell


def stub(tree: Tree, code: tuple[str, ...]) -> Tree:
    """The tree with every function in `code` returning None at once."""
    files: dict[str, File | None] = {}
    for path, module in _modules(tree, code):
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [ast.Return(value=ast.Constant(None))]
        files[path] = _file(tree, path, module)
    return tree.with_files(files)


def mutants(
    tree: Tree, code: tuple[str, ...], *, most: int, seed: int, names: frozenset[str] = frozenset()
) -> list[tuple[str, Tree]]:
    """At most `most` trees with one small change each, and where it is, chosen by `seed`.

    `names` are the functions and classes to change; where none is there, everything is.
    """
    places = [
        (path, number, line)
        for path, module in _modules(tree, code)
        for number, line in _places(module, names)
    ] or [(path, number, line) for path, module in _modules(tree, code) for number, line in _places(module)]
    chosen = random.Random(seed).sample(places, min(most, len(places)))  # noqa: S311 - a choice, not a secret
    found = []
    for path, number, line in sorted(chosen):
        ((_, module),) = _modules(tree, (path,))
        node = list(ast.walk(module))[number]
        what = _change(node)
        found.append((f"{path}:{line}: {what}", tree.with_files({path: _file(tree, path, module)})))
    return found


def _modules(tree: Tree, code: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    for path in code:
        if path.endswith(".py") and path in tree.files:
            try:
                yield path, ast.parse(tree.files[path].content)
            except (SyntaxError, ValueError, RecursionError):
                continue


def _file(tree: Tree, path: str, module: ast.Module) -> File:
    text = ast.unparse(ast.fix_missing_locations(module)) + "\n"
    return File(content=text.encode(), mode=tree.files[path].mode)


def _places(module: ast.Module, names: frozenset[str] = frozenset()) -> Iterator[tuple[int, int]]:
    """Number in walking order, and line, of every node that can be changed; below `names` where given."""
    inside = {
        id(node)
        for each in ast.walk(module)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and each.name in names
        for node in ast.walk(each)
    }
    documentation = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for number, node in enumerate(ast.walk(module)):
        if names and id(node) not in inside:
            continue
        if id(node) not in documentation and _can_change(node):
            yield number, getattr(node, "lineno", 1)


def _can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in _COMPARED
    if isinstance(node, ast.BinOp):
        return type(node.op) in _COMPUTED
    if isinstance(node, ast.Return):
        return node.value is not None and not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float, bool)
    return isinstance(node, ast.BoolOp | ast.If)


def _change(node: ast.AST) -> str:
    """Change a node in place; what was done, in words."""
    if isinstance(node, ast.Compare):
        node.ops[0] = _COMPARED[type(node.ops[0])]()
        return "compares otherwise"
    if isinstance(node, ast.BinOp):
        node.op = _COMPUTED[type(node.op)]()
        return "computes otherwise"
    if isinstance(node, ast.Return):
        node.value = ast.Constant(None)
        return "returns None"
    if isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
        return f"has {node.value} for a constant"
    if isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return "joins conditions otherwise"
    assert isinstance(node, ast.If)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    return "takes the other branch"
