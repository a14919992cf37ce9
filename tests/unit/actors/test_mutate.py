from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.search import edits, locate, ranking, source
from actors.search.inside.text import replaced
from actors.search.mutate import changes
from actors.search.mutators import conditions, flow, grouping, operators, together
from actors.search.mutators.site import Evidence
from actors.search.source import Source

NONE = Evidence()
EVIDENCE = Evidence(constants=("3", "'ab'", "2.5"), raises=("ValueError",), errors=(("KeyError", "'x'"),))
MODULES = [edits, locate, ranking, source, conditions, flow, grouping, operators]


def proposals(text: str, evidence: Evidence = NONE) -> dict[str, str]:
    """Every mutated text and what it is said to do."""
    parsed = Source("m.py", text.encode())
    return {
        replaced(parsed.text, change.spans): change.why
        for statement in parsed.statements
        for _, change, _ in changes(parsed, statement, evidence, 0.06)
    }


def weights(text: str, evidence: Evidence = NONE) -> dict[str, tuple[str, float]]:
    """Every mutated text with its kind and weight."""
    parsed = Source("m.py", text.encode())
    return {
        replaced(parsed.text, change.spans): (change.kind, weight)
        for statement in parsed.statements
        for _, change, weight in changes(parsed, statement, evidence, 0.0)
    }


def all_alike(text: str) -> dict[str, str]:
    """Texts in which every like place changed, and what is said."""
    parsed = Source("m.py", text.encode())
    return {
        replaced(parsed.text, change.spans): change.why
        for statement in parsed.statements
        for change in together.together(parsed, statement, NONE)
    }


def body(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_proposal_parses_and_leaves_the_rest_alone(module: object) -> None:
    parsed = Source("m.py", inspect.getsource(module).encode())  # type: ignore[arg-type]

    for number, statement in enumerate(parsed.statements):
        if number % 13:
            continue
        for rank, (_, change, weight) in enumerate(changes(parsed, statement, EVIDENCE, 0.06)):
            if rank % 17:
                continue
            text = replaced(parsed.text, change.spans)
            ast.parse(text)
            assert text != parsed.text
            assert 0 < weight <= 2.5
            assert change.why


NAMES = st.sampled_from(["a", "b", "items"])
ATOMS = st.one_of(NAMES, st.integers(0, 9).map(str), st.just("items[0]"), st.just("len(items)"))
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(
            inner, st.sampled_from(["+", "-", "*", "//", "%", "**", "<", "==", "and", "or"]), inner
        ).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"not {text}").map(lambda text: f"({text})"),
        inner.map(lambda text: f"sorted([{text}])"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else a)"),
        inner.map(lambda text: f"sum(x + {text} for x in items)"),
        inner.map(lambda text: f"items[{text}:]"),
        inner.map(lambda text: f'f"<{{a}} {{b}}>" + str({text})'),
    ),
    max_leaves=5,
)


