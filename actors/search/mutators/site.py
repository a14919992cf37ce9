"""One place in a source file, with what is known about it: names in scope, types seen, values in tests."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from actors.search import precedence
from actors.search.inside.text import Span
from actors.search.snapshots import Snapshots
from actors.search.source import Function, Source

BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A proposal: spans of one file, how plausible (0..1), the operator's name, and words for people."""

    spans: tuple[Span, ...]
    weight: float
    kind: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the tests and their failures tell.

    Attributes:
        constants: Literals of the failing tests and their messages, as Python text, most telling first.
        types: Type names seen per function (`path:first line`) and name.
        raises: Exception types that failing tests expect.
        errors: Types and messages of the failing tests' exceptions.
        snapshots: What names held where tests came by, per file and line.
        unraised: Those of `raises` that a failing test waited for in vain.
        differences: Actual and expected text of failing comparisons.
        wanted: Types of the values that failing comparisons expect.
    """

    constants: tuple[str, ...] = ()
    types: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    raises: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    snapshots: Mapping[tuple[str, int], Snapshots] = field(default_factory=dict)
    unraised: tuple[str, ...] = ()
    differences: tuple[tuple[str, str], ...] = ()
    wanted: tuple[str, ...] = ()

    def is_unwanted(self, text: str) -> bool:
        """Whether `text` is a truth value where only other values are expected, as `False` is equal to 0."""
        return text in ("True", "False") and bool(self.wanted) and "bool" not in self.wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names of one function.

    Attributes:
        first: Line of each name's first binding, 0 for parameters, in order of appearance.
        comprehended: Names that only comprehensions bind.
        read: Names that are read anywhere.
    """

    first: Mapping[str, int]
    comprehended: frozenset[str]
    read: frozenset[str]


_FACTS: WeakKeyDictionary[Function, Facts] = WeakKeyDictionary()


def facts_of(source: Source, function: Function | None) -> Facts:
    """`Facts` of `function`, remembered as long as its tree lives."""
    if function is None:
        return Facts(first={}, comprehended=frozenset(), read=frozenset())
    if function not in _FACTS:
        _FACTS[function] = _facts(source, function)
    return _FACTS[function]


def _facts(source: Source, function: Function) -> Facts:
    arguments = function.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    first = {one.arg: 0 for one in every if one is not None and one.arg not in ("self", "cls")}
    inside, outside, read = set[str](), set(first), set[str]()
    names = [node for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)]
    for node in sorted(names, key=lambda node: node.lineno):
        if not isinstance(node.ctx, ast.Store):
            read.add(node.id)
            continue
        first.setdefault(node.id, node.lineno)
        held: ast.AST | None = node
        while held is not None and not isinstance(held, ast.stmt | ast.comprehension):
            held = source.parent(held)
        (inside if isinstance(held, ast.comprehension) else outside).add(node.id)
    return Facts(first=first, comprehended=frozenset(inside - outside), read=frozenset(read))


