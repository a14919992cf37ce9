"""A source file with its syntax tree and exact spans. It reads; `mutators/` propose, `edits` change."""

from __future__ import annotations

import ast
import re
from functools import cached_property

from actors.search.inside.text import decode, line_starts

MAX_LINES = 10_000
Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Module)


class Source:
    """One file. `tree` is None where it does not parse, and `error` says why.

    Raises:
        ValueError: Not decodable, or longer than `MAX_LINES`.
    """

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.text, self.encoding = decode(content)
        self.starts = line_starts(self.text)
        if len(self.starts) > MAX_LINES:
            raise ValueError(f"{path} has {len(self.starts)} lines; at most {MAX_LINES} are searched")
        self.error: SyntaxError | None = None
        self.tree: ast.Module | None = None
        self._spans: dict[ast.AST, tuple[int, int]] = {}
        try:
            self.tree = ast.parse(self.text.removeprefix("\ufeff"))
        except SyntaxError as error:
            self.error = error
        except (ValueError, RecursionError, MemoryError) as error:
            self.error = SyntaxError(str(error))

    @cached_property
    def newline(self) -> str:
        """The newline that the file uses first."""
        found = re.search("\r\n|\r|\n", self.text)
        return found.group() if found else "\n"

    @cached_property
    def parents(self) -> dict[ast.AST, tuple[ast.AST, str]]:
        """Parent and field name of every node."""
        table: dict[ast.AST, tuple[ast.AST, str]] = {}
        for node in ast.walk(self.tree) if self.tree else ():
            for name, value in ast.iter_fields(node):
                for child in value if isinstance(value, list) else (value,):
                    if isinstance(child, ast.AST):
                        table[child] = (node, name)
        return table

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """Every statement, outermost and first ones first."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.stmt)] if self.tree else []

    @cached_property
    def owners(self) -> dict[int, int]:
        """First line of the innermost function around each line of a function's body."""
        table: dict[int, int] = {}
        for node in self.statements:
            if isinstance(node, Function):
                # Outer functions come first, so that inner ones overwrite them.
                last = node.end_lineno or node.lineno
                table.update(dict.fromkeys(range(node.body[0].lineno, last + 1), node.lineno))
        return table

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The node that holds `node`."""
        return self.parents[node][0] if node in self.parents else None

    def field(self, node: ast.AST) -> str:
        """The field of its parent that holds `node`."""
        return self.parents[node][1] if node in self.parents else ""

    def function_of(self, node: ast.AST) -> Function | None:
        """The innermost function around `node`, not counting lambdas."""
        current = self.parent(node)
        while current is not None and not isinstance(current, Function):
            current = self.parent(current)
        return current

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        """The innermost class around `node`."""
        current = self.parent(node)
        while current is not None and not isinstance(current, ast.ClassDef):
            current = self.parent(current)
        return current

    def statement_of(self, node: ast.AST) -> ast.stmt | None:
        """The innermost statement that holds `node`, or `node`."""
        current: ast.AST | None = node
        while current is not None and not isinstance(current, ast.stmt):
            current = self.parent(current)
        return current

    def offset(self, line: int, column: int) -> int:
        """Character offset of a line and a column in UTF-8 bytes, as `ast` gives them."""
        start = self.starts[line - 1]
        if line == 1 and self.text.startswith("\ufeff"):
            start += 1
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        row = self.text[start:end]
        return start + (column if row.isascii() else len(row.encode()[:column].decode(errors="ignore")))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First character and the one after the last of an expression or statement, decorators included."""
        if node not in self._spans:
            self._spans[node] = self._span(node)
        return self._spans[node]

    def _span(self, node: ast.AST) -> tuple[int, int]:
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        decorators = getattr(node, "decorator_list", None)
        if decorators:
            first = self.span(decorators[0])[0]
            start = self.text.rindex("@", 0, first)
        else:
            start = self.offset(line, column)
        return start, self.offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def segment(self, node: ast.AST) -> str:
        """The characters of `node`."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_span(self, first: int, last: int) -> tuple[int, int]:
        """Characters of whole lines, the last one's newline included."""
        end = self.starts[last] if last < len(self.starts) else len(self.text)
        return self.starts[first - 1], end

    def line_text(self, line: int) -> str:
        """One line with its newline."""
        start, end = self.line_span(line, line)
        return self.text[start:end]

    def indent(self, line: int) -> str:
        """White space that a line starts with."""
        found = re.match(r"[ \t]*", self.line_text(line))
        return found.group() if found else ""

    def alone_on_lines(self, node: ast.stmt) -> bool:
        """Whether the statement shares its lines with no other code."""
        start, end = self.span(node)
        first = self.text.rfind("\n", 0, start) + 1
        stop = re.match(r"[ \t]*;?[ \t]*(#[^\r\n]*)?(\r|\n|$)", self.text[end:])
        return self.text[first:start].strip() in ("", "\ufeff") and stop is not None

    def body_of(self, node: ast.stmt) -> list[ast.stmt]:
        """The list of statements that holds `node`."""
        parent, name = self.parents[node]
        body = getattr(parent, name)
        return body if isinstance(body, list) else [node]
