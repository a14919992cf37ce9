"""The corpus of replies: hand-written styles, each filled with every scenario's edit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.editing import apply_blocks
from actors.parsing import parse
from orchestrator.tree import File, Tree

FOLDER = Path(__file__).parent / "replies"
PARTS = ("development", "heldout")
_SLOT = re.compile(r"@(\w+)((?::\w+)*)@")
_CURLY = {'"': "\u201d", "'": "\u2019"}
_LANGUAGES = {".py": "python", ".js": "javascript", ".go": "go", ".md": "markdown"}


@dataclass(frozen=True, kw_only=True)
class ReplyCase:
    """One reply to a tree, and the tree that is meant; the same tree where it must be refused."""

    part: str
    style: str
    scenario: str
    tree: Tree
    reply: str
    meant: Tree
    must_be_refused: bool
    cut: bool = False

    @property
    def name(self) -> str:
        return f"{self.style}-{self.scenario}"


def cases(part: str) -> Iterator[ReplyCase]:
    """The cases of `development` or `heldout`."""
    scenarios = _loaded("scenarios")
    for style in _loaded(part):
        if "files" in style:
            yield _literal(part, style)
            continue
        for scenario in scenarios:
            if scenario["kind"] in style.get("only", [scenario["kind"]]):
                yield _filled(part, style, scenario)


def judged(case: ReplyCase) -> str:
    """`as_meant`, `wrongly` (something else was written), or `refused` where it was not to be."""
    applied = apply_blocks(case.tree, parse(case.reply, known=case.tree.files, cut=case.cut))
    result = case.tree.with_files(applied.changes)
    if result == case.meant:
        return "as_meant"
    if result == case.tree:
        return "refused"
    return "wrongly"


def _loaded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return found


def _tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


def _literal(part: str, style: dict[str, Any]) -> ReplyCase:
    tree = _tree(style["files"])
    after = {
        path: None if text is None else File(content=text.encode())
        for path, text in style.get("meant", {}).items()
    }
    return ReplyCase(
        part=part,
        style=style["name"],
        scenario="literal",
        tree=tree,
        reply=_whole(style["reply"], style.get("whole", "")),
        meant=tree.with_files(after),
        must_be_refused=not after,
        cut=style.get("cut", False),
    )


def _filled(part: str, style: dict[str, Any], scenario: dict[str, Any]) -> ReplyCase:
    path, files = scenario["path"], scenario["files"]
    old = files[path]
    search, replace = (_edge(scenario[name]) for name in ("search", "replace"))
    assert f"\n{old}".count(f"\n{search}\n") == 1, scenario["name"]
    new = f"\n{old}".replace(f"\n{search}\n", f"\n{replace}\n")[1:]
    suffix = Path(path).suffix
    texts = {
        "path": path,
        "name": Path(path).name,
        "lang": _LANGUAGES[suffix],
        "comment": "#" if suffix == ".py" else "//",
        "search": search,
        "replace": replace,
        "old": old.rstrip("\n"),
        "new": new.rstrip("\n"),
        "hunk": _hunk(old, new),
    }

    def fill(slot: re.Match[str]) -> str:
        text = texts[slot[1]]
        for change in slot[2].split(":")[1:]:
            text = CHANGES[change](text)
        return text

    refused = style["expect"] == "refused"
    return ReplyCase(
        part=part,
        style=style["name"],
        scenario=scenario["name"],
        tree=_tree(files),
        reply=_whole(_SLOT.sub(fill, style["reply"].rstrip("\n")) + "\n", style.get("whole", "")),
        meant=_tree(files if refused else {**files, path: new}),
        must_be_refused=refused,
        cut=style.get("cut", False),
    )


def _edge(text: str) -> str:
    return text.rstrip("\n")


def _hunk(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3)
    return "\n".join(list(lines)[2:])


def _whole(reply: str, change: str) -> str:
    changed = {"crlf": reply.replace("\n", "\r\n"), "bom": "\ufeff" + reply, "": reply}
    return changed[change]


def _each(text: str, change: Any) -> str:
    return "\n".join(change(line) if line.strip() else line for line in text.split("\n"))


def _dedent(text: str) -> str:
    import textwrap

    return textwrap.dedent(text)


def _tabs(text: str) -> str:
    return re.sub(r"^(?: {4})+", lambda found: "\t" * (len(found[0]) // 4), text, flags=re.MULTILINE)


def _typo(text: str) -> str:
    """What a model remembers wrongly: a name is longer than it is."""
    first = re.search(r"[a-z]{3,}", text)
    assert first
    return text[: first.end()] + "_value" + text[first.end() :]


CHANGES: Mapping[str, Any] = {
    "dedent": _dedent,
    "trailing": lambda text: _each(text, lambda line: line + "  "),
    "deeper": lambda text: _each(text, lambda line: "    " + line),
    "tabs": _tabs,
    "spaces": lambda text: text.replace("\t", "    "),
    "curly": lambda text: "".join(_CURLY.get(each, each) for each in text),
    "typo": _typo,
    "half": lambda text: text[: len(text) // 2],
    "first": lambda text: text.lstrip(),
    "blanks": lambda text: text.replace("\n", "\n\n"),
    "quoted": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
    "numbered": lambda text: "\n".join(f"{n}: {line}" for n, line in enumerate(text.split("\n"), 7)),
    "wrongnumbers": lambda text: re.sub(r"^@@.*@@.*$", "@@ -1,3 +1,4 @@", text, flags=re.MULTILINE),
    "headless": lambda text: re.sub(r"^@@.*@@.*$", "@@", text, flags=re.MULTILINE),
    "nocolumn": lambda text: re.sub(r"^ ", "", text, flags=re.MULTILINE),
    "stripped": lambda text: re.sub(r"^ $", "", text, flags=re.MULTILINE),
    "upper": str.upper,
}
