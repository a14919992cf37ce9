"""Whom a request goes to first, whom not, and what is said about it."""

from __future__ import annotations

from orchestrator.routing import Option, Rule, Wanted, ranked
from orchestrator.steps import Allowance

LOCAL = Option(name="local", is_local=True, context_tokens=8000)
CHEAP = Option(name="cheap", prompt_usd=0.2, completion_usd=1.0, tags=frozenset({"small"}))
STRONG = Option(name="strong", prompt_usd=3.0, completion_usd=15.0, tags=frozenset({"strong"}))
UNKNOWN = Option(name="unknown")


def names(options: list[Option], wanted: Wanted, *rules: Rule) -> list[str]:
    return [choice.name for choice in ranked(options, rules, wanted)[0]]


def asking(role: str = "code", **changes: object) -> Wanted:
    return Wanted(role=role, prompt_tokens=1000, reply_tokens=1000, **changes)  # type: ignore[arg-type]


def test_the_cheapest_goes_first_and_an_unknown_price_last() -> None:
    assert names([UNKNOWN, STRONG, CHEAP, LOCAL], asking()) == ["local", "cheap", "strong", "unknown"]


def test_a_hard_request_goes_to_the_strong_first() -> None:
    assert names([LOCAL, CHEAP, STRONG], asking(is_hard=True)) == ["strong", "local", "cheap"]


def test_the_first_rule_that_fits_counts_by_name_or_tag() -> None:
    rules = [Rule(use=("small", "strong"), roles=("plan",)), Rule(use=("strong",), difficulty="normal")]

    assert names([LOCAL, CHEAP, STRONG], asking("plan"), *rules) == ["cheap", "strong", "local"]
    assert names([LOCAL, CHEAP, STRONG], asking("code"), *rules) == ["strong", "local", "cheap"]
    assert names([LOCAL, CHEAP, STRONG], asking("code", is_hard=True), *rules) == ["strong", "local", "cheap"]


def test_testing_prefers_what_is_free_over_every_rule() -> None:
    choices, _ = ranked([STRONG, LOCAL], [Rule(use=("strong",))], asking(testing=True))

    assert [choice.name for choice in choices] == ["local", "strong"]
    assert choices[0].why == "local: costs nothing, while testing"


def test_who_cannot_serve_is_left_out_with_the_reason() -> None:
    resting = Option(name="down", resting="left alone for 9 s: answered 500")
    tester = Option(name="tester", roles=("test",))
    left = Allowance(cost_usd=0.002)

    choices, refused = ranked([LOCAL, CHEAP, STRONG, resting, tester], (), asking(left=left))
    long, too_long = ranked([LOCAL], (), Wanted(role="code", prompt_tokens=9000))

    assert [choice.name for choice in choices] == ["local", "cheap"]
    assert refused == [
        "not strong: it may cost $0.0180 and $0.0020 are left",
        "not down: left alone for 9 s: answered 500",
        "not tester: it does not serve code",
    ]
    assert (long, too_long) == ([], ["not local: about 9000 tokens do not fit into 8000"])


def test_a_name_or_a_tag_narrows_the_choice() -> None:
    assert names([LOCAL, CHEAP, STRONG], asking(among="strong")) == ["strong"]
    assert names([LOCAL, CHEAP, STRONG], asking(among="small")) == ["cheap"]
    assert names([LOCAL, CHEAP], asking(among="other")) == []
