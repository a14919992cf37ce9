"""Writes the reference pages that the program knows best: `python -m serve.reference NAME`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

_CLI = """# Command line

`raysmith` and `python -m raysmith` are the same program. [Outputs](outputs.md) tells what they print and
the exit codes, [Configuration](configuration.md) what `--set` and `--config` take. This page is written by
`python -m serve.reference cli`, and a test holds it to the program.
"""

_CONFIGURATION = """# Configuration

Layers, each over the one before: `configs/laptop.yaml` (the defaults below), the file that `--config` or
`RAYSMITH_CONFIG` names, environment variables, flags. An unknown key, or a value of another kind, is
refused with its path, where it came from, and the likeliest key meant; nothing runs then.

| where | how `budget.attempts` is written |
| --- | --- |
| a file | `budget:` and below it `attempts: 3` |
| the environment | `RAYSMITH_BUDGET__ATTEMPTS=3` (two underscores for the dot) |
| a flag | `--set budget.attempts=3`, or the option made for it, `--attempts 3` |

An entry of a list is counted from 0: `--set fleet.0.max_replicas=4`, `RAYSMITH_FLEET__0__MAX_REPLICAS=4`. A
file that names a list replaces all of it.

Five variables are no settings: `RAYSMITH_HOME` is the folder of all state (default: the platform's state
folder, on Linux `~/.local/state/raysmith`), `RAYSMITH_CONFIG` a configuration file,
`RAYSMITH_API_KEYS` holds hashes of API keys of the HTTP door, as `raysmith keys create` prints them, and
`RAYSMITH_FAILPOINT` is for fault tests, and `RAYSMITH_TESTING=1`
prefers models that cost nothing (`routing.testing`). `RAY_ADDRESS` sets `ray.address`.

This page is written by `python -m serve.reference configuration`, and a test holds it to the defaults.
"""


_QUOTES = "\"'"
_ENVIRONMENT = """\
# Every variable that Raysmith reads, with its default. Copy this to .env and uncomment what differs.
# A shell reads it with `set -a; . ./.env`, docker with `--env-file .env`, Kubernetes with
# `kubectl create secret generic raysmith-secrets --from-env-file=.env`. Keep .env out of the repository.
# Written by `python -m serve.reference env`, and a test holds it to the program.

"""


def cli_page() -> str:
    """Every command with its arguments and options."""
    from typer.main import get_command

    from serve.cli import app

    group: Any = get_command(app)
    shown = [command for command in group.commands.values() if not command.hidden]
    return _CLI + "".join(_command(command) for command in shown)


def configuration_page() -> str:
    """Every setting with its default and its sentence."""
    from serve.config import shipped

    rows = list(_settings(shipped("laptop.yaml").splitlines()))
    lines = [f"| `{key}` | `{value}` | {sentence} |" for key, value, sentence in rows]
    return "\n".join([_CONFIGURATION, "| setting | default | |", "| --- | --- | --- |", *lines, ""])


def _command(command: Any, above: str = "", level: str = "##") -> str:
    name = f"{above}{command.name}"
    if hasattr(command, "commands"):
        below = "".join(_command(each, f"{name} ", f"{level}#") for each in command.commands.values())
        return f"\n{level} {name}\n\n{command.help}\n{below}"
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join(["raysmith", name, *(_argument(argument) for argument in arguments), "[OPTIONS]"])
    rows = [f"| `{_argument(argument)}` | {argument.help} |" for argument in arguments]
    rows += [f"| `{_option(option)}` | {option.help} |" for option in options]
    return "\n".join(
        [
            "",
            f"{level} {name}",
            "",
            command.help,
            "",
            f"    {usage}",
            "",
            "| | |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len, reverse=True))
    return f"{names} {option.metavar}" if option.metavar else names


def _settings(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Key, default and sentence of every setting, from a file in the form of laptop.yaml."""
    section, sentence = "", ""
    for raw in lines:
        line = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        if line.startswith("#") or not line:
            sentence = line.removeprefix("#").strip()
            continue
        item = line.startswith("- ")
        key, _, rest = line.removeprefix("- ").partition(":")
        value, _, remark = rest.partition(" #")
        if indent == 0:
            section = key
        if key.startswith("{"):
            continue
        if indent == 0 and not value.strip():
            continue
        above = f"{section}.0." if section == "fleet" else f"{section}." if indent else ""
        yield f"{above}{key}", value.strip(), (remark.strip() if item or not sentence else sentence)


def environment_page() -> str:
    """Every variable that is read, commented out, with its default and its sentence: `.env.example`."""
    from serve.config import shipped, variables_beside_settings

    parts = [_ENVIRONMENT]
    for name, sentence in variables_beside_settings().items():
        parts.append(f"# {sentence}\n#{name}=\n")
    section = ""
    for key, value, sentence in _settings(shipped("laptop.yaml").splitlines()):
        above = key.partition(".")[0]
        if above != section:
            section = above
            parts.append(f"\n# -- {section}\n\n")
        name = f"RAYSMITH_{key.upper().replace('.', '__')}"
        parts.append(f"# {sentence}\n#{name}={value.strip(_QUOTES)}\n")
    return "".join(parts)


def graph_schema() -> str:
    """The JSON Schema of graph files: `docs/reference/graph.schema.json`."""
    from orchestrator.declaration import schema

    return json.dumps(schema(), indent=2) + "\n"


def main() -> None:
    """Print the page that the first argument names."""
    pages = {
        "cli": cli_page,
        "configuration": configuration_page,
        "env": environment_page,
        "graph.schema": graph_schema,
    }
    sys.stdout.write(pages[sys.argv[1]]())


if __name__ == "__main__":
    main()
