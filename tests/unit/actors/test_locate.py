from __future__ import annotations

import math

from actors.search.locate import Traces, covering, ochiai, suspicion
from actors.search.source import Source


def source(text: str, path: str = "m.py") -> Source:
    return Source(path, text.encode())


def test_lines_of_failing_tests_alone_are_most_suspicious() -> None:
    lines = {"f": {"m.py": [1, 2, 3]}, "p": {"m.py": [1, 2]}, "q": {"m.py": [1]}}

    scores = ochiai(lines, frozenset({"f"}))["m.py"]

    assert scores[3] == 1.0
    assert math.isclose(scores[2], 1 / math.sqrt(2))
    assert scores[3] > scores[2] > scores[1]


def test_lines_that_only_passing_tests_run_are_not_suspected() -> None:
    assert ochiai({"f": {}, "p": {"m.py": [4]}}, frozenset({"f"})) == {}


def test_the_place_of_the_exception_counts_more() -> None:
    traces = Traces(
        lines={"f": {"m.py": [2, 3]}, "p": {"m.py": [2, 3]}},
        failures={"f": {"type": "KeyError", "message": "", "frames": [["m.py", 3, "g"]]}},
    )

    scores = suspicion({"m.py": source("def g(d):\n    x = 1\n    return d[x]\n")}, traces, ["f"])

    assert scores["m.py"][3] > scores["m.py"][2]


def test_constants_that_suspected_lines_use_are_suspected_across_files() -> None:
    sources = {
        "m.py": source("from conf import RATE\n\ndef g(x):\n    return x * RATE\n"),
        "conf.py": source("RATE = 3\nOTHER = 4\n", "conf.py"),
    }

    scores = suspicion(sources, Traces(lines={"f": {"m.py": [4]}}), ["f"])

    assert scores["conf.py"][1] > 0
    assert 2 not in scores["conf.py"]


def test_a_collection_error_points_at_its_line() -> None:
    text = "words.py:3: in <module>\n    GREETING = shuot()\nE   NameError: name 'shuot' is not defined"

    scores = suspicion({"words.py": source("a = 1\n\nb = c\n", "words.py")}, Traces(collection=(text,)), [])

    assert scores["words.py"][3] == 1.0
    assert scores["words.py"][1] < 1.0


def test_tests_that_run_little_come_first_for_a_line() -> None:
    lines = {"long": {"m.py": [1, 2, 3]}, "short": {"m.py": [1]}}

    assert covering(lines, ["long", "short"])["m.py", 1] == ["short", "long"]
