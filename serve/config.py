"""Every setting, composed from where it is used. The only module that reads `os.environ`.

Layers, each over the one before: `configs/laptop.yaml`, `--config FILE`, `RAYSMITH_*`, flags.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.dependencies.settings import DependencySettings
from actors.engines.names import KEY_OF_URLS
from actors.engines.providers import ProviderSettings, RoutingSettings
from actors.engines.settings import EndpointSettings, SamplingSettings, VllmSettings
from actors.formats import ReplySettings
from actors.portfolio import RepairSettings
from actors.sandbox.settings import SandboxSettings
from actors.search.settings import SearchSettings
from actors.shell.settings import ShellSettings
from actors.workspace import SnapshotSettings
from cluster.fleet import ReplicaGroup
from cluster.orchestrator_settings import OrchestratorSettings
from cluster.ray_settings import RaySettings
from cluster.store_settings import StoreSettings
from cluster.strict_yaml import NoDuplicates
from orchestrator.errors import RaysmithError, TaskError
from orchestrator.scheduling import SchedulingSettings
from orchestrator.task import AgentSettings, Budget
from orchestrator.verdict import JudgeKind
from serve.slack_settings import SlackSettings

_PREFIX = "RAYSMITH_"
_TESTING = "RAYSMITH_TESTING"
_TRUTHS = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}
_SLACK_TOKEN = "RAYSMITH_SLACK__TOKEN"  # noqa: S105  # its name, not the token
_BESIDE = {
    "RAYSMITH_HOME": "Folder of all state; default: the platform's, ~/.local/state/raysmith on Linux.",
    "RAYSMITH_CONFIG": "Configuration file, as --config names one.",
    "RAYSMITH_API_KEYS": "Keys of the HTTP door, as ID:SHA256,… (docs/howto/http-api.md).",
    KEY_OF_URLS: "Key of the endpoint that a model of the form URL#NAME names.",
    _TESTING: "1 prefers models that are free or local (`routing.testing`).",
    "RAYSMITH_FAILPOINT": "For fault tests: NAME:ACTION[:NTH].",
}
_RESERVED = frozenset(_BESIDE)
# Kubernetes tells every pod of the namespace about a Service called `raysmith…` in variables of these forms.
_OF_KUBERNETES = re.compile(
    r"RAYSMITH_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """What a certificate needs."""

    minimum: JudgeKind = JudgeKind.IN_PROCESS
    """The weakest judge whose word makes a certificate."""
    strength: float = 0.0
    """Least share of a stub and of small changes that tests written for a goal notice; 0 measures nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The HTTP door."""

    host: str = "127.0.0.1"
    """Address to bind; beyond loopback every request needs an API key."""
    port: int = 8000
    """TCP port."""
    max_body_mib: int = 32
    """Largest request body, an archive included."""
    max_streams: int = 256
    """Event streams that one ingress replica holds open at a time."""
    replicas: int = 1
    """Ingress replicas."""
    labels: tuple[str, ...] = ()
    """Labels, each KEY=VALUE, of the nodes where ingress replicas may be placed."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may name beside loopback's own; beyond loopback none means any."""
    local_paths: tuple[str, ...] = ()
    """Folders below which a request may name a `path` on this machine."""
    models: tuple[str, ...] = ()
    """Models that a request may name beside the configured one."""


# Shares, not whole CPUs: the groups have to fit on one, and a sandbox's limits are not Ray's.
LAPTOP_FLEET = (
    ReplicaGroup(name="runners", roles=("run",), min_replicas=2, max_replicas=2, num_cpus=0.25),
    ReplicaGroup(name="repairers", roles=("repair",), min_replicas=1, max_replicas=2, num_cpus=0.1),
    ReplicaGroup(name="coders", roles=("code", "plan", "review"), max_replicas=1, num_cpus=0.05),
    ReplicaGroup(name="testers", roles=("test",), max_replicas=1, num_cpus=0.05),
)


