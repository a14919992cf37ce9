"""A request becomes a task with its snapshot: what a client may ask for is decided here."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from actors.workspace import check_testable, snapshot
from cluster.graphs import shipped
from orchestrator.declaration import Declaration
from orchestrator.errors import RaysmithError, TaskError
from orchestrator.graph_check import inputs_of
from orchestrator.task import Budget, Task, check_id, parse_tests
from orchestrator.tree import Tree
from serve.archives import tree_from
from serve.problems import FieldFault, Problem, of_error
from serve.routes.site import Site
from serve.schemas import RunRequest
from serve.tasks import agents_of

_ARRIVES_WITHIN_S = 120.0
_FILES = ("archive", "candidate")
_LISTS = ("tests", "protect")
_OBJECTS = ("budget", "inputs")
_MOST_FIELDS = 2100
# What the log keeps of a request is one event, which has a size of its own.
_MOST_SAID = 2 * 1024 * 1024
# Each unpacks into memory: more at a time only take it from each other.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request. `fingerprint` is the same for two that ask for the same."""

    task: Task
    tree: Tree | None
    candidate: Tree | None
    fingerprint: str


class _InMemory(MultiPartParser):
    """Parts stay in memory: the gate bounds the body, and nothing unchecked reaches a disk."""

    spool_max_size = 0


async def order_of(request: Request, site: Site, tenant: str | None) -> Order:
    """The order in a request's body.

    Raises:
        Problem: It is not one; every fault names its field.
    """
    try:
        async with asyncio.timeout(_ARRIVES_WITHIN_S):
            asked, files = await _read(request)
    except TimeoutError:
        raise Problem(
            408,
            "timeout",
            f"the body was not here after {_ARRIVES_WITHIN_S:g} s",
            "send it again",
            headers={"Connection": "close"},
        ) from None
    async with _unpacking:
        return await asyncio.to_thread(_order, asked, files, site, tenant or site.config.tenant)


_unpacking = asyncio.Semaphore(_AT_ONCE)


