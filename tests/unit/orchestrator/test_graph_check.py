"""What a graph file may say, and what is wrong with one that cannot run."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.graphs import from_file, graph_of, parsed, shipped, shipped_names, stored
from orchestrator.declaration import MOST_BYTES, MOST_NODES, schema
from orchestrator.errors import TaskError
from orchestrator.graph_check import in_order, inputs_of

PROFILE = {"kind": "agent", "role": "run", "work": "profile"}
LOOP = {"kind": "repair_loop"}


def graph(nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "g", "nodes": nodes, "result": [list(nodes)[-1]], **more}


def faults(declared: dict[str, Any]) -> str:
    with pytest.raises(TaskError) as raised:
        parsed(json.dumps(declared), "g.yaml")
    return raised.value.message


def test_an_input_is_one_of_its_choices() -> None:
    one = parsed(json.dumps(graph({"a": LOOP}, inputs={"part": {"choices": ["major", "minor"]}})), "g")

    assert inputs_of(one, {"part": "minor"}) == {"part": "minor"}
    with pytest.raises(TaskError, match="'tiny'; it may be major, minor"):
        inputs_of(one, {"part": "tiny"})


def test_a_graph_keeps_its_version_whatever_the_order_and_form_of_its_keys() -> None:
    one = parsed("name: g\nresult: [a]\nnodes:\n  a: {kind: agent, role: run, work: test}\n", "one")
    other = parsed(
        '{"nodes": {"a": {"work": "test", "role": "run", "kind": "agent"}}, "name": "g",'
        ' "result": ["a"], "checkpoints": true}',
        "other",
    )

    assert one.version == other.version
    assert stored(one.canonical_json()) == one


def test_a_graph_that_says_something_else_has_another_version() -> None:
    one = parsed(json.dumps(graph({"a": LOOP})), "one")
    other = parsed(json.dumps(graph({"a": {**LOOP, "max_attempts": 3}})), "other")

    assert one.version != other.version


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_graph_can_run_and_fits_the_published_schema(name: str) -> None:
    found = shipped(name)

    jsonschema.validate(json.loads(found.canonical_json()), schema())
    assert set(in_order(found)) == set(found.nodes) and found.name == name


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (graph({"a": {**PROFILE, "polcy": {}}}), "`nodes.a.polcy` is not known; did you mean `policy`"),
        (
            graph({"a": {**LOOP, "policy": {"retry": {"atempts": 2}}}}),
            "`nodes.a.policy.retry.atempts` is not known; did you mean `attempts`",
        ),
        (graph({"a": {"kind": "agnt"}}), "`nodes.a.kind` has to be one of agent, repair_loop"),
        (graph({"a": {"role": "run"}}), "`nodes.a.kind` has to be one of"),
        (graph({"A": LOOP}), "`nodes.A` is no name"),
        (graph({"a": LOOP}, result=[]), "`result` is []"),
        ({"name": "g", "result": ["a"]}, "`nodes` is missing"),
        (graph({"a": LOOP}, result=["a", "a"]), "`result` names 'a' twice"),
        (
            graph({"a": LOOP, "b": {"kind": "select", "of": ["a", "a"], "rule": "all"}}),
            "`nodes.b.of` names 'a' twice",
        ),
        (graph({"a": {**LOOP, "for_each": "abc"}}), "`nodes.a.for_each` is 'abc': it has to be a list"),
        (graph({"a": {**LOOP, "for_each": 3}}), "`nodes.a.for_each` is 3: it has to be a list"),
        (graph({"a": {**LOOP, "for_each": [1], "plain_steps": True}}), "`nodes.a.plain_steps` is set beside"),
        (
            graph({"a": {**LOOP, "inputs": {"profile": 3}}}),
            "`nodes.a.inputs.profile` is 3: it has to be a str",
        ),
        (graph({"a": {**LOOP, "policy": {"model": "$item"}}}), "refers to `$item` and has no `for_each`"),
        (graph({"a": {**LOOP, "policy": {"model": "$b.x"}}}), "`$b.x`, and there is no such node"),
        (graph({"a": {**LOOP, "when": {"equal": [1, 2]}}}), "`nodes.a` is never reached"),
        (graph({"a": {**LOOP, "when": {"not": True}}}), "`nodes.a` is never reached"),
        (
            graph({"a": LOOP}, inputs={"n": {"type": "number", "default": "x"}}),
            "`inputs.n.default` is 'x': it has to be a number",
        ),
        (
            graph({"a": LOOP}, inputs={"n": {"choices": ["a"], "default": "b"}}),
            "`inputs.n.default` is 'b': it may be a",
        ),
        (graph({"a": LOOP}, budget={"tokens": 10**400}), "`budget.tokens` is 1000"),
        (graph({"a": {**LOOP, "inputs": {"profile": "\ud800"}}}), "which is no Unicode text"),
        (
            graph(
                {"a": {"kind": "graph", "graph": "b"}, "c": {**LOOP, "when": "$a.chosn"}},
                graphs={"b": graph({"x": LOOP, "y": {"kind": "select", "of": ["x"], "rule": "all"}})},
            ),
            "`$a.chosn`, and a gives status",
        ),
        (graph({"a": LOOP}, result=["b"]), "`result` names 'b', and there is no such node; there are a"),
        (graph({"a": {**PROFILE, "role": "runer"}}), "`nodes.a.role` is 'runer', and there is no such role"),
        (
            graph({"a": {**PROFILE, "work": "profil"}}),
            "`nodes.a.work` is 'profil', and there is no such work; did you mean 'profile' of role run",
        ),
        (graph({"a": {**LOOP, "needs": ["b"]}}), "`nodes.a.needs` names 'b', and there is no such node"),
        (graph({"a": {**LOOP, "needs": ["a"]}}), "`nodes.a.needs` names the node itself"),
        (
            graph(
                {"a": {**LOOP, "needs": ["c"]}, "b": {**LOOP, "needs": ["a"]}, "c": {**LOOP, "needs": ["b"]}}
            ),
            "needs itself: ",
        ),
        (
            graph({"a": {**LOOP, "when": "$b.green"}, "b": {**LOOP, "inputs": {"profile": "$a.reason"}}}),
            "needs itself: ",
        ),
        (graph({"a": PROFILE, "b": LOOP}), "`nodes.a` is unreachable: nothing leads from it to the result"),
        (graph({"a": {**LOOP, "when": False}}), "`nodes.a` is never reached: its `when` cannot hold"),
        (
            graph({"a": {**LOOP, "when": {"all": [True, {"any": [False]}]}}}),
            "`nodes.a` is never reached",
        ),
        (
            graph({"a": {**LOOP, "when": {"nor": []}}}),
            "`nodes.a.when` has to hold one of not, all, any, equal",
        ),
        (graph({"a": {**LOOP, "when": {"equal": [1]}}}), "`nodes.a.when` `equal` takes two values"),
        (graph({"a": {**LOOP, "when": "$inputs.x"}}), "`$inputs.x`, which `inputs` does not declare"),
        (graph({"a": {**LOOP, "when": "$task.mdel"}}), "`$task.mdel`; a task has id, goal, model"),
        (graph({"a": {**LOOP, "when": "$item"}}), "refers to `$item` and has no `for_each`"),
        (
            graph({"a": PROFILE, "b": {**LOOP, "when": "$a.fialing"}}),
            "`nodes.b` refers to `$a.fialing`, and a gives status, reason",
        ),
        (
            graph({"a": {"kind": "agent", "role": "run", "work": "confirm"}}),
            "`nodes.a.inputs.profile` is missing",
        ),
        (graph({"a": {**LOOP, "inputs": {"x": 1}}}), "`nodes.a.inputs.x` is not known; it takes profile"),
        (graph({"a": {"kind": "agent", "role": "review"}}), "`nodes.a.patch_of` is missing"),
        (graph({"a": {"kind": "graph", "graph": "b"}}), "`nodes.a.graph` is 'b', and there is no such graph"),
        (
            graph(
                {"a": {"kind": "graph", "graph": "b"}},
                graphs={"b": graph({"c": {**LOOP, "needs": ["d"]}})},
            ),
            "`graphs.b.nodes.c.needs` names 'd'",
        ),
        (
            graph({"a": LOOP, "b": {**LOOP, "needs": ["a"]}}, budget={"tokens": 10})
            | {
                "nodes": {
                    "a": {**LOOP, "policy": {"budget": {"tokens": 6}}},
                    "b": {**LOOP, "needs": ["a"], "policy": {"budget": {"tokens": 5}}},
                }
            },
            "`budget.tokens` is 10, and its nodes may use 11 (a 6 + b 5)",
        ),
        (
            graph(
                {
                    "a": {**LOOP, "policy": {"budget": {"wall_s": 60}}},
                    "b": {**LOOP, "needs": ["a"], "policy": {"budget": {"wall_s": 50}}},
                },
                budget={"wall_s": 100},
            ),
            "`budget.wall_s` is 100, and the way to b may take 110",
        ),
        (
            graph(
                {"a": {**LOOP, "policy": {"budget": {"tokens": 4}, "retry": {"attempts": 3}}}},
                budget={"tokens": 10},
            ),
            "its nodes may use 12",
        ),
        (
            graph({"a": {**LOOP, "policy": {"on_failure": "continue"}}}, checkpoints=False),
            "`nodes.a.policy.on_failure` is `continue`, which needs `checkpoints`",
        ),
        (graph({f"n{number}": LOOP for number in range(MOST_NODES + 1)}), "`nodes`"),
    ],
)
def test_a_graph_that_cannot_run_is_refused_by_the_path_of_its_fault(
    declared: dict[str, Any], told: str
) -> None:
    assert told in faults(declared)


def test_the_whole_circle_is_told() -> None:
    nodes = {name: {**LOOP, "needs": [need]} for name, need in (("a", "b"), ("b", "c"), ("c", "a"))}

    told = faults(graph(nodes))

    circle = told.partition("needs itself: ")[2].split(" needs ")
    assert circle[0] == circle[-1] and all(
        nodes[one]["needs"] == [next_] for one, next_ in itertools.pairwise(circle)
    )


def test_nodes_side_by_side_share_wall_time_but_not_tokens() -> None:
    side = {name: {**LOOP, "policy": {"budget": {"wall_s": 60}}} for name in ("a", "b")}
    nodes = {**side, "c": {"kind": "select", "of": ["a", "b"], "rule": "first_green"}}

    assert parsed(json.dumps(graph(nodes, budget={"wall_s": 60})), "g").nodes.keys() == nodes.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: g\nname: h\n", "'name' is given twice"),
        ("a: &x [1]\nb: *x\n", "references"),
        ("a: [1", "is not YAML"),
        ("- 1", "holds no graph"),
        ("", "holds no graph"),
        ("name: .nan", "`name` is nan: it has to be a finite number"),
        (
            "name: g\nnodes: {a: {kind: repair_loop, when: 2020-01-01}}\nresult: [a]",
            "`nodes.a.when` is datetime.date",
        ),
        ("a: " + "[" * 3000, "is not YAML"),
    ],
)
def test_a_text_that_is_no_graph_is_refused(text: str, told: str) -> None:
    with pytest.raises(TaskError, match=told.replace("[", r"\[")):
        parsed(text, "g.yaml")


def test_a_file_is_told_from_a_name(tmp_path: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(graph({"a": LOOP})))
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MOST_BYTES + 1))

    assert graph_of(str(file)).name == "g" and graph_of("repair") is shipped("repair")
    for path in (tmp_path / "absent.yaml", tmp_path, large):
        with pytest.raises(TaskError, match="graph file"):
            from_file(path)
    with pytest.raises(TaskError, match="no graph is called 'repiar'"):
        graph_of("repiar")


def test_inputs_are_typed_and_have_defaults() -> None:
    inputs = {"n": {"type": "number"}, "f": {"type": "flag", "default": False}, "t": {"required": True}}
    found = parsed(json.dumps(graph({"a": LOOP}, inputs=inputs)), "g")

    assert inputs_of(found, {"n": "17", "t": 5, "other": 1}) == {"n": 17, "f": False, "t": "5"}
    assert inputs_of(found, {"f": "yes", "t": "x"}) == {"n": None, "f": True, "t": "x"}
    for given in ({}, {"t": "x", "n": "many"}, {"t": "x", "f": 3}, {"t": ["x"]}):
        with pytest.raises(TaskError, match="input"):
            inputs_of(found, given)


def test_the_example_of_the_reference_can_run() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/graphs.md").read_text()

    found = parsed(page.partition("```yaml\n")[2].partition("```")[0], "graphs.md")

    assert found.name == "two-ways"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: 2020-01-01\n", "`name` is datetime.date(2020, 1, 1), a date: put it into quotes"),
        ("name: g\nbudget: {wall_s: .inf}\n", "`budget.wall_s` is inf: it has to be a finite number"),
        ("name: !!binary aGk=\n", "`name` is b'hi', a bytes"),
        ("name: g\nnodes:\n  a: {when: [" + "[" * 70 + "]" * 71 + "}\n", "lies deeper than 64 levels"),
        ("name: g\nname: h\n", "'name' is given twice at line 2"),
        ("? [a]\n: 1\n", "unhashable key at line 1"),
        ("a: " + "[" * 5000, "it lies deeper than 100 levels at line 1"),
    ],
)
def test_values_that_no_graph_holds_are_told_with_their_place(text: str, told: str) -> None:
    with pytest.raises(TaskError) as raised:
        parsed(text, "g.yaml")

    assert told in raised.value.message


def test_many_keys_are_read_in_time_that_grows_with_their_number() -> None:
    text = "\n".join(f"k{number}: 1" for number in range(3000))

    began = time.process_time()
    with pytest.raises(TaskError, match="`k0` is not known"):
        parsed(text, "g.yaml")

    assert time.process_time() - began < 5
