"""JSON that every parser takes, whatever bytes a run holds.

A byte that is not UTF-8 is a lone surrogate inside; as JSON it would be an escape that strict parsers refuse.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
# Texts whose bytes matter; they are given beside it, under this name and `_base64`.
_EXACT = frozenset({"diff"})


def dumps(value: Any, **options: Any) -> str:
    """`value` as JSON in ASCII.

    A byte that is no UTF-8 becomes U+FFFD. Where that happens in a `diff`, `diff_base64` beside it holds
    the bytes as they are.
    """
    text = json.dumps(value, ensure_ascii=True, **options)
    # A pair of them is one character, and fine; the look inside tells.
    return json.dumps(_plain(value), ensure_ascii=True, **options) if "\\ud" in text else text


def exact(told: Mapping[str, Any], name: str = "diff") -> str:
    """The text `name` of an object written so, its bytes that are no UTF-8 as surrogate escapes."""
    packed = told.get(f"{name}_base64")
    if packed is None:
        return str(told[name])
    return base64.b64decode(packed).decode("utf-8", "surrogateescape")


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        plain = {}
        for name, each in value.items():
            plain[_plain(name)] = _plain(each)
            if name in _EXACT and isinstance(each, str) and _SURROGATE.search(each):
                plain[f"{name}_base64"] = base64.b64encode(_bytes(each)).decode()
        return plain
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