async def _read(request: Request) -> tuple[RunRequest, dict[str, bytes]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _parsed(await request.body()), {}
    if kind == "multipart/form-data":
        values, files = await _form(request.headers, request)
        return _parsed(json.dumps(values).encode()), files
    raise Problem(
        415,
        "unsupported_media_type",
        f"the body is {kind[:100]!r}",
        "send application/json, or multipart/form-data with a file `archive`",
        headers={"Accept-Post": "application/json, multipart/form-data"},
    )


async def _form(headers: Headers, request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    parser = _InMemory(
        headers,
        request.stream(),
        max_files=len(_FILES),
        max_fields=_MOST_FIELDS,
        max_part_size=8 * 1024 * 1024,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(422, "invalid", f"the form cannot be read: {error.message}") from error
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) != (name in _FILES):
                kind = "a file" if name in _FILES else "text"
                raise _fault(name, f"`{name}` has to be {kind}")
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                _put(values, name, value)
    finally:
        await form.close()
    return values, files


def _put(values: dict[str, Any], name: str, text: str) -> None:
    """A form knows texts only: lists come as repeated fields, objects as JSON."""
    if name in _OBJECTS:
        try:
            values[name] = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _fault(name, f"`{name}` is not JSON: {error}") from error
    elif name in _LISTS:
        words = _words(name, text) if name == "tests" else [text]
        values.setdefault(name, []).extend(words)
    elif name in values:
        raise _fault(name, f"`{name}` is given twice")
    else:
        values[name] = text


def _words(name: str, text: str) -> list[str]:
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise _fault(name, f"`{name}` cannot be split into words: {error}") from error


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _parsed(body: bytes) -> RunRequest:
    try:
        asked = RunRequest.model_validate_json(body)
    except ValidationError as error:
        faults = [_told(each) for each in error.errors(include_url=False, include_context=False)[:20]]
        raise Problem(422, "invalid", "; ".join(each.message for each in faults), faults=faults) from error
    if len(_said(asked)) > _MOST_SAID:
        raise _fault("body", f"the body: more than {_MOST_SAID // 1024} KiB without its archives")
    return asked


def _said(asked: RunRequest) -> str:
    return json.dumps(asked.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def _told(error: Mapping[str, Any]) -> FieldFault:
    field = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")[:500]
    return FieldFault(field=field or "body", message=f"{field or 'the body'}: {message}")


def _order(asked: RunRequest, files: Mapping[str, bytes], site: Site, tenant: str) -> Order:
    goal = asked.goal if asked.goal is not None else _goal_in(asked.inputs)
    with _about("graph"):
        graph = shipped(asked.graph or ("story" if goal is not None and not files else "repair"))
    tree = _tree(asked, files, graph, site)
    candidate = None
    if "candidate" in files:
        with _about("candidate"):
            candidate = tree_from(files["candidate"], site.config.snapshot, root=asked.root)
    _check_brings(graph, goal, tree, candidate)
    with _about("inputs"):
        inputs_of(graph, asked.inputs)
    task = replace(_task(asked, graph, goal, site), tenant=tenant)
    if tree is not None and not graph.needs("goal"):
        with _about("tests" if task.tests else "archive" if "archive" in files else "path"):
            check_testable("the folder", tree, task.tests)
    return Order(
        task=task, tree=tree, candidate=candidate, fingerprint=_fingerprint(asked, files, tree, candidate)
    )


def _goal_in(inputs: Mapping[str, Any]) -> str | None:
    goal = inputs.get("goal")
    if goal is not None and not isinstance(goal, str):
        raise _fault("inputs.goal", "inputs.goal: the goal is a text")
    return goal


def _tree(asked: RunRequest, files: Mapping[str, bytes], graph: Declaration, site: Site) -> Tree | None:
    if "archive" in files:
        if asked.path is not None:
            raise _fault("path", "`path` and `archive` cannot both be given")
        with _about("archive"):
            return tree_from(files["archive"], site.config.snapshot, root=asked.root)
    if asked.path is not None:
        with _about("path"):
            return snapshot(_allowed(asked.path, site), site.config.snapshot)
    return Tree() if graph.needs("goal") else None


def _allowed(path: str, site: Site) -> Path:
    """The folder that `path` names, when it really lies below one that the configuration lists."""
    roots = [Path(root).expanduser().resolve() for root in site.config.http.local_paths]
    refusal = TaskError(
        "folders of the server cannot be named here",
        "send an archive, or list the folder above in `http.local_paths`",
    )
    if "\0" in path or not path.startswith("/"):
        raise (
            TaskError("`path` is not absolute", "give the whole path, or send an archive")
            if roots
            else refusal
        )
    real = Path(path).resolve()
    if not any(real == root or root in real.parents for root in roots):
        raise refusal
    return real


def _check_brings(graph: Declaration, goal: str | None, tree: Tree | None, candidate: Tree | None) -> None:
    if graph.needs("goal") and not (goal and goal.strip()):
        raise _fault("goal", f"goal: graph {graph.name!r} needs a goal in words")
    if graph.needs("folder") and tree is None:
        raise _fault("archive", f"archive: graph {graph.name!r} needs a folder: send `archive`")
    if graph.needs("candidate") and candidate is None:
        raise _fault("candidate", f"candidate: graph {graph.name!r} needs the folder to judge")


def _task(asked: RunRequest, graph: Declaration, goal: str | None, site: Site) -> Task:
    config = site.config
    with _about("name"):
        name = check_id(asked.name) if asked.name is not None else graph.name
    with _about("tests"):
        tests = parse_tests(asked.tests)
    model = _model(asked.model, site)
    if graph.needs("goal") and not model:
        raise Problem(
            422,
            "no_model",
            "a goal in words needs a model that writes code, and none is configured",
            "set RAYSMITH_MODEL where the factory runs; folders are repaired without a model",
            faults=[FieldFault(field="model", message="no model is configured")],
        )
    return Task(
        id=name,
        graph=graph.name,
        goal=goal,
        tests=tests,
        protect=tuple(asked.protect),
        model=model or None,
        budget=_budget(asked, config.budget),
        agents=agents_of(config),
        judge_minimum=config.judge.minimum,
        judge_strength=config.judge.strength,
        inputs=asked.inputs,
        origin=asked.path or "http",
    )


def _model(asked: str | None, site: Site) -> str:
    """A client chooses among what the operator allows: a model may be an address."""
    allowed = (site.config.model, *site.config.http.models)
    if asked is None:
        return site.config.model
    if asked not in allowed or not asked:
        known = ", ".join(model for model in allowed if model) or "none"
        raise _fault("model", f"model: {asked[:100]!r} is not allowed here; allowed: {known}")
    return asked


def _budget(asked: RunRequest, most: Budget) -> Budget:
    wanted = {name: value for name, value in asked.budget.model_dump().items() if value is not None}
    for each in fields(Budget):
        limit = getattr(most, each.name)
        if wanted.get(each.name, 0) > limit:
            field = f"budget.{each.name}"
            raise _fault(field, f"{field}: at most {limit:g} here")
    return replace(most, **wanted)


def _fingerprint(
    asked: RunRequest, files: Mapping[str, bytes], tree: Tree | None, candidate: Tree | None
) -> str:
    """Of what was asked for, not of its bytes: packing the same files again changes nothing."""
    said = {
        "asked": _said(asked),
        # A folder on the server is known by its path: it may have changed since.
        "archive": tree.digest if "archive" in files and tree else None,
        "candidate": candidate.digest if candidate else None,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@contextmanager
def _about(field: str) -> Iterator[None]:
    """An error of ours inside is about this field."""
    try:
        yield
    except RaysmithError as error:
        raise of_error(error, field) from error


def _fault(field: str, message: str) -> Problem:
    return Problem(422, "invalid", message, faults=[FieldFault(field=field, message=message)])
