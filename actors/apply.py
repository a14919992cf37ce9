"""A patch is laid over a folder: all of it or none, and only over what it was made from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.beneath import Beneath, NotRegular, TooLarge, check_path
from actors.workspace import check_links
from orchestrator.errors import TaskError
from orchestrator.tree import File, Tree


def apply_changes(path: Path, base: Tree, changes: Mapping[str, File | None]) -> tuple[str, ...]:
    """Write `changes` into the folder `path`, all of them or none.

    Every file of `base` must still be there unchanged, else the patch was made for something
    else. Files that `base` does not know are left alone, unless a change would overwrite one.

    Returns:
        The paths written or removed, sorted.

    Raises:
        TaskError: The folder changed meanwhile, or a change would leave it; nothing is written.
        OSError: Writing failed, and what had been written is taken back.
    """
    for name in changes:
        check_path(name)
    check_links(path, base.with_files(changes))
    try:
        with Beneath(path) as folder:
            _check_unchanged(folder, base, changes)
            _swap(folder, base, changes)
    except (NotADirectoryError, IsADirectoryError) as error:
        raise TaskError(
            f"{error.filename!r} in {path} is a folder where the patch has a file, or the reverse",
            "apply the saved diff with `git apply`",
        ) from error
    return tuple(sorted(changes))


def _check_unchanged(folder: Beneath, base: Tree, changes: Mapping[str, File | None]) -> None:
    for name in sorted({*base.files, *changes}):
        expected = base.files.get(name)
        try:
            found = folder.read(name, len(expected.content) if expected else 0)
            same = found == expected
        except (NotRegular, TooLarge):
            same = False
        if not same:
            raise TaskError(
                f"{name} is not what the patch was made from any more",
                "run the repair again, or apply the saved diff with `git apply --3way`",
            )


def _swap(folder: Beneath, base: Tree, changes: Mapping[str, File | None]) -> None:
    staged: dict[str, str] = {}
    done: list[str] = []
    try:
        for name, file in changes.items():
            if file is not None:
                staged[name] = folder.stage(name, file, folder.stat(name))
        for name, file in changes.items():
            if file is None:
                folder.remove(name)
            else:
                folder.place(staged[name], name)
                del staged[name]
            done.append(name)
    except BaseException:
        _take_back(folder, base, done, staged)
        raise
    for name in sorted({name.rpartition("/")[0] for name, file in changes.items() if file is None}):
        folder.drop_empty(name)


def _take_back(folder: Beneath, base: Tree, done: Sequence[str], staged: Mapping[str, str]) -> None:
    for name in reversed(done):
        before = base.files.get(name)
        if before is None:
            folder.remove(name, missing_ok=True)
            folder.drop_empty(name.rpartition("/")[0])
        else:
            folder.place(folder.stage(name, before, folder.stat(name)), name)
    for name, passing in staged.items():
        above = name.rpartition("/")[0]
        with contextlib.suppress(OSError):
            folder.remove(f"{above}/{passing}" if above else passing, missing_ok=True)
            folder.drop_empty(above)
