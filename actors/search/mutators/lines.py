"""Whole lines put in, taken out and moved, with the file's own indentation and newlines."""

from __future__ import annotations

import ast
import re

from actors.search.inside.text import Span
from actors.search.mutators.site import Site
from actors.search.source import Function


def lines_of(site: Site, node: ast.stmt) -> Span:
    """The span of the lines that hold `node`, to be filled; only for statements alone on their lines."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
    start, end = site.source.line_span(first, node.end_lineno or node.lineno)
    return start, end, ""


def text_of(site: Site, node: ast.stmt) -> str:
    """The lines of `node`, ending with a newline."""
    start, end, _ = lines_of(site, node)
    text = site.source.text[start:end]
    return text if text.endswith(("\n", "\r")) else text + site.source.newline


def unit(site: Site) -> str:
    """One step of indentation as the file uses it."""
    for line in re.split("\r\n|\r|\n", site.source.text):
        found = re.match(r"(\t+| +)\S", line)
        if found:
            return "\t" if found.group(1).startswith("\t") else found.group(1)
    return "    "


def before(site: Site, node: ast.stmt, *lines: str) -> Span:
    """`lines` inserted before `node`, each indented as it is; a line may start with further indentation."""
    start, _, _ = lines_of(site, node)
    return start, start, _block(site, site.source.indent(node.lineno), lines)


def after(site: Site, node: ast.stmt, *lines: str, indent: str | None = None) -> Span:
    """`lines` inserted behind `node`, indented as it is or by `indent`."""
    _, end, _ = lines_of(site, node)
    text = _block(site, site.source.indent(node.lineno) if indent is None else indent, lines)
    if not site.source.text[:end].endswith(("\n", "\r")):
        text = site.source.newline + text.removesuffix(site.source.newline)
    return end, end, text


def reindented(text: str, old: str, new: str) -> str:
    """`text` with indentation `old` of each line changed into `new`."""
    parts = re.split("(\r\n|\r|\n)", text)
    moved = [
        new + part.removeprefix(old) if part.strip() and number % 2 == 0 else part
        for number, part in enumerate(parts)
    ]
    return "".join(moved)


def movable(site: Site, node: ast.stmt) -> bool:
    """Whether whole-line operations are safe: alone on its lines and no multi-line string inside."""
    if not site.source.alone_on_lines(node) or site.source.parent(node) is None:
        return False
    return not any(
        isinstance(part, ast.Constant | ast.JoinedStr) and part.lineno != part.end_lineno
        for part in ast.walk(node)
    )


def _block(site: Site, indent: str, lines: tuple[str, ...]) -> str:
    return "".join(f"{indent}{line}{site.source.newline}" for line in lines)


def may_precede(site: Site, node: ast.stmt) -> bool:
    """Whether lines can be inserted before `node`."""
    if site.function is None or node is site.function or not site.source.alone_on_lines(node):
        return False
    if isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom) or follows_else(site, node):
        return False
    return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def follows_else(site: Site, node: ast.stmt) -> bool:
    """Whether `node` is written `elif`."""
    start = site.source.offset(node.lineno, node.col_offset)
    return site.source.text.startswith("elif", start)


def first_statement(function: Function) -> ast.stmt:
    """The first statement that is no docstring."""
    body: list[ast.stmt] = function.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1
    return body[1] if documented else body[0]


def is_docstring(node: ast.AST) -> bool:
    """Whether the statement is a string alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_elif(site: Site, node: ast.AST) -> bool:
    """Whether `node` is an `if` written `elif`."""
    if not isinstance(node, ast.If):
        return False
    start = site.source.offset(node.lineno, node.col_offset)
    return site.source.text.startswith("elif", start)


def complete_lines(site: Site, end: int) -> bool:
    """Whether the text up to `end` is complete lines."""
    return site.source.text[:end].endswith(("\n", "\r"))
