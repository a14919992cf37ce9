"""The environment of a task: which interpreter and which packages a sandbox shows.

The layer looks like a virtual environment at /env, so that `sys.executable`, subprocesses and
`site` work. Its packages are links to the real ones, entry by entry, without Raysmith's own, without
the package under repair and without anything that points into a checkout. It exists only inside.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name

from orchestrator.errors import MachineError, TaskError
from orchestrator.tree import Tree

ENV = "/env"
_SITES = "/opt/raysmith/site"
_PACKAGES = "/opt/raysmith/packages"
_DIST_INFO = re.compile(r"/(?P<name>[\w.-]+?)-(?P<version>\d[^/-]*)\.dist-info$")
OURS = frozenset({"orchestrator", "actors", "cluster", "serve", "configs", "raysmith"})
_RESERVED = ("/work", "/tmp", "/dev", "/proc", "/trusted", ENV)  # noqa: S108 - paths inside a sandbox
_SHARED = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_SHARED_FILES = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/mime.types",
    "/etc/localtime",
    "/etc/ssl/certs",
)
_PREFIX_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "include", "ssl")
_ASK = """
import json, os, site, sys, sysconfig
sites = [p for p in site.getsitepackages() if os.path.isdir(p)]
if not sys.flags.no_user_site and site.ENABLE_USER_SITE and os.path.isdir(site.getusersitepackages()):
    sites.append(site.getusersitepackages())
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "prefixes": sorted({sys.base_prefix, sys.base_exec_prefix}),
    "sites": sites,
    "stdlib": sysconfig.get_path("stdlib"),
    "version": list(sys.version_info[:3]),
    "modules": sorted(sys.stdlib_module_names),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A pytest plugin that a distribution of the layer announces."""

    name: str
    module: str
    distribution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a sandbox shows besides the workspace; a value, nothing of it is on the host.

    Attributes:
        python: Path of the interpreter inside.
        mounts: Host path and path inside, all read-only.
        links: Target and place of every symbolic link.
        files: Text of the files that the layer adds, by path inside.
        plugins: Announced by the packages shown.
        modules: Top-level names that import finds in the layer, the standard library's included.
        version: Of the interpreter.
        host_python: The interpreter on the host, to tell two layers apart in messages.
    """

    python: str
    mounts: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    files: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    modules: frozenset[str] = frozenset()
    version: tuple[int, int, int] = (3, 11, 0)
    host_python: str = ""

    @property
    def distributions(self) -> dict[str, str]:
        """Version of every distribution shown, by canonical name."""
        found = (_DIST_INFO.search(place) for _, place in self.links)
        return {canonicalize_name(each["name"]): each["version"] for each in found if each}


def with_packages(layer: Layer, folder: Path) -> Layer:
    """`layer` with the packages of a folder, which win over its own of the same names."""
    release = ".".join(str(number) for number in layer.version[:2])
    packages = f"{ENV}/lib/python{release}/site-packages"
    inside = f"{_PACKAGES}/{folder.name}"
    entries = {
        entry.name: f"{inside}/{entry.name}" for entry in sorted(folder.iterdir()) if entry.name != "bin"
    }
    added = [(target, f"{packages}/{name}") for name, target in entries.items()]
    places = {place for _, place in added}
    newer = {canonicalize_name(each["name"]) for each in map(_DIST_INFO.search, places) if each}
    kept = [
        (target, place)
        for target, place in layer.links
        if place not in places
        and not ((old := _DIST_INFO.search(place)) and canonicalize_name(old["name"]) in newer)
    ]
    return replace(
        layer,
        mounts=(*layer.mounts, (str(folder), inside)),
        links=(*kept, *added),
        plugins=(*layer.plugins, *_plugins([str(folder)], entries)),
        modules=layer.modules | frozenset(map(_module_name, entries)) - {""},
    )


def build_layer(python: str | None = None, *, without: Iterable[str] = ()) -> Layer:
    """Describe the layer of an interpreter.

    Args:
        python: The interpreter of the task's environment; None for the one Raysmith runs on.
        without: Top-level importable names of the package under repair.

    Raises:
        TaskError: `python` is not an interpreter, or the package under repair is called pytest.
        MachineError: pytest is not installed for it.
    """
    sites = _facts(python or sys.executable)["sites"]
    return _built(python, frozenset(without), tuple(Path(site).stat().st_mtime_ns for site in sites))


