"""Asserts that compile to calls are judged without a tester, with the verdicts of a tester."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder.sandbox import AssertTests, Judge, Program, Status, Submission
from stepcoder.sandbox.assert_calls import compile_asserts, constant

ECHO = Program("def f(*a):\n    return a[0] if len(a) == 1 else a\n", "f")
# With a second call an assert goes to a tester: the two ways must agree.
WITH_TESTER = " and f(0) == 0"


def is_simple(program: Program, tests: AssertTests) -> bool:
    return compile_asserts(Submission(program, tests)) is not None


SIMPLE = [
    "assert f(3) == 3",
    "assert f((1, 2)) == [1, 2]",
    "assert [1, 2] == f([1, 2]), 'message'",
    "assert f(True) is True",
    "assert f(1) is True",
    "assert f(None) is not None",
    "assert not f([])",
    "assert f([])",
    "assert f(2, 'b') == (2, 'b')",
    "assert abs(f(1.0000001) - 1) < 1e-6",
    "assert abs(f('a') - 1) < 1e-6",
    "assert 1 <= f(2) < 3",
    "assert f(2) in (1, 2)",
    "assert f(2) != 2",
    "assert tuple(f([1, 2])) == tuple((1, 2))",
    "assert len(f('abc')) == 3",
    "assert len(f(3)) == 3",
    "assert round(f(2.345), 2) == 2.35",
    "assert f(-3 + 2 * 10**3) == 1997",
    "assert f('ab' * 3) == 'ababab'",
    "assert f({'a': {1, 2}}) == {'a': {2, 1}}",
    "assert f(float) == 1",
    "assert f([1]) == f([1])",
    "assert sorted(f([2, 1])) == [1, 2]",
    "import math\nassert math.isclose(f(0.1), 0.1, rel_tol=1e-9)",
    "def check(candidate):\n    '''Tests.'''\n    assert candidate(1) == 1\ncheck(f)",
    "def check(candidate):\n    assert True, 'always'\ncheck(f)",
    "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",
]


@pytest.mark.parametrize("test", SIMPLE)
def test_an_assert_is_judged_as_python_runs_it(judge: Judge, test: str) -> None:
    names: dict[str, object] = {}
    exec(ECHO.source, names)
    try:
        exec(test, names)
        expected = Status.ACCEPTED
    except Exception:
        expected = Status.WRONG_ANSWER
    verdict = judge.run(ECHO, AssertTests((test,)))
    assert verdict.status is expected
    assert verdict.executed_lines == ({1, 2} if "True, 'always'" not in test else {1})


@pytest.mark.parametrize(
    ("test", "simple"),
    [
        ("assert f(1) == 1", True),
        ("assert f(f(1)) == 1", False),
        ("assert f(x=1) == 1", False),
        ("assert f(1) == 1 and f(2) == 2", False),
        ("assert f(1) == g(1)", False),
        ("assert f(1).x == 1", False),
        ("assert f(1) in f(2)", False),
        ("assert 3 in f(1)", False),
        ("assert f(1) is 1000", False),
        ("assert f(1) * 10**9 == 1", False),
        ("assert f([0] * 10**9) == 1", False),
        ("assert f(10**10**9) == 1", False),
        ("assert eval('1') == f(1)", False),
        ("x = 1\nassert f(1) == x", False),
        ("for i in [1]:\n    assert f(1) == 1", False),
        ("assert sum([1], 2) == 3", False),  # Python's own, not the program's
        ("assert f(*[1]) == 1", False),
        ("assert f(...) == 1", False),
        ("assert f(1) ==", False),
    ],
)
def test_only_one_call_with_constants_is_simple(test: str, simple: bool) -> None:
    assert is_simple(Program("", "f"), AssertTests((test,))) is simple


def test_one_test_that_needs_a_tester_brings_all_to_it() -> None:
    asserts = ("assert f(1) == 1", "assert f(f(1)) == 1")
    assert not is_simple(ECHO, AssertTests(asserts))
    assert not is_simple(ECHO, AssertTests(asserts[:1], setup="f = min"))
    assert not is_simple(Program("", "f", preamble="f = 1"), AssertTests(asserts[:1]))
    assert not is_simple(ECHO, AssertTests(asserts[:1], shared_process=True))
    assert is_simple(ECHO, AssertTests(asserts[:1], setup="import math\nMETADATA = {}"))


@pytest.mark.parametrize(
    ("source", "passes"),
    [
        ("from collections import deque\ndef f(): return deque([1])", False),
        ("def f(): return (i for i in [1])", False),
        ("def f(): return map(int, '1')", False),
        ("def f(): return range(1, 2)", False),
        ("from fractions import Fraction\ndef f(): return [Fraction(1)]", True),
        ("class A:\n    def __eq__(self, other): return True\ndef f(): return A()", False),
        ("class L(list):\n    def __eq__(self, other): return True\ndef f(): return L()", False),
        ("def f(): return [[1], f][:1][0]", True),
        ("def f(): return f", False),
        ("import numpy\ndef f(): return numpy.array([1])", True),
        ("import numpy\ndef f(): return [numpy.int64(1)]", True),
    ],
)
def test_what_is_no_plain_data_goes_to_a_tester(judge: Judge, source: str, passes: bool) -> None:
    if "numpy" in source:
        pytest.importorskip("numpy")
    simple = judge.run(Program(source, "f"), AssertTests(("assert f() == [1]",)))
    with_tester = judge.run(Program(source, "f"), AssertTests(("assert f() == [1] and f",)))
    assert simple.passed is with_tester.passed is passes
    assert simple.tests[0].executed_lines == with_tester.tests[0].executed_lines


def test_each_assert_has_its_own_verdict_and_lines(judge: Judge) -> None:
    source = "def f(x):\n    if x:\n        return 1 // (x - 2)\n    return 0\n"
    asserts = tuple(f"assert f({x}) == 0" for x in (0, 1, 2))
    verdict = judge.run(Program(source, "f"), AssertTests(asserts))
    accepted, wrong, error = verdict.tests
    assert accepted.status is Status.ACCEPTED
    assert accepted.executed_lines == {1, 2, 4}
    assert (wrong.status, wrong.message) == (Status.WRONG_ANSWER, "expected 0, got -1")
    assert (error.status, error.error_type) == (Status.RUNTIME_ERROR, "ZeroDivisionError")
    assert (error.error_line, error.executed_lines) == (3, {1, 2, 3})


def test_the_tests_after_a_crash_run_in_a_new_process(judge: Judge) -> None:
    source = "import os\ndef f(x):\n    if x: os._exit(0)\n    return x\n"
    asserts = ("assert f(0) == 0", "assert f(1) == 1", "assert f(0) == 0")
    verdict = judge.run(Program(source, "f"), AssertTests(asserts))
    statuses = [t.status for t in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.RUNTIME_ERROR, Status.ACCEPTED]


def test_each_assert_has_a_process_of_its_own_on_request(judge: Judge) -> None:
    program = Program("n = 0\ndef f():\n    global n\n    n += 1\n    return n\n", "f")
    asserts = ("assert f() == 1", "assert f() == 1")
    together = judge.run(program, AssertTests(asserts))
    assert [t.status for t in together.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]
    assert judge.run(program, AssertTests(asserts, process_per_test=True)).passed


def test_a_failed_condition_is_named(judge: Judge) -> None:
    verdict = judge.run(ECHO, AssertTests(("assert abs(f(3) - 1) < 0.5",)))
    assert verdict.message == "expected abs(value - 1) < 0.5, got 3"


def test_a_missing_function_is_an_error_of_the_program(judge: Judge) -> None:
    verdict = judge.run(Program("x = 1", "f"), AssertTests(("assert f(1) == 1",)))
    assert (verdict.status, verdict.error_type) == (Status.RUNTIME_ERROR, "NameError")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_constants_are_what_python_makes_of_them(value: object) -> None:
    text = repr(value)
    if "inf" in text:
        return
    assert repr(constant(ast.parse(text, mode="eval").body)) == text


@settings(max_examples=50, deadline=None)
@given(got=plain, expected=plain)
def test_both_ways_agree_on_any_values(judge: Judge, got: object, expected: object) -> None:
    if "inf" in repr((got, expected)):
        return
    test = f"assert f({got!r}) == {expected!r}"
    simple, with_tester = (
        judge.run(ECHO, AssertTests((text,))).status for text in (test, test + WITH_TESTER)
    )
    assert simple is with_tester
    assert (simple is Status.ACCEPTED) == (got == expected)
