from __future__ import annotations

import math

from actors.search.locate import Traces, covering, d_star, ochiai, of_tests, spectrum, suspicion
from actors.search.source import Source


def source(text: str, path: str = "m.py") -> Source:
    return Source(path, text.encode())


def test_lines_of_failing_tests_alone_are_most_suspicious() -> None:
    lines = {"f": {"m.py": [1, 2, 3]}, "p": {"m.py": [1, 2]}, "q": {"m.py": [1]}}

    scores = spectrum(lines, frozenset({"f"}))["m.py"]

    assert scores[3] == 1.0
    assert scores[3] > scores[2] > scores[1]


def test_both_formulas_are_those_of_their_papers() -> None:
    assert math.isclose(ochiai(1, 1, 1), 1 / math.sqrt(2))
    assert math.isclose(ochiai(2, 0, 4), 2 / math.sqrt(8))
    # D* is 4 / (1 + 2) for two of four failing tests and one passing test.
    assert math.isclose(d_star(2, 1, 4), (4 / 3) / (1 + 4 / 3))
    assert d_star(3, 0, 3) == 1.0


def test_what_gives_the_value_that_an_assertion_shows_is_suspected_more() -> None:
    text = "class A:\n    def f(self):\n        self.seen = 1\n        self.count = 2\n"
    message = "assert 2 == 3\n +  where 2 = <m.A object at 0x0>.count"
    traces = Traces(
        lines={"f": {"m.py": [3, 4]}, "p": {"m.py": [3, 4]}},
        failures={"f": {"type": "AssertionError", "message": message, "frames": []}},
    )

    scores = suspicion({"m.py": source(text)}, traces, ["f"])["m.py"]

    assert scores[4] > scores[3]


def test_other_failing_tests_say_nothing_about_a_cluster() -> None:
    traces = Traces(lines={"f": {"m.py": [1]}, "g": {"m.py": [2]}, "p": {"m.py": [3]}})

    mine = of_tests(traces, ["f"], ["f", "g"])

    assert set(mine.lines) == {"f", "p"}


def test_lines_that_only_passing_tests_run_are_not_suspected() -> None:
    assert spectrum({"f": {}, "p": {"m.py": [4]}}, frozenset({"f"})) == {}


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
