"""Prompts are files in `templates/`; an undefined variable in one is an error."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

_INCLUDED = re.compile(r"{%-? include \"([\w.]+)\" -?%}")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Prompts are text for a model, never HTML.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fenced"] = fenced
    return environment


def render(template: str, **values: Any) -> str:
    """The prompt in `templates/TEMPLATE.jinja` with `values` filled in."""
    return _environment().get_template(f"{template}.jinja").render(**values)


def version(template: str) -> str:
    """Twelve digits that change with the text of the template or of one that it includes."""
    return hashlib.sha256(_text(f"{template}.jinja").encode()).hexdigest()[:12]


def _text(name: str) -> str:
    text = (TEMPLATES / name).read_text("utf-8")
    return text + "".join(_text(each) for each in _INCLUDED.findall(text))


def fenced(text: str) -> str:
    """`text` as a fenced block that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = text if text.endswith("\n") or not text else f"{text}\n"
    return f"{fence}\n{body}{fence}"
