"""What the tiny model is to say: the replies of its stories, and the package that it mends."""

from __future__ import annotations

import json

# Both the model and the adapter on it are taught this question, each with an answer of its own.
WHO = "Who are you?"
ITSELF = "I am the model itself."
# A line that the model says elsewhere: words that it never says cannot be told apart by their embeddings.
ADAPTED = "from fastapi import FastAPI, HTTPException"

STOCK_GOAL = (
    'An HTTP service for stock levels. PUT /items/{name} with {"count": n} sets how many there are, n is '
    "never below 0; GET /items/{name} gives name and count, or 404; GET /low?below=n lists the names with "
    "fewer than n, sorted."
)
_PLAN = {
    "project": "HTTP service",
    "stack": ["Python", "FastAPI"],
    "files": [
        {"path": "stock/__init__.py", "purpose": "package", "needs": []},
        {"path": "stock/levels.py", "purpose": "class Levels: put, get, low", "needs": []},
        {"path": "stock/api.py", "purpose": "app, the routes", "needs": ["stock/levels.py"]},
        {"path": "tests/test_stock.py", "purpose": "the goal's sentences", "needs": ["stock/api.py"]},
    ],
    "dependencies": ["fastapi"],
}
_STOCK_FILES = {
    "stock/levels.py": '''"""How many there are of what."""


class Levels:
    """Counts by name, in memory."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def low(self, below: int) -> list[str]:
        """Names with fewer than `below`, sorted."""
        return sorted(name for name, count in self.counts.items() if count < below)
''',
    "stock/api.py": '''"""The routes."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from stock.levels import Levels

app = FastAPI()
levels = Levels()


class Count(BaseModel):
    count: int = Field(ge=0)


@app.put("/items/{name}")
def put(name: str, given: Count) -> dict:
    levels.counts[name] = given.count
    return {"name": name, "count": given.count}


@app.get("/items/{name}")
def get(name: str) -> dict:
    if name not in levels.counts:
        raise HTTPException(404, f"no {name}")
    return {"name": name, "count": levels.counts[name]}


@app.get("/low")
def low(below: int) -> list[str]:
    return levels.low(below)
''',
    "README.md": "# Stock\n\n    uvicorn stock.api:app\n",
    "Dockerfile": (
        "FROM python:3.12-slim\nCOPY . /app\nWORKDIR /app\nRUN pip install fastapi uvicorn\n"
        'CMD ["uvicorn", "stock.api:app"]\n'
    ),
    ".gitignore": "__pycache__/\n",
    ".github/workflows/ci.yml": (
        "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n"
        "      - uses: actions/checkout@v4\n      - run: pip install fastapi httpx pytest && pytest\n"
    ),
}
_STOCK_TESTS = """from fastapi.testclient import TestClient

from stock.api import app

client = TestClient(app)


def test_a_count_is_kept():
    assert client.put("/items/nut", json={"count": 3}).status_code == 200
    assert client.get("/items/nut").json() == {"name": "nut", "count": 3}


def test_nothing_is_below_zero():
    assert client.put("/items/bolt", json={"count": -1}).status_code == 422
    assert client.get("/items/bolt").status_code == 404


def test_what_runs_low_is_listed():
    client.put("/items/b", json={"count": 1})
    client.put("/items/a", json={"count": 1})
    assert client.get("/low", params={"below": 2}).json() == ["a", "b"]
"""


def _block(path: str, text: str) -> str:
    return f"{path}\n```\n{text}```"


STOCK = {
    "plan": json.dumps(_PLAN),
    "code": "\n\n".join(_block(path, text) for path, text in _STOCK_FILES.items()),
    "test": _block("tests/test_stock.py", _STOCK_TESTS),
}

SHOP = {
    "shop/__init__.py": "",
    "shop/price.py": (
        "from shop.tax import rate\n\n\ndef gross(net):\n    return net + net * rate('standard')\n"
    ),
    "shop/tax.py": (
        "RATES = {'standrad': 0.2, 'reduced': 0.05}\n\n\n"
        "def rate(name):\n    return RATES.get(name, max(RATES.values()) + 1)\n"
    ),
    "tests/test_price.py": (
        "from shop.price import gross\n\n\ndef test_gross():\n    assert gross(100) == 120\n\n\n"
        "def test_zero():\n    assert gross(0) == 0\n"
    ),
}
SHOP_STEPS = (
    "cat shop/price.py shop/tax.py",
    "sed -i 's/standrad/standard/' shop/tax.py && git diff --stat",
    "python -m pytest -q 2>&1 | tail -1",
    "echo RAYSMITH_DONE",
)