class Site:
    """A node of a file, its statement and its function, and helpers that write text for it."""

    def __init__(self, source: Source, node: ast.AST, evidence: Evidence) -> None:
        self.source = source
        self.node = node
        self.evidence = evidence
        statement = source.statement_of(node)
        assert statement is not None
        self.statement = statement
        self.function: Function | None = (
            statement if isinstance(statement, Function) else source.function_of(node)
        )

    def at(self, node: ast.AST) -> Site:
        """The same file and evidence at another node."""
        return Site(self.source, node, self.evidence)

    def text(self, node: ast.AST) -> str:
        """The characters of `node`."""
        return self.source.segment(node)

    def put(self, node: ast.AST, text: str) -> Span:
        """A span that replaces expression `node` by `text`, in parentheses where the place needs them."""
        start, end = self.source.span(node)
        if isinstance(node, ast.GeneratorExp) and self.shares_parentheses(node):
            return start, end, f"({text})"
        return start, end, text if self.fits(node, text) else f"({text})"

    def shares_parentheses(self, node: ast.GeneratorExp) -> bool:
        """Whether the parentheses of `node` are those of the call that it is the only argument of."""
        parent = self.source.parent(node)
        if not isinstance(parent, ast.Call):
            return False
        return self.source.span(node)[1] == self.source.span(parent)[1]

    def fits(self, node: ast.AST, text: str) -> bool:
        """Whether `text` can stand where `node` does without parentheses."""
        if self.enclosed(node):
            return True
        parent = self.source.parent(node)
        wanted = precedence.needed(parent, self.source.field(node))
        own = precedence.level_of_text(text)
        if isinstance(parent, ast.Attribute) and text.isdigit():
            return False
        return own >= wanted and "\n" not in text

    def enclosed(self, node: ast.AST) -> bool:
        """Whether `node` stands directly in parentheses of its own."""
        start, end = self.source.span(node)
        before, after = self.source.text[:start].rstrip(), self.source.text[end:].lstrip()
        return before.endswith("(") and after.startswith(")")

    def outer_span(self, node: ast.AST) -> tuple[int, int]:
        """The span of `node` with the parentheses of its own, those of a call around it left out."""
        text = self.source.text
        start, end = self.source.span(node)
        while text[:start].rstrip().endswith("(") and text[end:].lstrip().startswith(")"):
            before = re.search(r"(\w+|[\])'\"}])\s*\(\s*$", text[:start])
            if before is not None and not keyword.iskeyword(before.group(1)):
                break
            start = text.rindex("(", 0, start)
            end = text.index(")", end) + 1
        return start, end

    def wrapped(self, node: ast.AST, level: int) -> str:
        """The text of `node`, in parentheses unless it binds at least as tightly as `level`."""
        text = self.text(node)
        if self.enclosed(node) and precedence.level(node) < precedence.ATOM:
            return f"({text})"
        return text if precedence.level(node) >= level and "\n" not in text else f"({text})"

    # -- names and types --------------------------------------------------------

    def types(self, name: str) -> tuple[str, ...]:
        """Types that `name` was seen with in this function; empty for unknown."""
        return tuple(self.evidence.types.get(f"{self.source.path}:{self._first_line()}", {}).get(name, ()))

    def _first_line(self) -> int:
        if self.function is None:
            return 0
        return min([self.function.lineno, *(item.lineno for item in self.function.decorator_list)])

    def parameters(self) -> list[str]:
        """Parameters of the function, without self and cls."""
        if self.function is None:
            return []
        arguments = self.function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        return [argument.arg for argument in every if argument.arg not in ("self", "cls")]

    @property
    def facts(self) -> Facts:
        """Names of the function, counted once per function."""
        return facts_of(self.source, self.function)

    def locals(self) -> list[str]:
        """Parameters and names the function assigns, in order of appearance."""
        return list(self.facts.first)

    def visible(self) -> list[str]:
        """Locals bound before this place or in a loop around it."""
        if self.function is None:
            return []
        line = getattr(self.node, "lineno", self.statement.lineno)
        loop = self.outermost_loop()
        limit = (loop.end_lineno or line) if loop is not None else line
        hidden = self.facts.comprehended - self._comprehension_names()
        return [name for name, first in self.facts.first.items() if first <= limit and name not in hidden]

    def _comprehension_names(self) -> set[str]:
        names: set[str] = set()
        current = self.source.parent(self.node)
        while current is not None and not isinstance(current, ast.stmt):
            for generator in getattr(current, "generators", ()):
                names |= {part.id for part in ast.walk(generator.target) if isinstance(part, ast.Name)}
            if isinstance(current, ast.Lambda):
                names |= {argument.arg for argument in current.args.args}
            current = self.source.parent(current)
        return names

    def outermost_loop(self) -> ast.stmt | None:
        """The outermost loop around the place, within its function."""
        found: ast.stmt | None = None
        current = self.source.parent(self.node)
        while current is not None and current is not self.function:
            if isinstance(current, ast.For | ast.While | ast.AsyncFor):
                found = current
            current = self.source.parent(current)
        return found

    def in_loop(self) -> bool:
        """Whether a loop of the function surrounds the place."""
        return self.outermost_loop() is not None

    def attributes(self) -> list[str]:
        """Attributes and methods of `self` named anywhere in the class around."""
        holder = self.source.class_of(self.node)
        found: dict[str, None] = {}
        for node in ast.walk(holder) if holder else ():
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                found.setdefault(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if self.source.parent(node) is holder:
                    found.setdefault(node.target.id)
            elif isinstance(node, Function) and self.source.parent(node) is holder:
                found.setdefault(node.name)
        return list(found)

    @property
    def snapshots(self) -> Snapshots | None:
        """What names held when tests came to the statement; None where none was noted."""
        return self.evidence.snapshots.get((self.source.path, self.statement.lineno))

    def held(self) -> list[str]:
        """Attributes of `self` that were seen to hold values, as `self.x`."""
        first = self._first_line()
        names = self.evidence.types.get(f"{self.source.path}:{first}", {})
        return [name for name in names if name.startswith("self.")]

    def used(self, name: str) -> bool:
        """Whether the function reads `name` anywhere."""
        return name in self.facts.read

    def guess(self, node: ast.AST) -> str:  # noqa: PLR0911, PLR0912 - a table by node
        """The type of an expression where that is plain to see, else an empty string."""
        match node:
            case ast.Constant(value=value):
                return type(value).__name__
            case ast.Name(id=name):
                seen = self.types(name)
                return seen[0] if len(seen) == 1 else ""
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return "bool"
            case ast.UnaryOp(operand=operand):
                return self.guess(operand)
            case ast.JoinedStr():
                return "str"
            case ast.List() | ast.ListComp():
                return "list"
            case ast.Dict() | ast.DictComp():
                return "dict"
            case ast.Set() | ast.SetComp():
                return "set"
            case ast.Tuple():
                return "tuple"
            case ast.BoolOp(values=values):
                kinds = {self.guess(value) for value in values}
                return kinds.pop() if len(kinds) == 1 else ""
            case ast.Call(func=func):
                return self._guess_call(func)
            case ast.BinOp(left=left, right=right, op=op):
                return self._guess_binary(self.guess(left), self.guess(right), op)
            case ast.Subscript(value=value, slice=ast.Slice()):
                return self.guess(value)
            case ast.Subscript(value=value):
                return "str" if self.guess(value) == "str" else ""
            case ast.IfExp(body=body):
                return self.guess(body)
        return ""

    def _guess_call(self, func: ast.expr) -> str:
        name = func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""
        for kind, names in _RETURNS.items():
            if name in names:
                return kind
        return ""

    def _guess_binary(self, left: str, right: str, op: ast.operator) -> str:
        if isinstance(op, ast.Div) and {left, right} <= {"int", "float", ""}:
            return "float" if left or right else ""
        if "float" in (left, right) and {left, right} <= {"int", "float", ""}:
            return "float"
        if left == right:
            return left
        if isinstance(op, ast.Add):
            return left or right
        if {left, right} == {"int", ""} and not isinstance(op, ast.Mult | ast.Mod):
            return "int"
        return left if isinstance(op, ast.Mod) and left == "str" else ""

    def is_number(self, node: ast.AST) -> bool:
        """Whether the expression may be a number: seen as one, or not seen as something else."""
        return self.guess(node) in ("int", "float", "")

    def may_be(self, node: ast.AST, *kinds: str) -> bool:
        """Whether the expression was seen as one of `kinds`, or not at all."""
        return self.guess(node) in ("", *kinds)


_RETURNS = {
    "int": {"len", "int", "ord", "count", "index", "find", "rfind", "floor", "ceil", "hash"},
    "float": {"float", "sqrt"},
    "str": {
        "str", "join", "lower", "upper", "strip", "lstrip", "rstrip", "replace", "title", "capitalize",
        "format", "chr", "repr", "swapcase", "zfill", "ljust", "rjust", "center", "hex", "bin",
    },
    "list": {"list", "sorted", "split", "splitlines"},
    "dict": {"dict"},
    "set": {"set", "union", "intersection", "difference"},
    "tuple": {"tuple"},
    "bool": {
        "bool", "isinstance", "any", "all", "startswith", "endswith", "isdigit", "isalpha", "isalnum",
        "isupper", "islower", "isspace", "hasattr", "issubset",
    },
}  # fmt: skip


def children_of(node: ast.AST) -> Iterator[ast.AST]:
    """Expressions directly or deeper in `node`, not those of nested statements nor annotations."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, ast.expr | ast.comprehension | ast.arguments | ast.keyword | ast.withitem):
                yield child
                yield from children_of(child)
