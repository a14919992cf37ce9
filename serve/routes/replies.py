"""JSON answers. What a run says may hold bytes that are no text, and still has to arrive."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from serve.plain_json import dumps


class Json(JSONResponse):
    """JSON in ASCII, as `serve.plain_json` writes it."""

    def render(self, content: Any) -> bytes:
        return dumps(content, separators=(",", ":")).encode()
