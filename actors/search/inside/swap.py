"""Mutated code put into live functions. Decides whether that is possible; never runs anything itself."""

from __future__ import annotations
import __future__

import ast
import gc
import marshal
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType

from . import fuel, text

_KIND_FLAGS = 0x20 | 0x80 | 0x200  # generator, coroutine, asynchronous generator
_STAR_FLAGS = 0x04 | 0x08  # *args, **kwargs
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOP = re.compile(r"\b(?:for|while)\b")


class Uncompilable(Exception):
    """The edited source is not Python, or not anything pytest could import."""


class NotSwappable(Exception):
    """The edit changes more than function bodies; the file has to be imported anew."""


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a module or class: its characters, its first line, the classes around it."""

    start: int
    end: int
    line: int
    classes: tuple[str, ...] = ()

    @property
    def shift(self) -> int:
        """What a line of it has more in the file than where it is compiled alone."""
        return self.line - 1 - len(self.classes)


@dataclass(slots=True)
class Shape:
    """Code and the code nested in it. `whole` is equal for code that does the same, wherever it stands."""

    code: CodeType
    own: tuple[object, ...]
    inner: list[Shape]
    whole: tuple[object, ...]


@dataclass
class Module:
    """A source file as it is imported now."""

    path: str
    filename: str
    text: str
    flags: int
    statements: list[Statement]
    taps: list[tuple[int, int, str, str]]
    compiled: dict[tuple[Statement, bool], Shape] = field(default_factory=dict)


Plan = list[tuple[FunctionType, CodeType]]


@dataclass(slots=True)
class Draft:
    """What an edit of one file comes to: a plan, and what is equal for edits that do the same."""

    plan: Plan = field(default_factory=list)
    prints: list[object] = field(default_factory=list)
    shift: int = 0


class Swapper:
    """Knows the live functions of the task's files; made once after collection."""

    def __init__(
        self, filenames: Mapping[str, str], at_import: frozenset[tuple[str, int, str]], complete: bool
    ) -> None:
        self._by_name = {filename: path for path, filename in filenames.items()}
        self._filenames = filenames
        self._at_import = at_import
        self._complete = complete
        self._live: dict[tuple[str, int, str], list[FunctionType]] = {}
        self._modules: dict[str, Module] = {}
        self._loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename in self._by_name:
                self._live.setdefault(key(thing.__code__), []).append(thing)

    def plan(self, path: str, source: str, spans: Sequence[text.Span]) -> Draft:
        """Which functions get which code for `spans` in the file.

        Raises:
            Uncompilable: The result is not valid Python.
            NotSwappable: It takes a fresh import.
        """
        module = self._module(path, source)
        pairs = [_compiled(module, statement, inside) for statement, inside in _by_statement(module, spans)]
        if module.filename not in self._loaded:
            if not self._complete:
                raise NotSwappable
            return Draft(prints=list(spans))
        draft = Draft()
        for statement, before, after in pairs:
            draft.shift = statement.shift
            self._pair(before, after, False, draft)
        return draft

    def _pair(self, old: Shape, new: Shape, inside: bool, draft: Draft) -> None:
        if old.whole == new.whole:
            return
        changed = len(old.inner) != len(new.inner) or old.own != new.own
        line = old.code.co_firstlineno + draft.shift
        place = old.code.co_filename, line, old.code.co_name
        functions = self._functions(place, old)
        if changed and not (functions or inside):
            raise NotSwappable
        if changed and place in self._at_import:
            raise NotSwappable
        if functions and not _compatible(old.code, new.code):
            raise NotSwappable
        if functions:
            code = _moved(new.code, draft.shift)
            draft.plan += [(function, code) for function in functions]
        draft.prints.append((line, new.whole))
        if len(old.inner) == len(new.inner):
            for one, other in zip(old.inner, new.inner, strict=True):
                self._pair(one, other, inside or bool(functions), draft)

    def _functions(self, place: tuple[str, int, str], shape: Shape) -> list[FunctionType]:
        found = self._live.get(place, [])
        if len({id(function.__code__) for function in found}) > 1:
            return [one for one in found if shaped(one.__code__).whole == shape.whole] or found
        return found

    def _module(self, path: str, source: str) -> Module:
        known = self._modules.get(path)
        if known is None:
            known = _parse(path, self._filenames[path], source)
            self._modules[path] = known
        return known


def _compatible(old: CodeType, new: CodeType) -> bool:
    arguments = old.co_argcount + old.co_kwonlyargcount
    return (
        old.co_freevars == new.co_freevars
        and not (old.co_flags ^ new.co_flags) & (_KIND_FLAGS | _STAR_FLAGS)
        and (old.co_argcount, old.co_kwonlyargcount) == (new.co_argcount, new.co_kwonlyargcount)
        and old.co_varnames[:arguments] == new.co_varnames[:arguments]
    )


