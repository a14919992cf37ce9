"""Adds two numbers over HTTP."""

from fastapi import FastAPI

app = FastAPI(title="Adder")


@app.get("/add")
def add(a: float, b: float, do_round: bool = False) -> dict[str, float]:
    """The sum of `a` and `b`, rounded to a whole number where `do_round` is set."""
    return {"result": round(a + b) if do_round else a + b}