@lru_cache(maxsize=32)
def _built(python: str | None, without: frozenset[str], _installed_at: tuple[int, ...]) -> Layer:
    """A layer as long as nothing is installed or removed."""
    facts = _facts(python or sys.executable)
    hidden = without | (OURS if python is None else frozenset())
    entries = _entries(facts["sites"], hidden)
    if "pytest" in hidden:
        raise TaskError(
            "the folder has a module called pytest, which takes the place of pytest itself", "rename it"
        )
    if "pytest" not in entries:
        raise MachineError(
            f"{python or sys.executable} has no pytest",
            f"run `{python or sys.executable} -m pip install pytest`",
        )
    release = ".".join(str(number) for number in facts["version"][:2])
    packages = f"{ENV}/lib/python{release}/site-packages"
    mounts, moved = _mounts(facts)
    executable = _inside(facts["executable"], moved)
    links = [(executable, f"{ENV}/bin/{name}") for name in ("python", "python3", f"python{release}")] + [
        (target, f"{packages}/{name}") for name, target in sorted(entries.items())
    ]
    config = f"home = {PurePosixPath(executable).parent}\ninclude-system-site-packages = false\n"
    names = frozenset(_module_name(name) for name in entries)
    standard = frozenset(facts["modules"])
    return Layer(
        python=f"{ENV}/bin/python",
        mounts=tuple(mounts),
        links=tuple(links),
        files={f"{ENV}/pyvenv.cfg": config + f"version = {release}\n"},
        plugins=tuple(_plugins(facts["sites"], entries)),
        modules=(names | standard) - {""},
        version=tuple(facts["version"]),
        host_python=facts["executable"],
    )


def importable_names(tree: Tree) -> frozenset[str]:
    """Top-level names that import could find in a tree, at its root and below `src`."""
    names = set()
    for path in tree.files:
        parts = PurePosixPath(path).parts
        if parts[0] == "src" and len(parts) > 1:
            parts = parts[1:]
        if len(parts) > 1 and path.endswith(".py"):
            names.add(parts[0])
        elif parts[0].endswith(".py"):
            names.add(parts[0].removesuffix(".py"))
    return frozenset(name for name in names if name.isidentifier())