class Config(BaseModel):
    """All settings of one factory; a key that is not here is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: str = ""
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "default"
    budget: Budget = Budget()
    sandbox: SandboxSettings = SandboxSettings()
    dependencies: DependencySettings = DependencySettings()
    judge: JudgeSettings = JudgeSettings()
    agents: AgentSettings = AgentSettings()
    repair: RepairSettings = RepairSettings()
    reply: ReplySettings = ReplySettings()
    search: SearchSettings = SearchSettings()
    shell: ShellSettings = ShellSettings()
    sampling: SamplingSettings = SamplingSettings()
    endpoint: EndpointSettings = EndpointSettings()
    providers: dict[str, ProviderSettings] = {}
    routing: RoutingSettings = RoutingSettings()
    vllm: VllmSettings = VllmSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    fleet: tuple[ReplicaGroup, ...] = LAPTOP_FLEET
    scheduling: SchedulingSettings = SchedulingSettings()
    orchestrator: OrchestratorSettings = OrchestratorSettings()
    store: StoreSettings = StoreSettings()
    ray: RaySettings = RaySettings()
    http: HttpSettings = HttpSettings()
    slack: SlackSettings = SlackSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration and where the factory's state lives."""

    config: Config
    home: Path
    sources: Mapping[str, str] = field(default_factory=dict)

    def mapping(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return self.config.model_dump(mode="json")


def load(
    file: Path | None = None,
    settings: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """All layers together.

    Args:
        file: What `--config` named; without it the file that RAYSMITH_CONFIG names, if any.
        settings: Flags, each `KEY=VALUE` with a dotted key.
        environ: The environment, `os.environ` when None.

    Raises:
        TaskError: An unknown key, by its path and with the likeliest one meant, or a wrong
            value, with its path and where it came from.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get("RAYSMITH_CONFIG"):
        file = Path(environ["RAYSMITH_CONFIG"])
    layers = _Layers()
    layers.lay_file("configs/laptop.yaml", shipped("laptop.yaml"))
    if file is not None:
        layers.lay_file(str(file), _text(file))
    if environ.get(_TESTING):
        layers.set_text(
            "routing.testing", _TRUTHS.get(environ[_TESTING].lower(), environ[_TESTING]), _TESTING
        )
    if environ.get("RAY_ADDRESS"):
        layers.set("ray.address", environ["RAY_ADDRESS"], "RAY_ADDRESS")
    for name, value in _variables(environ):
        layers.set_text(name.removeprefix(_PREFIX).lower().replace("__", "."), value, name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise TaskError(f"setting {setting!r} has no value", "write KEY=VALUE, as in budget.attempts=3")
        layers.set_text(key.strip(), value, f"--set {key.strip()}")
    return Loaded(config=layers.validated(), home=home(environ), sources=layers.sources)


def home(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of all state: RAYSMITH_HOME, else the platform's state folder."""
    environ = os.environ if environ is None else environ
    named = environ.get("RAYSMITH_HOME")
    return Path(named).expanduser().absolute() if named else user_state_path("raysmith")


def api_keys(environ: Mapping[str, str] | None = None) -> str:
    """RAYSMITH_API_KEYS: the hashes of API keys, as `raysmith keys create` prints them."""
    return (os.environ if environ is None else environ).get("RAYSMITH_API_KEYS", "")


def variables_beside_settings() -> Mapping[str, str]:
    """Variables that are no settings, with what each is for."""
    return _BESIDE


def shipped(name: str) -> str:
    """The text of a configuration file that comes with Raysmith."""
    return resources.files("configs").joinpath(name).read_text()


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in sorted(environ.items())
        if name.startswith(_PREFIX)
        and name not in _RESERVED
        and ("__" in name or not _OF_KUBERNETES.fullmatch(name))
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise TaskError(f"configuration {file} cannot be read: {reason}", "check the path") from error


class _Layers:
    """Values laid over each other; remembers who said each last."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._defaults = dict(_leaves(Config().model_dump(mode="json"), lists=True))

    def lay_file(self, source: str, text: str) -> None:
        try:
            content = yaml.load(text, Loader=NoDuplicates)  # noqa: S506  # a SafeLoader, stricter
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise TaskError(f"{source} is not YAML: {reason}", "mend the line it names") from error
        if content is None:
            return
        if not isinstance(content, dict):
            raise TaskError(f"{source} holds no settings", "write `section:` and its keys below it")
        for path, value in _leaves(content):
            self.set(path, value, source)

    def set_text(self, path: str, text: str, source: str) -> None:
        """`text` of a variable or flag: as it is where a text belongs, else read as YAML."""
        if isinstance(self._defaults.get(path), str):
            return self.set(path, text, source)
        try:
            self.set(path, yaml.safe_load(text), source)
        except yaml.YAMLError:
            self.set(path, text, source)

    def set(self, path: str, value: Any, source: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise TaskError(f"`{path}` is {value} (in {source})", "give a finite number")
        self.sources[path] = source
        at: Any = self._values
        *above, last = path.split(".")
        for depth, part in enumerate(above):
            below = _below(at, part)
            if not isinstance(below, dict | list):
                here = ".".join(above[: depth + 1])
                raise TaskError(
                    f"`{here}` is {_without_secrets(below)} and holds no `{last}` (set by {source})",
                    _meant(path, self._defaults),
                )
            at = below
        _put(at, last, value, path)

    def validated(self) -> Config:
        try:
            text = json.dumps(self._values, default=str)
            config = Config.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise self._explained(error) from error
        except RaysmithError as error:
            raise TaskError(error.message, error.next_move) from error
        if config.model.partition(":")[0] == "auto":
            _check_auto(config)
        if config.slack.token and self.sources.get("slack.token") != _SLACK_TOKEN:
            raise TaskError(
                f"`slack.token` is a secret and stands in {self.sources.get('slack.token', 'a setting')}",
                f"give it as {_SLACK_TOKEN}, or in a file that `slack.token_file` names",
            )
        for path, value in _leaves(config.model_dump(mode="json"), lists=True):
            if isinstance(value, int | float) and value < 0 and not path.startswith(_FOREIGN):
                raise TaskError(f"`{path}` is {value}{self._said(path)}", "give 0 or more")
        return config

    def _explained(self, error: ValidationError) -> TaskError:
        first = min(error.errors(), key=lambda each: each["type"] not in _UNKNOWN)
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] in _UNKNOWN:
            return TaskError(f"`{path}` is not a setting{self._said(path)}", _meant(path, self._defaults))
        reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        shown = "…" if path in ("slack", "slack.token") else _without_secrets(first["input"])
        return TaskError(f"`{path}` is {shown}{self._said(path)}", f"it has to be {reason}")

    def _said(self, path: str) -> str:
        last = [
            source
            for key, source in self.sources.items()
            if f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}.")
        ]
        return f" (in {last[-1]})" if last else ""


def _check_auto(config: Config) -> None:
    if not config.providers:
        raise TaskError("`model` is auto and `providers` is empty", "add a provider, or name one model")
    among = config.model.partition(":")[2]
    known = {*config.providers, *(tag for each in config.providers.values() for tag in each.tags)}
    if among and among not in known:
        raise TaskError(
            f"`model` is {config.model!r}, and no provider is called or tagged so",
            f"use auto, or auto: and one of {', '.join(sorted(known))}",
        )


# Where another program's settings pass through as they are.
_FOREIGN = "vllm.args."
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
# Who may open a URL; a password may hold anything where somebody forgot to quote it.
_USERINFO = re.compile(r"(\w+://)[^'\"]*@")
_PASSWORD = re.compile(r"(?i)(\b(?:ssl)?password=)[^&'\"\s]+")


def _without_secrets(value: Any) -> str:
    """`value` for a message, URLs in it without who may open them."""
    return _PASSWORD.sub(r"\1…", _USERINFO.sub(r"\1…@", repr(value)))


def _leaves(values: Any, above: str = "", *, lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is not a mapping; a list is one value unless `lists`."""
    if lists and isinstance(values, list):
        values = {str(number): value for number, value in enumerate(values)}
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, f"{above}.{key}" if above else str(key), lists=lists)
    elif above:
        yield above, values


def _below(at: Any, part: str) -> Any:
    if isinstance(at, list):
        return at[int(part)] if part.isdigit() and int(part) < len(at) else None
    return at.setdefault(part, {})


def _put(at: Any, last: str, value: Any, path: str) -> None:
    if isinstance(at, dict):
        at[last] = value
    elif last.isdigit() and int(last) < len(at):
        at[int(last)] = value
    else:
        raise TaskError(f"`{path}` is not a setting", f"the list has {len(at)} entries, counted from 0")


def _meant(path: str, defaults: Mapping[str, Any]) -> str:
    above, _, last = path.rpartition(".")
    sections = {key.split(".", 1)[0] for key in defaults}
    beside = [key for key in (*defaults, *sections) if key.rpartition(".")[0] == above]
    close = _closest(last, beside) or _closest(last, defaults)
    return f"did you mean `{close}`?" if close else "docs/reference/configuration.md lists all settings"


def _closest(name: str, paths: Iterable[str]) -> str | None:
    by_name = {path.rpartition(".")[2]: path for path in reversed(list(paths))}
    found = difflib.get_close_matches(name, by_name, n=1)
    return by_name[found[0]] if found else None
