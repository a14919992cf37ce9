"""What can be said of text that should be Python, by this interpreter's own parser."""

from __future__ import annotations

import ast
import warnings
from functools import lru_cache

# Longer text is not looked into: no agent may write so much.
LONGEST = 520_000


@lru_cache(maxsize=16)
def _read(text: str) -> ast.Module | str:
    if len(text) > LONGEST:
        return "it is too long"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__


def syntax_fault(text: str) -> str | None:
    """Why `text` is no Python, in a line; None when it is."""
    found = _read(text)
    return found if isinstance(found, str) else None


def module_of(text: str) -> ast.Module | None:
    """The syntax tree of `text`, not to be changed; None when it is no Python."""
    found = _read(text)
    return found if isinstance(found, ast.Module) else None


def is_more_than_words(module: ast.Module) -> bool:
    """Whether it is code beyond doubt: a sentence of one word is an expression too."""
    words = ast.Name | ast.Attribute | ast.Tuple | ast.Compare
    return bool(module.body) and not any(
        isinstance(each, ast.Expr) and isinstance(each.value, words) for each in module.body
    )


def names_of(module: ast.Module) -> dict[str, None]:
    """The names that a module gives to something at its top level, and `Class.method`."""
    found: dict[str, None] = {}
    for each in module.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[each.name] = None
            for inner in each.body if isinstance(each, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[f"{each.name}.{inner.name}"] = None
        elif isinstance(each, ast.Assign):
            found.update({target.id: None for target in each.targets if isinstance(target, ast.Name)})
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found[each.target.id] = None
    return found


def hollowed(before: ast.Module, after: ast.Module) -> list[str]:
    """Functions that did something in `before` and of which `after` has nothing but `...` or `pass`."""
    empty = {name for name, each in _functions(after) if _is_hollow(each)}
    return [name for name, each in _functions(before) if name in empty and not _is_hollow(each)]


def _functions(module: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found = []
    for each in module.body:
        for inner in each.body if isinstance(each, ast.ClassDef) else [each]:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{each.name}.{inner.name}" if isinstance(each, ast.ClassDef) else inner.name
                found.append((name, inner))
    return found


def _is_hollow(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return all(
        isinstance(each, ast.Pass) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in function.body
    )


def imports_of(module: ast.Module) -> set[str]:
    """The names that its imports bind, anywhere in it."""
    return {
        (alias.asname or alias.name).split(".")[0]
        for each in ast.walk(module)
        if isinstance(each, ast.Import | ast.ImportFrom)
        for alias in each.names
    }


def unbound_in(module: ast.Module) -> set[str]:
    """Names that the module reads and nowhere binds; none where it imports everything of another."""
    bound, read = imports_of(module), set[str]()
    if "*" in bound:
        return set()
    for each in ast.walk(module):
        if isinstance(each, ast.Name):
            (read if isinstance(each.ctx, ast.Load) else bound).add(each.id)
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(each.name)
        elif isinstance(each, ast.arg):
            bound.add(each.arg)
        elif isinstance(each, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and each.name:
            bound.add(each.name)
    return read - bound
