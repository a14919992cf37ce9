"""JSON answers. What a run says may hold bytes that are no text, and still has to arrive."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse


class Json(JSONResponse):
    """JSON in ASCII: a lone surrogate, which stands for a byte that is not UTF-8, has no encoding."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()
