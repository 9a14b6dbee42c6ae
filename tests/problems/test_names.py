"""Names that statements bind, names that code uses, and names in entry points."""

import pytest

from stepcoder.problems.names import (
    bound_anywhere,
    bound_names,
    called_name,
    defined_name,
    loaded_names,
)
from stepcoder.problems.source import parse


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a = b.c = 1", {"a"}),
        ("def f(x):\n    y = 1", {"f"}),
        ("class A(B):\n    z = 1", {"A"}),
        ("import os.path, re as r", {"os", "r"}),
        ("from m import *", {"*"}),
        ("for i in xs:\n    async def g(): pass", {"i", "g"}),
        ("if (n := 1): pass", {"n"}),
    ],
)
def test_a_statement_binds_names_in_its_own_scope(source: str, names: set[str]) -> None:
    assert bound_names(*parse(source).body) == names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(x, *a, **k):\n    global g\n    y = x", {"f", "x", "a", "k", "g", "y"}),
        ("try: pass\nexcept E as e: del d", {"e", "d"}),
        ("match v:\n    case [p, *q]: pass\n    case {**r}: pass", {"p", "q", "r"}),
    ],
)
def test_a_program_binds_names_in_all_scopes(source: str, names: set[str]) -> None:
    assert bound_anywhere(parse(source)) == names


def test_loaded_names_are_those_whose_values_are_used() -> None:
    assert loaded_names(*parse("a = b.c\nd[e] = f(a)").body) == {"a", "b", "d", "e", "f"}


@pytest.mark.parametrize(
    ("entry_point", "defined", "called"),
    [("f", "f", "f"), ("Solution().twoSum", "Solution", "twoSum")],
)
def test_an_entry_point_has_a_defined_and_a_called_name(
    entry_point: str, defined: str, called: str
) -> None:
    assert (defined_name(entry_point), called_name(entry_point)) == (defined, called)