@pytest.mark.slow
@given(EXPRESSIONS, st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_proposals_for_any_expression_parse(expression: str, newline: str, ended: bool) -> None:
    lines = [
        "def f(a, b, items):",
        "\tx = 0",
        f"\tfor y in {expression}:",
        f"\t\tx += {expression}",
        "\treturn x",
    ]
    text = newline.join(lines) + (newline if ended else "")

    for mutated in proposals(text):
        ast.parse(mutated)


@settings(deadline=None)
@given(st.lists(st.sampled_from("+-*/%"), min_size=2, max_size=4))
def test_an_operator_changes_alone_where_nothing_else_is_meant(symbols: list[str]) -> None:
    expression = "a" + "".join(f" {symbol} b" for symbol in symbols)
    found = proposals(f"def f(a, b):\n    return {expression}\n")

    for number, symbol in enumerate(symbols):
        if symbol == "+":
            changed = symbols.copy()
            changed[number] = "-"
            wanted = "a" + "".join(f" {one} b" for one in changed)
            assert f"def f(a, b):\n    return {wanted}\n" in found


# One claim per class of bug: the repaired text is among the proposals.
CLASSES = {
    "boundary": ("if a > 3:", "if a >= 3:"),
    "equality": ("if a is b:", "if a == b:"),
    "arithmetic": ("x = a + b", "x = a - b"),
    "precedence": ("x = a - b * 2", "x = (a - b) * 2"),
    "integer division": ("x = a / b", "x = a // b"),
    "rounding up": ("x = a // b", "x = -(-a // b)"),
    "boolean": ("if a and b:", "if a or b:"),
    "negation": ("if a:", "if not a:"),
    "off by one": ("x = range(a)", "x = range(a + 1)"),
    "range start": ("x = range(a)", "x = range(1, a)"),
    "index": ("x = a[0]", "x = a[-1]"),
    "slice": ("x = a[:]", "x = a[:-1]"),
    "reverse": ("x = a[:3]", "x = a[:3:-1]"),
    "constant": ("x = 0", "x = 1"),
    "string": ("x = 'ab '", "x = 'ab'"),
    "variable": ("x = a", "x = b"),
    "function": ("x = min(a)", "x = max(a)"),
    "method": ("a.append(b)", "a.extend(b)"),
    "wrap": ("x = a - b", "x = abs(a - b)"),
    "strip": ("x = a", "x = a.strip()"),
    "unwrap": ("x = sorted(a)", "x = a"),
    "argument order": ("x = f(a, b)", "x = f(b, a)"),
    "keyword": ("x = sorted(a)", "x = sorted(a, reverse=True)"),
    "lookup": ("x = a[b]", "x = a.get(b, 0)"),
    "augmented": ("x -= a", "x += a"),
    "accumulate": ("x = a", "x += a"),
    "repeated object": ("x = [[0]] * a", "x = [[0] for _ in range(a)]"),
    "branches": ("x = a if b else 0", "x = 0 if b else a"),
    "exchanged names": ("x = a[b] + a", "x = b[a] + b"),
    "gather": ("a[b] = c", "a[b] = a.get(b, 0) + c"),
    "gather in lists": ("a[b] = [c]", "a.setdefault(b, []).append(c)"),
    "make first": ("a[b].append(c)", "a.setdefault(b, []).append(c)"),
    "other bound": ("if a < b:", "if 0 <= a < b:"),
    "format": ('x = f"{a}"', 'x = f"{a:02d}"'),
    "asked before": ("if a.real > 3:", "if a and a.real > 3:"),
    "transplant": ("x = a[0] + b", "x = a[0] + a[0]"),
    "comprehension filter": ("x = [y for y in a]", "x = [y for y in a if y]"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_bug_has_its_repair_among_the_proposals(name: str) -> None:
    wrong, right = CLASSES[name]
    tail = "\n        pass" if wrong.endswith(":") else ""

    found = proposals(f"def f(a, b):\n    x = 5\n    {wrong}{tail}\n    return x\n")

    assert f"def f(a, b):\n    x = 5\n    {right}{tail}\n    return x\n" in found


def test_a_guard_can_be_put_first() -> None:
    found = proposals("def f(items):\n    return sum(items) / len(items)\n")

    assert "def f(items):\n    if not items:\n        return 0\n    return sum(items) / len(items)\n" in found


def test_a_guard_raises_what_the_test_expects() -> None:
    found = proposals("def f(n):\n    return n\n", EVIDENCE)

    assert any("if n < 0:\n        raise ValueError(" in text for text in found)


def test_an_unused_flag_is_put_to_use() -> None:
    found = proposals("def add(a, b, do_round=False):\n    return {'result': a + b}\n")

    assert (
        "def add(a, b, do_round=False):\n    return {'result': round(a + b) if do_round else a + b}\n"
        in found
    )


def test_a_mutable_default_is_made_fresh() -> None:
    found = proposals("def f(x, bag=[]):\n    bag.append(x)\n    return bag\n")

    assert any("bag=None" in text and "if bag is None:\n        bag = []" in text for text in found)


def test_a_return_moves_out_of_its_loop_in_the_files_own_indentation() -> None:
    found = proposals("def f(a):\n\tfor x in a:\n\t\tprint(x)\n\t\treturn x\n")

    assert "def f(a):\n\tfor x in a:\n\t\tprint(x)\n\treturn x\n" in found


def test_a_statement_is_inserted_with_the_files_newlines() -> None:
    found = proposals("def f(a):\r\n    n = 0\r\n    for x in a:\r\n        print(x)\r\n    return n\r\n")

    assert any("print(x)\r\n        n += 1\r\n" in text for text in found)


def test_a_missing_import_is_added() -> None:
    evidence = Evidence(errors=(("NameError", "name 'math' is not defined"),))

    found = proposals("def f(a):\n    return math.floor(a)\n", evidence)

    assert "import math\ndef f(a):\n    return math.floor(a)\n" in found


def test_a_string_is_made_what_the_expected_text_shows() -> None:
    evidence = Evidence(differences=(("Hello Ann!", "Hello, Ann!"),))

    found = proposals("def f(name):\n    return 'Hello ' + name + '!'\n", evidence)

    assert "def f(name):\n    return 'Hello, ' + name + '!'\n" in found


def test_an_exception_that_a_test_met_is_caught() -> None:
    evidence = Evidence(errors=(("ValueError", "bad"),))

    found = proposals("def f(a):\n    for x in a:\n        g(x)\n", evidence)

    caught = "        try:\n            g(x)\n        except ValueError:\n            continue\n"
    assert f"def f(a):\n    for x in a:\n{caught}" in found


def test_an_await_is_added() -> None:
    found = proposals("async def f(a):\n    x = g(a)\n    return x\n")

    assert "async def f(a):\n    x = await g(a)\n    return x\n" in found


def test_an_argument_is_added_behind_the_parentheses_of_the_last() -> None:
    found = proposals("def f(a):\n    return sorted((a))\n")

    assert "def f(a):\n    return sorted((a), reverse=True)\n" in found


def test_an_operand_that_does_nothing_is_not_proposed() -> None:
    found = proposals("def f(a):\n    return len(a) + 1\n")

    assert "def f(a):\n    return len(a) + 0\n" not in found
    assert "def f(a):\n    return len(a) * 1\n" not in found
    assert "def f(a):\n    return len(a)\n" in found


def test_the_same_mistake_in_every_branch_is_mended_at_once() -> None:
    text = body("""
        def grade(x, y):
            if y > 0:
                pass
            if x < 2:
                return "a"
            elif x < 5:
                return "b"
            return x / 2 + y / 2
        """)

    found = all_alike(text)

    assert text.replace("x <", "x <=") in found
    assert text.replace("/", "//") in found
    assert found[text.replace("x <", "x <=")].endswith("in all 2 places")


def test_the_same_call_in_a_whole_class_is_mended_at_once() -> None:
    text = body("""
        class A:
            def first(self, xs):
                return min(xs)

            def last(self, xs):
                return min(xs[1:])
        """)

    assert text.replace("min", "max") in all_alike(text)


def test_a_sibling_s_record_is_kept_under_this_method_s_name() -> None:
    text = body("""
        class Stock:
            def add(self, name, count):
                self.count += count
                self.history.append(("add", name, count))
                self._changed()

            def take(self, name, count):
                self.count -= count
                return self
        """)

    found = weights(text)
    record = '        self.history.append(("take", name, count))\n        return self'

    assert found[text.replace("        return self", record)][0] == "donor"
    assert text.replace("        return self", "        self._changed()\n        return self") in found


def test_a_token_that_has_to_be_skipped_is_taken() -> None:
    text = body("""
        def atom(items):
            item = items.pop(0)
            if item == "(":
                value = atom(items)
                return value
            return item
        """)

    assert text.replace("        return value", "        items.pop(0)\n        return value") in proposals(
        text
    )


def test_throwing_away_what_a_loop_gathers_is_a_last_resort() -> None:
    text = body("""
        def f(xs):
            out = []
            for x in xs:
                out.append(x)
                x += 1
            return out
        """)
    evidence = Evidence(types={"m.py:1": {"out": ("list",), "xs": ("list",), "x": ("int",)}})

    found = weights(text, evidence)
    kind, weight = found[text.replace("        x += 1", "        out = []\n        x += 1")]

    assert kind == "reset"
    assert weight < 0.2 * found[text.replace("out.append", "out.extend")][1]


def test_a_division_that_met_zero_is_guarded() -> None:
    text = "def f(a, b):\n    return a / b\n"
    evidence = Evidence(errors=(("ZeroDivisionError", "division by zero"),))

    found = weights(text, evidence)

    assert found["def f(a, b):\n    return a / b if b else 0.0\n"][1] > 0.6


def test_the_first_of_a_running_best_is_taken_unseen() -> None:
    text = body("""
        def best(xs):
            top = None
            for x in xs:
                if x > top:
                    top = x
            return top
        """)

    assert text.replace("if x", "if top is None or x") in proposals(text)


def test_elements_are_given_where_a_list_was() -> None:
    text = "async def f(tasks):\n    return await gather(tasks)\n"

    assert text.replace("gather(tasks)", "gather(*tasks)") in proposals(text)


def test_the_oldest_entry_goes_first() -> None:
    text = "def f(table):\n    table.popitem()\n"

    assert "def f(table):\n    table.popitem(last=False)\n" in proposals(text)


def test_an_own_function_that_nothing_calls_is_called_for_every_element() -> None:
    text = "def clean(x):\n    return x.strip()\n\n\ndef f(xs):\n    return list(xs)\n"

    assert text.replace("list(xs)", "list(map(clean, xs))") in proposals(text)


def test_a_choice_that_lacks_is_added() -> None:
    evidence = Evidence(constants=("11", "'/'"))
    months, signs = "def f(m):\n    return m in (4, 6)\n", 'def f(c):\n    return c in "*"\n'

    assert months.replace("6)", "6, 11)") in proposals(months, evidence)
    assert signs.replace('"*"', '"*/"') in proposals(signs, evidence)


def test_words_have_no_order() -> None:
    found = proposals('def f(s):\n    return s == "x" or s == "y"\n')

    assert not any('< "x"' in text or '>= "x"' in text for text in found)
    assert 'def f(s):\n    return s != "y" or s == "y"\n' in found


def test_a_count_that_starts_from_zero_is_rarely_meant_to_start_elsewhere() -> None:
    text = "def f(xs):\n    n = 0\n    for x in xs:\n        n += 1\n    return n\n"

    kind, weight = weights(text)[text.replace("n = 0", "n = 1")]

    assert kind == "first count"
    assert weight < 0.4


def test_the_smallest_so_far_starts_from_infinity() -> None:
    text = "def f(d, k, v):\n    return v < d.get(k, 0)\n"

    assert weights(text)[text.replace("k, 0", 'k, float("inf")')][1] > 0.4


def test_a_name_that_nothing_would_read_any_more_is_rarely_wrong() -> None:
    once = "def f(text):\n    for word in text:\n        g(word)\n"
    twice = "def f(text):\n    for word in text:\n        g(word, word)\n"

    assert (
        weights(once)[once.replace("g(word)", "g(text)")][1]
        < weights(twice)[twice.replace("g(word, word)", "g(text, word)")][1]
    )


def test_false_is_not_returned_for_an_expected_zero() -> None:
    text = "def f(n):\n    return n - 1\n"
    guard = "def f(n):\n    if n == 0:\n        return False\n    return n - 1\n"

    plain, typed = weights(text), weights(text, Evidence(wanted=("int",)))

    assert typed[guard][1] < 0.2 * plain[guard][1]
    returned = "def f(n):\n    return False\n"
    assert typed[returned][1] < 0.2 * weights(text, Evidence(wanted=("int", "bool")))[returned][1]


CACHE = body(
    """
    class Cache:
        def get(self, key):
            value = self.items[key]
            return value

        def drop(self):
            self.items.popitem()
    """
)


def test_what_an_ordered_mapping_lacks_is_proposed_by_its_type() -> None:
    evidence = Evidence(types={"m.py:2": {"self.items": ("OrderedDict",), "key": ("str",)}})

    texts = weights(CACHE, evidence)

    moved = CACHE.replace("[key]\n", "[key]\n        self.items.move_to_end(key)\n")
    assert texts[moved][0] == "insert"
    assert CACHE.replace("[key]\n", "[key]\n        self.items += 1\n") not in texts


def test_throwing_elements_away_somewhere_else_is_hardly_ever_meant() -> None:
    texts = weights(CACHE)

    kind, weight = texts[CACHE.replace("[key]\n", "[key]\n        self.items.popitem()\n")]
    assert (kind, weight < 0.1) == ("reset", True)
