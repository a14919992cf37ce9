"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML laid over the defaults of configs/laptop.yaml."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One setting, such as sandbox.memory_mib=2048. Repeatable."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show log lines on standard error.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where results are written; default: a folder in RAYSMITH_HOME."
    ),
]
Tests = Annotated[
    list[str] | None,
    typer.Option(
        "--tests",
        metavar="ARGS",
        help="Pytest arguments that select tests: paths, node ids, -k, -m, --deselect, --ignore. Repeatable.",
    ),
]
Protect = Annotated[
    list[str] | None,
    typer.Option(
        "--protect", metavar="GLOB", help="Files that no patch may change, beside the tests. Repeatable."
    ),
]
Python = Annotated[
    str | None,
    typer.Option("--python", metavar="PATH", help="Interpreter of the project's own environment."),
]
BudgetS = Annotated[
    float | None,
    typer.Option("--budget-s", metavar="S", min=0.001, help="Wall seconds of the whole run."),
]
Attempts = Annotated[
    int | None, typer.Option("--attempts", metavar="N", min=1, help="Passes of the repair loop.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="M", help="Model that writes and repairs, such as openrouter:NAME."),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the start of it.")]