def shaped(code: CodeType) -> Shape:
    """`code` taken apart for comparison; lines and columns do not count."""
    constants = code.co_consts
    nested = [item for item in constants if type(item) is CodeType]
    if nested:
        constants = tuple(item for item in constants if type(item) is not CodeType)
    own = (
        code.co_code,
        # Tells 1 from True and 0.0 from -0.0, as comparing does not; version 2 has no references.
        marshal.dumps(constants, 2),
        code.co_name,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_exceptiontable,
    )
    inner = [shaped(item) for item in nested]
    return Shape(code=code, own=own, inner=inner, whole=(own, *[one.whole for one in inner]))


def key(code: CodeType) -> tuple[str, int, str]:
    """Where live code comes from."""
    return code.co_filename, code.co_firstlineno, code.co_name


def _moved(code: CodeType, shift: int) -> CodeType:
    constants = tuple(_moved(item, shift) if type(item) is CodeType else item for item in code.co_consts)
    return code.replace(co_firstlineno=code.co_firstlineno + shift, co_consts=constants)


def _parse(path: str, filename: str, source: str) -> Module:
    bare = source.removeprefix("\ufeff")
    try:
        tree = ast.parse(bare)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotSwappable from error
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    starts = [*text.line_starts(source), len(source)]
    statements = list(_statements(tree.body, starts, source, ()))
    places = text.Places(source)
    taps = [
        (
            places.offset(node.lineno, node.col_offset),
            places.offset(node.end_lineno or 0, node.end_col_offset or 0),
            before,
            after,
        )
        for node, before, after in fuel.taps(tree)
    ]
    return Module(
        path=path, filename=filename, text=source, flags=flags, statements=statements, taps=sorted(taps)
    )


def _statements(
    body: Sequence[ast.stmt], starts: Sequence[int], source: str, classes: tuple[str, ...]
) -> Iterator[Statement]:
    """Innermost first, so that an edit of a method takes compiling the method only."""
    for node in body:
        first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef) and node.body[0].lineno > node.lineno + len(classes):
            indent = re.match(r"[ \t]*", source[starts[node.lineno - 1] :])
            head = f"{indent.group() if indent else ''}class {node.name}:"
            functions = [one for one in node.body if isinstance(one, _FUNCTIONS)]
            yield from _statements(functions, starts, source, (*classes, head))
        yield Statement(start=starts[first - 1], end=starts[last], line=first, classes=classes)


def _by_statement(module: Module, spans: Sequence[text.Span]) -> list[tuple[Statement, list[text.Span]]]:
    groups: dict[Statement, list[text.Span]] = {}
    for span in spans:
        for statement in module.statements:
            if statement.start <= span[0] and span[1] <= statement.end:
                groups.setdefault(statement, []).append(span)
                break
        else:
            raise NotSwappable
    return list(groups.items())


def _compiled(
    module: Module, statement: Statement, spans: Sequence[text.Span]
) -> tuple[Statement, Shape, Shape]:
    """The statement as it is and with `spans`, both with fuel put in the same way."""
    content = module.text[statement.start : statement.end]
    tapped = _tapped(module, statement, spans)
    if tapped is not None:
        try:
            return (
                statement,
                _base(module, statement, True),
                shaped(_compile(module, statement, tapped, True)),
            )
        except Uncompilable:
            # The taps may be what does not fit.
            pass
    inside = [(start - statement.start, end - statement.start, new) for start, end, new in spans]
    after = _compile(module, statement, text.replaced(content, inside), False)
    return statement, _base(module, statement, False), shaped(after)


def _base(module: Module, statement: Statement, tapped: bool) -> Shape:
    known = module.compiled.get((statement, tapped))
    if known is None:
        source = _tapped(module, statement, ()) if tapped else module.text[statement.start : statement.end]
        known = module.compiled[statement, tapped] = shaped(_compile(module, statement, source or "", tapped))
    return known


def _tapped(module: Module, statement: Statement, spans: Sequence[text.Span]) -> str | None:
    """The statement with `spans` and with fuel as text; None where only a tree tells where it goes."""
    if any(_LOOP.search(new) for _, _, new in spans):
        return None
    taps = [tap for tap in module.taps if statement.start <= tap[0] and tap[1] <= statement.end]
    if any(start < point < end for start, end, _ in spans for tap in taps for point in tap[:2]):
        return None
    # What is put in at the end of a loop's expression belongs to it, as does what is put in at its start.
    opened = [(start, start, before) for start, _, before, _ in taps]
    closed = [(end, end, after) for _, end, _, after in taps]
    first = statement.start
    everything = [(start - first, end - first, new) for start, end, new in [*opened, *spans, *closed]]
    return text.replaced(module.text[first : statement.end], everything)


def _compile(module: Module, statement: Statement, source: str, tapped: bool) -> CodeType:
    lines = "\n".join([*statement.classes, source.removeprefix("\ufeff")])
    try:
        if tapped:
            code: CodeType = compile(lines, module.filename, "exec", flags=module.flags, dont_inherit=True)
            return code
        return fuel.compiled(lines, module.filename, module.flags)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Uncompilable from error
