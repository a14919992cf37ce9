"""The layers of the configuration and what each says of a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import TaskError
from orchestrator.verdict import Level
from serve.config import Config, home, load, shipped

REFERENCE = Path(__file__).parents[3] / "docs/reference/configuration.md"


def flat(values: object, above: str = "") -> dict[str, object]:
    if not isinstance(values, dict):
        return {above: values}
    return {
        path: leaf
        for key, value in values.items()
        for path, leaf in flat(value, f"{above}.{key}" if above else key).items()
    }


def test_the_shipped_file_holds_exactly_the_defaults() -> None:
    written = yaml.safe_load(shipped("laptop.yaml"))
    defaults = Config().model_dump(mode="json")
    first_group = defaults["fleet"][0]

    assert flat({**written, "fleet": None}) == flat({**defaults, "fleet": None})
    assert written["fleet"][0] == first_group
    assert Config.model_validate(written) == Config()


def test_every_shipped_setting_has_a_sentence() -> None:
    lines = [line.strip() for line in shipped("laptop.yaml").splitlines()]
    settings = [
        number
        for number, line in enumerate(lines)
        if re.match(r"(- )?[{\w]", line) and not line.startswith("#")
    ]

    bare = [
        lines[number]
        for number in settings
        if "#" not in lines[number] and not lines[number - 1].startswith("#")
    ]

    assert len(settings) > 40
    assert bare == []


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("budget: {attempts: 2, wall_s: 10}\nsandbox:\n  minimum: kernel\n")

    loaded = load(
        file, ["budget.attempts=4"], environ={"RAYSMITH_BUDGET__WALL_S": "20", "RAYSMITH_MODEL": "1.5"}
    )

    assert loaded.config.budget.attempts == 4
    assert loaded.config.budget.wall_s == 20
    assert loaded.config.sandbox.minimum is Level.KERNEL
    assert loaded.config.model == "1.5"
    assert loaded.config.budget.test_timeout_s == 300


def test_the_configuration_survives_as_json_values() -> None:
    loaded = load(environ={})

    assert Config.model_validate(loaded.mapping()) == loaded.config


def test_a_file_named_by_the_environment_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("http: {port: 9000}\n")

    assert load(environ={"RAYSMITH_CONFIG": str(file)}).config.http.port == 9000


def test_ray_address_is_taken_and_the_own_setting_wins() -> None:
    assert load(environ={"RAY_ADDRESS": "10.0.0.1:6379"}).config.ray.address == "10.0.0.1:6379"
    both = {"RAY_ADDRESS": "10.0.0.1:6379", "RAYSMITH_RAY__ADDRESS": "auto"}
    assert load(environ=both).config.ray.address == "auto"


@pytest.mark.parametrize(
    ("text", "path", "meant"),
    [
        ("sandbox: {timeout: 3}", "sandbox.timeout", "sandbox.timeout_s"),
        ("budjet: {attempts: 3}", "budjet", "budget"),
        ("judge:\n  timeout_s: 3", "judge.timeout_s", "sandbox.timeout_s"),
        ("attempts: 3", "attempts", "budget.attempts"),
        ("fleet: [{name: a, roles: [run], max_replica: 3}]", "fleet.0.max_replica", "fleet.0.max_replicas"),
    ],
)
def test_an_unknown_key_is_refused_by_its_path(tmp_path: Path, text: str, path: str, meant: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)

    with pytest.raises(TaskError) as refused:
        load(file, environ={})

    assert refused.value.message == f"`{path}` is not a setting (in {file})"
    assert refused.value.next_move == f"did you mean `{meant}`?"


def test_an_unknown_variable_is_refused_by_its_name() -> None:
    with pytest.raises(
        TaskError, match=r"`budget\.atempts` is not a setting \(in RAYSMITH_BUDGET__ATEMPTS\)"
    ):
        load(environ={"RAYSMITH_BUDGET__ATEMPTS": "3"})


def test_variables_that_kubernetes_sets_for_a_service_are_none_of_ours() -> None:
    environ = {
        "RAYSMITH_SERVICE_HOST": "10.0.0.1",
        "RAYSMITH_SERVICE_PORT_HTTP": "80",
        "RAYSMITH_PORT": "tcp://10.0.0.1:80",
        "RAYSMITH_PORT_80_TCP_ADDR": "10.0.0.1",
        "RAYSMITH_HEAD_SVC_SERVICE_PORT": "6379",
    }

    assert load(environ=environ).config == load(environ={}).config
    assert load(environ={"RAYSMITH_HTTP__PORT": "81"}).config.http.port == 81


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: {attempts: many}", "`budget.attempts` is 'many'"),
        ("budget: {attempts: true}", "`budget.attempts` is True"),
        ("budget: {attempts: 2.5}", "`budget.attempts` is 2.5"),
        ("budget: {wall_s: -1}", "`budget.wall_s` is -1"),
        ("budget: {wall_s: .inf}", "`budget.wall_s` is inf"),
        ("budget: [1]", "`budget` is [1]"),
        ("sandbox: {minimum: strong}", "`sandbox.minimum` is 'strong'"),
        ("sandbox: {memory_mib: 0}", "sandbox.memory_mib is 0"),
        ("fleet: [{name: a, roles: [run], max_replicas: 0}]", "fleet.a.max_replicas"),
        ("fleet: [{name: a, roles: run}]", "`fleet.0.roles` is 'run'"),
        ("store: {synchronous: OFF}", "`store.synchronous` is"),
        ("- a\n- b", "holds no settings"),
        ("a: [", "is not YAML"),
        ("model: a\nmodel: b", "'model' is given twice"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)

    with pytest.raises(TaskError) as refused:
        load(file, environ={})

    assert message in str(refused.value)


def test_a_setting_below_a_plain_value_is_refused() -> None:
    with pytest.raises(TaskError, match="`model` is '' and holds no `name`"):
        load(settings=["model.name=x"], environ={})


def test_a_flag_without_a_value_is_refused() -> None:
    with pytest.raises(TaskError, match="write KEY=VALUE"):
        load(settings=["budget.attempts"], environ={})


def test_an_empty_file_changes_nothing_and_an_absent_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")

    assert load(tmp_path / "empty.yaml", environ={}).config == load(environ={}).config
    with pytest.raises(TaskError, match=r"absent\.yaml cannot be read: No such file"):
        load(tmp_path / "absent.yaml", environ={})


def test_home_is_the_named_folder_or_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")

    assert home({"RAYSMITH_HOME": "/data/rs"}) == Path("/data/rs")
    assert home({}).name == "raysmith"
