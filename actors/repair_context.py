"""What a model that repairs is shown: failures first, then the files they touch, then their neighbours.

Everything from programs or from the repository is data in fenced blocks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from actors.languages.javascript import SUFFIXES
from actors.languages.javascript_search import imported
from actors.outline import outline
from actors.output import cleaned, head_and_tail
from actors.packing import Composed, Part, few, size_of, texts
from actors.prompts import render
from orchestrator.context import LeftOut
from orchestrator.patch import unified_diff
from orchestrator.steps import RepairRequest

TEMPLATE = "repair"
FAILING_SHOWN = 50
# Of what can be left out, tests' output gets a sixth and the last refused diff another, if they need it.
_OUTPUT_SHARE = 6
# What earlier runs taught gets this much.
_MEMORY_SHARE = 10
# Of what files get where not all fit, this much goes to signatures of those that are not shown whole.
_SIGNATURES_SHARE = 8
# A piece of output shorter than this tells nobody anything.
_SHORTEST = 300
_MENTIONED = re.compile(r"([\w./-]+\.\w+)")


def compose(request: RepairRequest, limit: int, large: Sequence[str] = ()) -> Composed:
    """The prompt for `request` with at most `limit` characters of what can be left out.

    Files in `large` are to be changed by SEARCH/REPLACE blocks, where they are shown at all.
    """
    share = limit // _OUTPUT_SHARE
    details = details_parts(request.details, share)
    refused, judged = refused_parts(request, share)
    lessons, memory_parts = lesson_parts(request, limit // _MEMORY_SHARE)
    used = sum(len(part.text) for part in (*details.values(), *judged, *memory_parts))
    picked = _Files(request, limit - used)
    text = render(
        TEMPLATE,
        goal=request.goal,
        failing=few_failing(request.failing),
        details={name: part.text for name, part in details.items()},
        refused=refused,
        lessons=lessons,
        files={part.name: part.text for part in picked.in_order(picked.whole)},
        signatures={part.name: part.text for part in picked.signatures.values()},
        left_out=few(name for name in picked.left_out),
        protected=sorted(path for path in request.profile.protected if path in picked.whole),
        large=[path for path in large if path in picked.whole],
    )
    goal = (
        [Part(kind="goal", name="goal", why="what the project is for", text=request.goal)]
        if request.goal
        else []
    )
    return Composed(
        text=text,
        template=TEMPLATE,
        parts=(
            *goal,
            *details.values(),
            *judged,
            *memory_parts,
            *picked.whole.values(),
            *picked.signatures.values(),
        ),
        left_out=(
            *(
                LeftOut(kind="output", name=name, why="no room")
                for name in request.details
                if name not in details
            ),
            *(LeftOut(kind="file", name=name, why=why) for name, why in picked.left_out.items()),
        ),
    )


def few_failing(failing: tuple[str, ...]) -> list[str]:
    """The failing tests, or the first of them and how many more there are."""
    more = len(failing) - FAILING_SHOWN
    return [*failing[:FAILING_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def details_parts(details: Mapping[str, str], limit: int) -> dict[str, Part]:
    """What tests said, cleaned; each gets an even share of what is left, cut at head and tail."""
    parts: dict[str, Part] = {}
    for number, (test, said) in enumerate(details.items()):
        share = limit // (len(details) - number)
        text = head_and_tail(cleaned(said), share)
        if share < _SHORTEST and len(text) < len(said):
            continue
        parts[test] = Part(kind="output", name=test, why="says why the test fails", text=text)
        limit -= len(text)
    return parts


def refused_parts(request: RepairRequest, limit: int) -> tuple[dict[str, object] | None, list[Part]]:
    """The candidate that the judge refused last, for a template, within `limit` characters; and its parts."""
    refused = request.refused
    if refused is None:
        return None, []
    whole = unified_diff(request.base, refused.changes).encode("utf-8", "replace").decode()
    diff = head_and_tail(whole, limit // 2)
    details = details_parts(refused.details, limit // 2)
    parts = [Part(kind="refused", name="the last candidate", why="the judge refused it", text=diff)]
    parts += details.values()
    said = {test: part.text for test, part in details.items()}
    return {"diff": diff, "details": said, "doubts": refused.doubts}, parts


def lesson_parts(request: RepairRequest, limit: int) -> tuple[list[dict[str, str]], list[Part]]:
    """What earlier runs taught, as much of it as fits."""
    told: list[dict[str, str]] = []
    parts: list[Part] = []
    for each in request.lessons:
        patch, notes = cleaned(each.patch), cleaned(each.notes)
        if (size := len(patch) + len(notes)) > limit:
            continue
        limit -= size
        told.append({"outcome": each.outcome, "patch": patch, "notes": notes})
        why = f"a change that was {each.outcome} where tests failed alike"
        parts.append(Part(kind="memory", name=each.run_id, why=why, text=patch + notes))
    return told, parts


class _Files:
    """Which files are shown whole, of which only the signatures, and why each."""

    def __init__(self, request: RepairRequest, limit: int) -> None:
        self._all = texts(request.tree)
        self.whole: dict[str, Part] = {}
        self.signatures: dict[str, Part] = {}
        self.left_out: dict[str, str] = {}
        order = self._order(request)
        everything = sum(size_of(path, text) for path, text in self._all.items())
        kept_back = 0 if everything <= limit else limit // _SIGNATURES_SHARE
        left = self._take_whole(order, limit - kept_back) + kept_back
        self._take_signatures(order, left)

    def in_order(self, parts: Mapping[str, Part]) -> list[Part]:
        """`parts` in the order of the tree."""
        return [parts[path] for path in self._all if path in parts]

    def _order(self, request: RepairRequest) -> dict[str, str]:
        """Every path and why it is where it is, the weightiest first."""
        order: dict[str, str] = {}
        for path, why in _weighty(request, self._all):
            if path in self._all:
                order.setdefault(path, why)
        for path in sorted(self._all.keys() - order.keys(), key=lambda path: (len(self._all[path]), path)):
            order[path] = "there was room"
        return order

    def _take_whole(self, order: Mapping[str, str], limit: int) -> int:
        for path, why in order.items():
            text = self._all[path]
            if size_of(path, text) <= limit:
                limit -= size_of(path, text)
                self.whole[path] = Part(kind="file", name=path, why=why, text=text)
        return limit

    def _take_signatures(self, order: Mapping[str, str], limit: int) -> None:
        for path, why in order.items():
            if path in self.whole:
                continue
            text = outline(self._all[path]) if path.endswith(".py") else ""
            if text and size_of(path, text) <= limit:
                limit -= size_of(path, text)
                self.signatures[path] = Part(
                    kind="signatures", name=path, why=f"{why}; too long whole", text=text
                )
            else:
                self.left_out[path] = f"{len(self._all[path])} characters did not fit"


def _weighty(request: RepairRequest, files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Paths by weight: what output names, what was changed, tests, what these import, their neighbours."""
    tests = list(dict.fromkeys(test.split("::", 1)[0] for test in request.failing))
    named = [path for path in _named(request) if path in files and path not in tests]
    for path in named:
        yield path, "named where a test fails"
    for path in request.base.changes_to(request.tree):
        yield path, "changed by the best patch so far"
    for path in tests:
        yield path, "holds a failing test"
    for path in (*tests, *named):
        javascript = imported(request.tree, [path]) if path.endswith(SUFFIXES) else ()
        for found in (*_imports(files.get(path, ""), files), *javascript):
            yield found, f"imported by {path}"
    folders = {path.rpartition("/")[0]: path for path in reversed((*named, *tests))}
    for path in files:
        if (above := path.rpartition("/")[0]) in folders:
            yield path, f"beside {folders[above]}"


def _named(request: RepairRequest) -> list[str]:
    """Paths in the output of tests; a traceback's last frame is the nearest to the fault."""
    found = [
        name.removeprefix("/work/").removeprefix("./")
        for text in request.details.values()
        for name in reversed(_MENTIONED.findall(text))
    ]
    return list(dict.fromkeys(found))


def _imports(source: str, files: Mapping[str, str]) -> Iterator[str]:
    """Files of the project that `source` imports by an absolute name, from its root or from `src`."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in nodes:
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [*(f"{node.module}.{alias.name}" for alias in node.names), node.module]
        for module in modules:
            place = module.replace(".", "/")
            for path in (
                f"{place}.py",
                f"{place}/__init__.py",
                f"src/{place}.py",
                f"src/{place}/__init__.py",
            ):
                if path in files:
                    yield path