@lru_cache(maxsize=32)
def _facts(python: str) -> dict[str, Any]:
    if Path(python) == Path(sys.executable):
        return _own_facts()
    try:
        told = subprocess.run(
            [python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise TaskError(
            f"{python!r} is not a working Python interpreter: {words[-1] if words else error}",
            "name one with --python, for example .venv/bin/python",
        ) from error
    facts: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    if tuple(facts["version"]) < (3, 9):
        raise MachineError(f"{python} is Python {facts['version']}", "use Python 3.9 or later")
    return facts


def _own_facts() -> dict[str, Any]:
    base = getattr(sys, "_base_executable", None) or sys.executable
    return {
        "executable": str(Path(base).resolve()),
        "prefixes": sorted({sys.base_prefix, sys.base_exec_prefix}),
        "sites": [path for path in dict.fromkeys(map(str, map(Path, _own_sites()))) if Path(path).is_dir()],
        "stdlib": sysconfig.get_path("stdlib"),
        "version": list(sys.version_info[:3]),
        "modules": sorted(sys.stdlib_module_names),
    }


def _own_sites() -> list[str]:
    import site

    sites = site.getsitepackages()
    return [*sites, site.getusersitepackages()] if site.ENABLE_USER_SITE else sites


def _entries(sites: list[str], hidden: frozenset[str]) -> dict[str, str]:
    """Entry name to its path inside, the first site folder winning, as on sys.path."""
    entries: dict[str, str] = {}
    for number, site in enumerate(sites):
        editable = _editable(Path(site))
        for entry in sorted(Path(site).iterdir()):
            if entry.name not in entries and _shown(entry, hidden, editable):
                entries[entry.name] = f"{_SITES}/{number}/{entry.name}"
    return entries


def _shown(entry: Path, hidden: frozenset[str], editable: frozenset[str]) -> bool:
    name = entry.name
    if name.startswith(("__editable__", "__editable___")) or name.endswith(".egg-link"):
        return False
    if name.endswith(".pth"):
        return not _points_out(entry)
    if name.endswith((".dist-info", ".egg-info")):
        distribution = re.split(r"-\d", name.removesuffix(".dist-info").removesuffix(".egg-info"))[0]
        return distribution.replace("-", "_").lower() not in hidden and name not in editable
    return _module_name(name) not in hidden


def _editable(site: Path) -> frozenset[str]:
    """Metadata folders of distributions that are installed from a checkout."""
    return frozenset(
        url.parent.name
        for url in site.glob("*.dist-info/direct_url.json")
        if '"editable": true' in url.read_text(errors="replace")
    )


def _points_out(pth: Path) -> bool:
    """Whether a .pth file adds a folder outside its own, or runs an editable install's hook."""
    try:
        lines = pth.read_text(errors="replace").splitlines()
    except OSError:
        return True
    for line in lines:
        if line.startswith(("import ", "import\t")):
            if "__editable__" in line:
                return True
        elif line.strip() and not line.startswith("#"):
            folder = (pth.parent / line.strip()).resolve()
            if not folder.is_relative_to(pth.parent.resolve()):
                return True
    return False


def _module_name(entry: str) -> str:
    """What `import` calls an entry of a packages folder; empty for what is no module."""
    if entry.endswith((".dist-info", ".egg-info", ".pth", ".libs")) or entry == "__pycache__":
        return ""
    return entry.partition(".")[0]


def _mounts(facts: Mapping[str, Any]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Mounts of a layer, and the prefixes that cannot keep their own path inside."""
    mounts = [(path, path) for path in _SHARED if Path(path).is_dir() and not Path(path).is_symlink()]
    mounts += [(path, path) for path in _SHARED_FILES if Path(path).exists()]
    moved: dict[str, str] = {}
    for number, prefix in enumerate(facts["prefixes"]):
        if prefix == "/usr" or Path(prefix).is_relative_to("/usr") or prefix == "/":
            continue
        target = prefix
        if any(prefix == taken or prefix.startswith(taken + "/") for taken in _RESERVED):
            target = moved[prefix] = f"/opt/raysmith/base/{number}"
        # Never the whole prefix: where it is ~/.local, a keyring lies beside the interpreter.
        parts = [name for name in _PREFIX_PARTS if Path(prefix, name).is_dir()]
        mounts += [(f"{prefix}/{name}", f"{target}/{name}") for name in parts]
    if not any(Path(facts["executable"]).is_relative_to(prefix) for prefix in [*facts["prefixes"], "/usr"]):
        raise MachineError(
            f"{facts['executable']} lies outside its prefix {facts['prefixes']}", "use another interpreter"
        )
    mounts += [(site, f"{_SITES}/{number}") for number, site in enumerate(facts["sites"])]
    return mounts, moved


def _inside(path: str, moved: Mapping[str, str]) -> str:
    for prefix, target in moved.items():
        if Path(path).is_relative_to(prefix):
            return f"{target}/{Path(path).relative_to(prefix)}"
    return path


def shared_links() -> list[tuple[str, str]]:
    """Links at the root of the host (/bin -> usr/bin) that the sandbox repeats."""
    return [(str(Path(path).readlink()), path) for path in _SHARED if Path(path).is_symlink()]


def _plugins(sites: list[str], entries: Mapping[str, str]) -> list[Plugin]:
    """The `pytest11` entry points of the distributions shown."""
    plugins = []
    for site in sites:
        for file in sorted(Path(site).glob("*.dist-info/entry_points.txt")):
            if file.parent.name in entries:
                plugins += _announced(file)
    return plugins


def _announced(file: Path) -> list[Plugin]:
    section, found = "", []
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == "pytest11" and "=" in line:
            name, _, module = line.partition("=")
            distribution = re.split(r"-\d", file.parent.name)[0].replace("_", "-").lower()
            found.append(
                Plugin(name=name.strip(), module=module.partition("[")[0].strip(), distribution=distribution)
            )
    return found
