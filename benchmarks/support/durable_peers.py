"""The canonical loop in LangGraph and DBOS, where they are installed: in one process, without a fleet."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import operator
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

LOOPS, STEPS, AT_ONCE = 200, 4, 20
RESULT = "x" * 4096


def peer_figures(folder: Path) -> dict[str, float]:
    """Wall milliseconds per step of each peer that is installed; of one that does not work here, nothing."""
    figures: dict[str, float] = {}
    for name, needed, run in (
        ("langgraph", ("langgraph", "langgraph.checkpoint.sqlite", "aiosqlite"), langgraph),
        ("dbos", ("dbos",), dbos),
    ):
        if all(_is_there(each) for each in needed):
            try:
                figures[f"peer_ms_{name}"] = asyncio.run(run(folder)) * 1000 / (LOOPS * STEPS)
            except Exception as error:  # other people's software, in whatever version
                sys.stderr.write(f"{name} was not measured: {type(error).__name__}: {error}\n")
    return figures


def _is_there(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(name) is not None
    return False


class State(TypedDict):
    """What LangGraph hands on: a result of 4 KB per step."""

    results: Annotated[list[str], operator.add]


async def langgraph(folder: Path) -> float:
    """With SQLite and durability `sync`, which loses nothing to kill -9; wall seconds."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.graph import END, START, StateGraph

    async def step(_state: State) -> State:
        return {"results": [RESULT]}

    graph: Any = StateGraph(State)
    names = [START, *(f"s{number}" for number in range(STEPS)), END]
    for name in names[1:-1]:
        graph.add_node(name, step)
    for one, other in itertools.pairwise(names):
        graph.add_edge(one, other)
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.db")) as saver:
        app = graph.compile(checkpointer=saver)

        async def loop(number: int) -> None:
            async with gate:
                config = {"configurable": {"thread_id": str(number)}}
                await app.ainvoke({"results": []}, config, durability="sync")

        started = time.perf_counter()
        await asyncio.gather(*(loop(number) for number in range(LOOPS)))
        return time.perf_counter() - started


async def dbos(folder: Path) -> float:
    """With SQLite as it ships; wall seconds."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.db", "log_level": "ERROR"})

    @DBOS.step()
    async def step(_number: int) -> str:
        return RESULT

    @DBOS.workflow()
    async def loop(_number: int) -> None:
        for number in range(STEPS):
            await step(number)

    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await loop(number)

    DBOS.launch()
    try:
        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(LOOPS)))
        return time.perf_counter() - started
    finally:
        DBOS.destroy()
