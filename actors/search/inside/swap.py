"""Mutated code put into live functions. Decides whether that is possible; never runs anything itself."""

from __future__ import annotations
import __future__

import ast
import gc
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType

from . import fuel, text

_KIND_FLAGS = 0x20 | 0x80 | 0x200  # generator, coroutine, asynchronous generator
_STAR_FLAGS = 0x04 | 0x08  # *args, **kwargs
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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


@dataclass
class Module:
    """A source file as it is imported now."""

    path: str
    filename: str
    text: str
    flags: int
    statements: list[Statement]
    compiled: dict[Statement, CodeType] = field(default_factory=dict)


Plan = list[tuple[FunctionType, CodeType]]


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

    def plan(self, path: str, source: str, spans: Sequence[text.Span]) -> tuple[Plan, bytes]:
        """Which functions get which code for `spans` in the file, and a fingerprint of that code.

        Raises:
            Uncompilable: The result is not valid Python.
            NotSwappable: It takes a fresh import.
        """
        module = self._module(path, source)
        pairs: list[tuple[CodeType, CodeType]] = []
        for statement, inside in _by_statement(module, spans):
            old = module.compiled.get(statement)
            if old is None:
                old = _compile(module, statement, module.text[statement.start : statement.end])
                module.compiled[statement] = old
            shifted = [(start - statement.start, end - statement.start, new) for start, end, new in inside]
            changed = text.replaced(module.text[statement.start : statement.end], shifted)
            pairs.append((old, _compile(module, statement, changed)))
        if module.filename not in self._loaded:
            if not self._complete:
                raise NotSwappable
            return [], repr(spans).encode()
        plan: Plan = []
        prints: list[bytes] = []
        for before, after in pairs:
            self._pair(before, after, False, plan, prints)
        return plan, b"".join(prints)

    def _pair(self, old: CodeType, new: CodeType, inside: bool, plan: Plan, prints: list[bytes]) -> None:
        if _same(old, new):
            return
        before, after = _nested(old), _nested(new)
        changed = len(before) != len(after) or _own(old) != _own(new)
        functions = self._functions(old)
        if changed and not (functions or inside):
            raise NotSwappable
        if changed and key(old) in self._at_import:
            raise NotSwappable
        if functions and not _compatible(old, new):
            raise NotSwappable
        plan += [(function, new) for function in functions]
        prints.append(fingerprint(new))
        if len(before) == len(after):
            for one, other in zip(before, after, strict=True):
                self._pair(one, other, inside or bool(functions), plan, prints)

    def _functions(self, code: CodeType) -> list[FunctionType]:
        found = self._live.get(key(code), [])
        if len({id(function.__code__) for function in found}) > 1:
            return [function for function in found if _same(function.__code__, code)] or found
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


def fingerprint(code: CodeType) -> bytes:
    """Equal for code that does the same by the same instructions, wherever it stands."""
    constants = [
        fingerprint(item) if isinstance(item, CodeType) else repr((type(item), item)).encode()
        for item in code.co_consts
    ]
    names = repr((code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
    table: bytes = getattr(code, "co_exceptiontable", b"")
    return b"|".join([names.encode(), code.co_code, table, *constants])


def _parse(path: str, filename: str, source: str) -> Module:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotSwappable from error
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    starts = [*text.line_starts(source), len(source)]
    statements = list(_statements(tree.body, starts, source, ()))
    return Module(path=path, filename=filename, text=source, flags=flags, statements=statements)


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


def _compile(module: Module, statement: Statement, source: str) -> CodeType:
    padding = statement.line - 1 - len(statement.classes)
    lines = [*statement.classes, *[""] * padding, source]
    try:
        code = fuel.compiled("\n".join(lines), module.filename, module.flags)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Uncompilable from error
    return code


def key(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, code.co_name


def _nested(code: CodeType) -> list[CodeType]:
    return [item for item in code.co_consts if isinstance(item, CodeType)]


def _own(code: CodeType) -> tuple[object, ...]:
    constants = tuple((type(item), repr(item)) for item in code.co_consts if not isinstance(item, CodeType))
    return (
        code.co_code,
        constants,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_argcount,
        getattr(code, "co_exceptiontable", b""),
    )


def _same(one: CodeType, other: CodeType) -> bool:
    if _own(one) != _own(other) or len(_nested(one)) != len(_nested(other)):
        return False
    return all(_same(a, b) for a, b in zip(_nested(one), _nested(other), strict=True))
