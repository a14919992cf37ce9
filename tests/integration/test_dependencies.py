"""A task that needs packages: declared or found missing, allowed or refused, installed confined and kept."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from wheels import wheel

from actors.dependencies.collect import unpack
from actors.dependencies.installer import Refused
from actors.dependencies.settings import DependencySettings, Unknown
from actors.judge.profile import MissingDependency
from actors.runner import Runner
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.errors import SandboxError
from orchestrator.ports import SessionSpec
from orchestrator.steps import ProfileRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import Level, Outcome

SETTINGS = SandboxSettings(timeout_s=60)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"nothing confines here: {_REPORT.error}"),
]


def tree(**files: str) -> Tree:
    return Tree(files={name.replace("__", "."): File(content=text.encode()) for name, text in files.items()})


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


def runner(index: Path, *allow: str) -> Runner:
    kept = index.parent / "kept"
    return Runner(SETTINGS, DependencySettings(index=str(index), allow=allow, folder=str(kept)))


TASK = tree(
    shop__py="import greetings\n\ndef hello(): return greetings.hello('you')\n",
    test_shop__py="import shop\n\ndef test_hello(): assert shop.hello() == 'hello you'\n",
)


async def test_a_missing_module_is_found_in_a_wheel_of_another_name_and_reused(index: Path) -> None:
    made = wheel(
        index,
        "polite_words",
        needs=("tiny-base>=1",),
        greetings__py="import tinybase\n\ndef hello(who): return tinybase.join('hello', who)\n",
    )
    base = wheel(index, "tiny_base", tinybase__py="def join(*words): return ' '.join(words)\n")
    run = runner(index, "polite-words", "tiny_base")

    profiled = await run.profile(ProfileRequest(tree=TASK))
    layers = list((index.parent / "kept").iterdir())
    made.unlink()
    base.unlink()
    later = await run.test(TestRequest(base=TASK, candidate=TASK, profile=profiled.profile, timeout_s=60))

    assert profiled.profile.expected == {"test_shop.py::test_hello": Outcome.PASSED}
    assert [line.partition(" ")[0] for line in profiled.profile.packages] == [
        "polite-words==1.0",
        "tiny-base==1.0",
    ]
    assert all("--hash=sha256:" in line for line in profiled.profile.packages)
    assert later.outcomes == {"test_shop.py::test_hello": Outcome.PASSED}
    assert len(layers) == 1


async def test_a_warm_sandbox_sees_the_packages_of_its_profile(index: Path) -> None:
    wheel(index, "greetings", greetings__py="def hello(who): return f'hello {who}'\n")
    run = runner(index, "greetings")
    profiled = await run.profile(ProfileRequest(tree=TASK))
    spec = SessionSpec(
        tree=TASK,
        arguments=(),
        options=(),
        plugins=(),
        python=None,
        timeout_s=30,
        packages=profiled.profile.packages,
    )

    session = await run.open_session(spec)
    started, _ = await run.call_session(
        session, "start", {"arguments": [], "options": [], "plugins": [], "sources": ["shop.py"]}, 60
    )
    await run.close_session(session)

    assert "test_shop.py::test_hello" in str(started)


async def test_what_policy_does_not_name_is_refused_before_pip_is_asked(index: Path) -> None:
    wheel(index, "greetings", greetings__py="def hello(who): return f'hello {who}'\n")

    with pytest.raises(Refused, match=r"needs greetings, which dependencies\.allow does not name"):
        await runner(index).profile(ProfileRequest(tree=TASK))

    assert not (index.parent / "kept").exists()


async def test_what_an_allowed_package_needs_has_to_be_allowed_too(index: Path) -> None:
    wheel(index, "greetings", needs=("surprise",), greetings__py="")
    wheel(index, "surprise", surprise__py="")

    with pytest.raises(Refused, match=r"needs surprise, which dependencies\.allow does not name"):
        await runner(index, "greetings").profile(ProfileRequest(tree=TASK))


async def test_a_name_that_nobody_ever_packaged_is_refused(index: Path) -> None:
    with pytest.raises(Refused, match="holds no wheel"):
        await runner(index, "greetings").profile(ProfileRequest(tree=TASK))


async def test_a_source_distribution_is_never_built(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "built"
    setup = (
        f"open({str(marker)!r}, 'w')\nfrom setuptools import setup\nsetup(name='greetings', version='1.0')\n"
    )
    with tarfile.open(index / "greetings-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", setup),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n"),
        ):
            member = tarfile.TarInfo(f"greetings-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))

    with pytest.raises(Refused, match="holds no wheel"):
        await runner(index, "greetings").profile(ProfileRequest(tree=TASK))

    assert not marker.exists()


async def test_declared_versions_are_honoured(index: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        wheel(
            index,
            "greetings",
            version,
            greetings__py=f"def hello(who): return 'hello you'\nv = {version!r}\n",
        )
    asks = tree(
        requirements__txt="--index-url https://example.invalid/simple\ngreetings<3  # not yet\n-e .\n",
        test_v__py="import greetings\n\ndef test_v(): assert greetings.v == '2.0'\n",
    )
    project = tree(
        pyproject__toml=(
            '[project]\nname = "x"\nversion = "1"\n'
            '[project.optional-dependencies]\ntest = ["greetings==1.0"]\n'
        ),
        test_v__py="import greetings\n\ndef test_v(): assert greetings.v == '1.0'\n",
    )
    run = runner(index, "greetings")

    by_requirements = await run.profile(ProfileRequest(tree=asks))
    by_project = await run.profile(ProfileRequest(tree=project))

    assert by_requirements.profile.expected == {"test_v.py::test_v": Outcome.PASSED}
    assert by_project.profile.expected == {"test_v.py::test_v": Outcome.PASSED}
    assert len(list((index.parent / "kept").iterdir())) == 2


async def test_a_hostile_wheel_runs_nothing_at_install_and_none_of_its_hooks_later(index: Path) -> None:
    wheel(index, "greetings", needs=("helper",), greetings__py="def hello(who): return f'hello {who}'\n")
    wheel(
        index,
        "helper",
        evil__pth="import sys; sys.stderr.write('PTH RAN')\n",
        evil_plugin__py="raise SystemExit('PLUGIN RAN')\n",
        **{"helper-1__0__dist-info___entry_points__txt": "[pytest11]\nevil = evil_plugin\n"},
    )

    profiled = await runner(index, "greetings", "helper").profile(ProfileRequest(tree=TASK))

    assert "RAN" not in profiled.run.output
    assert profiled.profile.expected == {"test_shop.py::test_hello": Outcome.PASSED}
    assert list((index.parent / "kept").rglob("*.pth")) == []


async def test_a_wheel_that_changed_after_the_lock_is_refused(index: Path) -> None:
    path = wheel(index, "greetings", greetings__py="def hello(who): return f'hello {who}'\n")
    run = runner(index, "greetings")
    profile = (await run.profile(ProfileRequest(tree=TASK))).profile
    assert hashlib.sha256(path.read_bytes()).hexdigest() in profile.packages[0]
    (index.parent / "kept").rename(index.parent / "gone")
    path.unlink()
    wheel(index, "greetings", greetings__py="def hello(who): return 'evil'\n")

    with pytest.raises(Refused, match="cannot be installed"):
        await run.test(TestRequest(base=TASK, candidate=TASK, profile=profile, timeout_s=60))


async def test_a_person_is_asked_about_exactly_the_wheels_and_allows_no_others(index: Path) -> None:
    wheel(index, "greetings", needs=("helper",), greetings__py="def hello(who): return f'hello {who}'\n")
    helper = wheel(index, "helper", helper__py="")
    kept = index.parent / "kept"
    asking = DependencySettings(index=str(index), allow=("helper",), unknown=Unknown.PARK, folder=str(kept))
    run = Runner(SETTINGS, asking)

    asked = (await run.profile(ProfileRequest(tree=TASK))).asks
    assert asked is not None and not kept.exists()
    allowed = await run.profile(ProfileRequest(tree=TASK, allowed=asked.packages))
    helper.rename(index / "spare")
    wheel(index, "greetings", greetings__py="def hello(who): return 'another hello you'\n")
    changed = (await run.profile(ProfileRequest(tree=TASK, allowed=asked.packages))).asks

    assert asked.why == "test_shop.py"
    assert [line.partition(" --hash=sha256:")[0] for line in asked.packages] == ["greetings==1.0"]
    assert allowed.asks is None
    assert allowed.profile.expected == {"test_shop.py::test_hello": Outcome.PASSED}
    assert len(allowed.profile.packages) == 2
    assert changed is not None and changed.packages != asked.packages


async def test_nobody_is_asked_about_a_package_that_does_not_exist(index: Path) -> None:
    asking = DependencySettings(index=str(index), unknown=Unknown.PARK)

    with pytest.raises(Refused, match="holds no wheel"):
        await Runner(SETTINGS, asking).profile(ProfileRequest(tree=TASK))


async def test_without_a_folder_of_wheels_nothing_changes() -> None:
    with pytest.raises(MissingDependency, match="greetings") as raised:
        await Runner(SETTINGS).profile(ProfileRequest(tree=TASK))

    assert (raised.value.path, raised.value.module) == ("test_shop.py", "greetings")


@pytest.mark.parametrize("kind", ["climbs", "absolute", "link", "device"])
def test_only_plain_files_are_taken_out_of_an_install_sandbox(tmp_path: Path, kind: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        names = {"climbs": "../escape", "absolute": str(tmp_path / "escape")}
        member = tarfile.TarInfo(names.get(kind, "inside"))
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
        if kind == "device":
            member.type = tarfile.CHRTYPE
        archive.addfile(member)
    folder = tmp_path / "packages"
    folder.mkdir()

    with pytest.raises(SandboxError):
        unpack(out.getvalue(), folder)

    assert os.listdir(folder) == []
    assert not (tmp_path / "escape").exists()
