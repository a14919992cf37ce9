"""Test files that expect something else, to tell what is right from what agrees with everything.

A twin keeps its test's place, name and lines; every `==`, `in` and `assertEqual` expects another value, and
the test fails at its end whatever happens. Under honest code each altered assertion fails and the twin does
too. Where one holds, or the twin passes, the test passes whatever it expects: the two contradict each other.
"""

from __future__ import annotations

import ast
import copy
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import Outcome, TestRun

_EQUAL_METHODS = frozenset(
    {"assertEqual", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual", "assertIn"}
)
_CALLED_METHODS = frozenset(
    {
        *("assert_called_with", "assert_called_once_with", "assert_any_call"),
        *("assert_awaited_with", "assert_awaited_once_with", "assert_any_await"),
    }
)
_PASSED = (Outcome.PASSED, Outcome.XPASSED)
_MOST_TOLD = 5
# What a value that no text shows is replaced by at run time: the same kind, never the same value.
_ALTER = """
def {alter}(value, offset):
    kind = type(value)
    if kind is bool:
        return not value
    if kind in (int, float, complex):
        other = value + {number} + offset
        return other if other != value and other == other else {number} + offset
    if kind in (str, bytes):
        return value + ({text!r} if kind is str else {text!r}.encode())
    if kind in (list, tuple):
        return kind([*value, {text!r}])
    if kind in (set, frozenset):
        return kind({{*value, {text!r}}})
    if kind is dict:
        return {{**value, {text!r}: {number}}}
    return object()

def {plain}(value):
    return type(value) in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """A tree with twins in place of tests; `tests` are the ids, without parameters, that have one."""

    tree: Tree
    tests: frozenset[str]
    token: str


def make(tree: Tree, expected: Iterable[str], *, seed: int) -> Twins:
    """Put a twin in the place of every test that compares with something.

    Args:
        tree: With its test files.
        expected: Ids of the tests that decide.
        seed: Of the values that are expected instead; nobody who wrote the code may know it.
    """
    chance = random.Random(seed)  # noqa: S311 - a value nobody has seen, not a secret
    token = f"twin{chance.getrandbits(64):016x}"
    files: dict[str, File | None] = {}
    twinned: set[str] = set()
    for path, names in _by_file(expected).items():
        file = tree.files.get(path)
        if file is None or file.mode is FileMode.LINK or not path.endswith(".py"):
            continue
        maker = _Maker(names, token, chance)
        text = maker.rewritten(file.content)
        if text is not None and maker.done:
            files[path] = File(content=text.encode(), mode=file.mode)
            twinned |= {f"{path}::{name}" for name in maker.done}
    return Twins(tree=tree.with_files(files), tests=frozenset(twinned), token=token)


def contradictions(twins: Twins, real: TestRun, other: TestRun) -> tuple[str, ...]:
    """In words, the tests that passed although their twin did, or although what it altered held."""
    cases = {case.id: case for case in other.cases}
    found = []
    for test, outcome in real.outcomes.items():
        twin = cases.get(test)
        if outcome not in _PASSED or twin is None or test.partition("[")[0] not in twins.tests:
            continue
        if twin.outcome in _PASSED or f"{twins.token} held" in twin.detail:
            found.append(f"{test} passes whatever it expects: its twin contradicts it")
    return tuple(found[:_MOST_TOLD])


def _by_file(expected: Iterable[str]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for test in expected:
        path, _, name = test.partition("[")[0].partition("::")
        found.setdefault(path, set()).add(name)
    return found


class _Maker(ast.NodeTransformer):
    """Rewrites one file; `done` are the names of the tests that it altered."""

    def __init__(self, names: set[str], token: str, chance: random.Random) -> None:
        self.names, self.token, self.chance = names, token, chance
        self.held = f"_held_{token}"
        self.alter = f"_alter_{token}"
        self.plain = f"_plain_{token}"
        self.done: set[str] = set()
        self.above: list[str] = []
        self.altered = self.number = 0

    def rewritten(self, content: bytes) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = ast.parse(content)
            body = [self._member(node) for node in module.body]
            number, text = self._random(), self._text()
            helper = ast.parse(
                _ALTER.format(alter=self.alter, plain=self.plain, number=number, text=text)
            ).body
            module.body = [*body, *helper]
            return ast.unparse(ast.fix_missing_locations(module)) + "\n"
        except (SyntaxError, ValueError, RecursionError):
            return None

    def _member(self, node: ast.stmt) -> ast.stmt:
        """A class with its tests, a test, or what is neither and stays."""
        if isinstance(node, ast.ClassDef):
            self.above.append(node.name)
            node.body = [self._member(child) for child in node.body]
            self.above.pop()
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = "::".join([*self.above, node.name])
            if name in self.names and not _is_searching(node):
                self._test(node, name)
        return node

    def _test(self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> None:
        before = self.altered
        body = [self.visit(child) for child in node.body]
        if self.altered == before:
            return
        start = ast.parse(f"{self.held} = []").body
        end = ast.parse(f"raise AssertionError('{self.token} ' + ('held' if {self.held} else 'fell'))").body
        node.body = [*start, ast.Try(body=body, handlers=[], orelse=[], finalbody=end)]
        self.done.add(name)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        test = node.test
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return node
        if isinstance(test.ops[0], ast.Eq):
            is_first = _is_literal(test.left) and not _is_literal(test.comparators[0])
        elif isinstance(test.ops[0], ast.In) and _is_text(test.left):
            is_first = True
        else:
            return node

        def altered(offset: int) -> ast.stmt:
            other = copy.deepcopy(test)
            if is_first:
                other.left = self._other(other.left, offset)
            else:
                other.comparators[0] = self._other(other.comparators[0], offset)
            return ast.copy_location(ast.Assert(test=other, msg=node.msg), node)

        return self._tried(altered, test.comparators[0] if is_first else test.left)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            return node
        if any(isinstance(arg, ast.Starred) for arg in call.args):
            return node
        if call.func.attr in _CALLED_METHODS:
            return self._tried(lambda _: self._called_otherwise(node), ast.Constant(0))
        if len(call.args) < 2 or call.func.attr not in _EQUAL_METHODS:
            return node
        is_in = call.func.attr == "assertIn"
        if is_in and not _is_text(call.args[0]):
            return node
        place = 0 if is_in or (_is_literal(call.args[0]) and not _is_literal(call.args[1])) else 1

        def altered(offset: int) -> ast.stmt:
            other = copy.deepcopy(node)
            assert isinstance(other.value, ast.Call)
            other.value.args[place] = self._other(other.value.args[place], offset)
            return other

        return self._tried(altered, call.args[1 - place])

    def _called_otherwise(self, node: ast.Expr) -> ast.stmt:
        """What a mock was called with, and one argument that nobody gave it."""
        other = copy.deepcopy(node)
        assert isinstance(other.value, ast.Call)
        other.value.args.append(ast.Constant(self._text()))
        return other

    def _tried(self, altered: Callable[[int], ast.stmt], actual: ast.expr) -> ast.stmt:
        """An altered assertion, and a note where it held.

        A value of a class of its own may honestly equal one of two neighbours (a residue class, say); a plain
        one may not.
        """
        self.altered += 1
        self.number = self._random()
        note = ast.parse(f"{self.held}.append(1)").body
        plain = ast.Call(func=ast.Name(self.plain, ast.Load()), args=[copy.deepcopy(actual)], keywords=[])
        is_plain = _try([ast.If(test=plain, body=note, orelse=[])], "Exception", [ast.Pass()], [])
        again = _try([altered(1)], "AssertionError", [is_plain], note)
        return _try([altered(0)], "AssertionError", [ast.Pass()], [again])

    def _other(self, node: ast.expr, offset: int) -> ast.expr:
        """Another value of the same kind: in the text where the text shows it, else made at run time."""
        value = ast.literal_eval(node) if _is_literal(node) else None
        number = self.number + offset
        if isinstance(value, int | float) and not isinstance(value, bool):
            # A float may be too large to differ by so little.
            return ast.Constant(value + number if value + number != value else number)
        if isinstance(value, str):
            return ast.Constant(value + self._text())
        given = [node, ast.Constant(offset)]
        return ast.Call(func=ast.Name(self.alter, ast.Load()), args=given, keywords=[])

    def _random(self) -> int:
        return self.chance.randrange(1009, 99_991)

    def _text(self) -> str:
        return f"~{self.chance.getrandbits(40):010x}"


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return True


def _try(body: list[ast.stmt], error: str, instead: list[ast.stmt], after: list[ast.stmt]) -> ast.stmt:
    handler = ast.ExceptHandler(type=ast.Name(error, ast.Load()), name=None, body=instead)
    return ast.Try(body=body, handlers=[handler], orelse=after, finalbody=[])


def _is_text(node: ast.expr) -> bool:
    """A number may well lie in a range with another one beside it; a longer text lies in no text by luck."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _is_searching(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a failure would set off a search for a smaller one (hypothesis)."""
    return any("given" in ast.unparse(mark) for mark in node.decorator_list)
