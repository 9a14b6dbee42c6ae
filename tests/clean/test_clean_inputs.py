"""New inputs for generated tests: alike in what all known ones share, and never outside it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder.clean.duplicates import jaccard, program_key, shingles_of, similar_pairs
from stepcoder.clean.inputs import Domain, facts, new_inputs
from stepcoder.clean.stdin_inputs import new_stdins, parsed
from stepcoder.clean.vary import may_vary

SCALARS = st.none() | st.booleans() | st.integers(-9, 99) | st.floats()
VALUES = st.recursive(
    SCALARS | st.text("ab( )", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(0, 9), max_size=3)
        | st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_inputs_give_new_ones_within_what_was_seen(known):
    for made in new_inputs(known, 3, random.Random(0)):
        assert repr(made) not in map(repr, known)
        for i, value in enumerate(made):
            domain = Domain()
            for arguments in known:
                domain.add(arguments[i])
            assert domain.admits(value)


def test_what_all_known_inputs_share_holds_for_new_ones():
    known = [[[1, 3, 4], 3, [[0, 1], [1, 2]]], [[2, 5, 7, 9], 4, [[0, 3], [2, 3]]]]
    made = new_inputs(known, 20, random.Random(0))
    assert len(made) >= 5
    shared = facts(known[0]) & facts(known[1])
    for xs, n, edges in made:
        assert xs == sorted(set(xs))
        assert n == len(xs)
        assert all(0 <= a < b < n for a, b in edges)
    assert ("ascending", 0) in shared
    assert ("length equal", 1, 0) in shared


def test_the_same_seed_gives_the_same_inputs():
    known = [[[5, 1, 2], "abc"], [[2, 2], "ca"]]
    assert new_inputs(known, 9, random.Random(1)) == new_inputs(known, 9, random.Random(1))
    assert new_inputs(known, 9, random.Random(1)) != new_inputs(known, 9, random.Random(2))


def test_a_stdin_keeps_its_counts_orders_and_bounds():
    known = ["2 9\n3\n1 4 6\n2\n7 9\nab\n", "1 8\n4\n1 2 3 8\nbb\n"]
    made = new_stdins(known, 30, random.Random(0))
    assert len(made) >= 10
    for text in made:
        lines = parsed(text)
        assert len(lines) == len(text.split("\n"))
        cases, bound = lines[0]
        assert cases == (len(lines) - 3) // 2
        for i in range(cases):
            [count], row = lines[1 + 2 * i], lines[2 + 2 * i]
            assert count == len(row)
            assert row == sorted(row)
            assert max(row) <= bound


def test_rising_pairs_of_a_line_stay_rising():
    known = ["2\n1 5\n2 9\n", "2\n0 3\n4 8\n"]
    for text in new_stdins(known, 20, random.Random(3)):
        assert all(low < high for low, high in parsed(text)[1:3])


@settings(max_examples=200)
@given(st.text("01 -9ab\n.", max_size=30), st.integers(0, 9))
def test_any_stdin_keeps_its_shape(text, seed):
    for made in new_stdins([text], 3, random.Random(seed)):
        assert [len(line) for line in parsed(made)] == [len(line) for line in parsed(text)]


@settings(max_examples=60)
@given(
    st.lists(st.frozensets(st.sampled_from("abcdefghij"), min_size=1), max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_every_similar_pair_is_found(sets, threshold):
    found = {(pair.first, pair.second) for pair in similar_pairs(sets, threshold)}
    places = range(len(sets))
    assert found == {
        (i, j) for j in places for i in range(j) if jaccard(sets[i], sets[j]) >= threshold
    }


def test_programs_that_differ_in_names_have_one_key():
    one = (
        "import math\ndef f(a, b: int) -> int:\n    'Text'\n    c = math.gcd(a, b)\n    return c\n"
    )
    other = "def gcd_of(x, y):\n    g = math.gcd(x, y)  # words\n    return g\n"
    method = "class A:\n    def f(self, x, y):\n        g = math.gcd(x, y)\n        return g\n"
    assert program_key(one) == program_key(other) == program_key(method)
    assert program_key(other) != program_key(other.replace("(x, y)  #", "(y, x)  #"))
    assert shingles_of("A b, c D") == {"a b c", "b c d"}


def test_only_what_the_syntax_rules_out_cannot_vary():
    assert not may_vary("import math\ndef f(x):\n    return {i: math.pi for i in sorted(x)}\n")
    for source in (
        "def f(x): return {1, 2}",
        "import os",
        "x = hash('a')",
        "from m import *",
        "def f(a, b): return list(a.keys() & b.keys())",
        "import random",
        "set(",
    ):
        assert may_vary(source)
