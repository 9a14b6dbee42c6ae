"""Checkers: the ways to compare an answer, and those that are code of their own."""

import itertools
import math
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.sandbox import (
    CallTests,
    Checker,
    Custom,
    Exact,
    Judge,
    Limits,
    Program,
    Regex,
    Status,
    StdinTests,
    Submission,
    Tolerance,
    Unordered,
    Verdict,
)
from stepcoder.sandbox.compare import same_in_any_order, same_value

NAN = float("nan")


def returned(judge: Judge, expression: str, expected: Any, checker: Checker) -> Verdict:
    tests = CallTests(([],), (expected,), checker=checker)
    return judge.run(Program(f"def f():\n    return {expression}\n", "f"), tests)


def printed(judge: Judge, text: str, expected: str, checker: Checker) -> Verdict:
    return judge.run(
        Program(f"print({text!r}, end='')"), StdinTests(("",), (expected,), False, checker)
    )


@pytest.mark.parametrize(
    ("checker", "expression", "expected", "right"),
    [
        (Exact(), "0.1 + 0.2", 0.3, False),
        (Exact(), "0.1 + 0.2", 0.1 + 0.2, True),
        (Exact(), "(1, [2.0])", [1, [2]], True),
        (Tolerance(0.1), "1.05", 1.0, True),
        (Tolerance(0.1), "1.2", 1.0, False),
        (Unordered(), "[2, 1, 2]", [1, 2, 2], True),
        (Unordered(), "[2, 1, 1]", [1, 2, 2], False),
        (Unordered(), "[[2], [1], {'a': []}]", [[1], {"a": []}, [2]], True),
        (Unordered(), "[[1, 2]]", [[2, 1]], False),
        (Unordered(), "(0.1 + 0.2, 'x')", ["x", 0.3], True),
        (Unordered(0.0), "(0.1 + 0.2, 'x')", ["x", 0.3], False),
        (Unordered(), "[None, 'a', b'a', 1, {1}, {}]", [{}, {1}, 1, b"a", "a", None], True),
        (Unordered(), "[1j, float('nan'), 0]", [NAN, 0, 1j], True),
        (Unordered(), "{1: 2}", {1: 2}, True),
        (Unordered(), "3", 4, False),
        (Regex(), "'abc'", "a.c", True),
        (Regex(), "'abcd'", "a.c", False),
        (Regex(), "7", "7", False),
        (Regex(), "'A\\nb'", "(?is)a.B", True),
        (Custom("def check(i, expected, got): return sum(got) == expected"), "[1, 2]", 3, True),
        (Custom("def check(i, expected, got): return sum(got) == expected"), "[1, 1]", 3, False),
    ],
)  # fmt: skip
def test_a_checker_decides_about_a_returned_value(
    judge: Judge, checker: Checker, expression: str, expected: Any, right: bool
) -> None:
    verdict = returned(judge, expression, expected, checker)
    assert verdict.status is (Status.ACCEPTED if right else Status.WRONG_ANSWER), verdict.message
    assert verdict.executed_lines == {1, 2}
    assert verdict.tests[0].got is not None


@pytest.mark.parametrize(
    ("checker", "text", "expected", "right"),
    [
        (Exact(), "a  b \nc\n\n", "a  b\nc", True),
        (Exact(), "a b\nc", "a  b\nc", False),
        (Exact(), "a\n\nc", "a\nc", False),
        (Exact(), " a", "a", False),
        (Tolerance(), "1.0000001 x\n2", "1 x 2.0", True),
        (Tolerance(), "1.001", "1", False),
        (Tolerance(), "1000001", "1000000", False),
        (Tolerance(), "1_0", "10", False),
        (Tolerance(), "inf NaN -0", "inf nan 0", True),
        (Tolerance(), "1 2", "1", False),
        (Regex(), "took 12 ms\n\n", r"took \d+ ms", True),
        (Regex(), "took 12 s", r"took \d+ ms", False),
        (Custom("def check(i, e, got): return got.split() == e.split()"), "a\nb", "a b", True),
    ],
)  # fmt: skip
def test_a_checker_decides_about_stdout(
    judge: Judge, checker: Checker, text: str, expected: str, right: bool
) -> None:
    verdict = printed(judge, text, expected, checker)
    assert verdict.status is (Status.ACCEPTED if right else Status.WRONG_ANSWER), verdict.message


def test_a_custom_checker_sees_input_expected_and_value_of_each_test(judge: Judge) -> None:
    source = (
        "def check(input, expected, got):\n    return [input, expected, got] == [[got], -got, got]"
    )
    tests = CallTests(([1], [2], [3]), (-1, 2, -3), checker=Custom(source))
    verdict = judge.run(Program("def f(x):\n    return x\n", "f"), tests)
    statuses = [test.status for test in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.WRONG_ANSWER, Status.ACCEPTED]
    source = "def check(input, expected, got):\n    return input + expected == got"
    stdin = StdinTests(("a", "b"), ("x", "y"), checker=Custom(source))
    verdict = judge.run(Program("print(input() + 'x', end='')"), stdin)
    assert [t.status for t in verdict.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]


def test_a_program_s_own_failures_stand_beside_what_the_checker_says(judge: Judge) -> None:
    source = (
        "def f(x):\n    if x == 1: return object()\n    if x == 2: exit(0)\n    return 9 // x\n"
    )
    tests = CallTests(([0], [1], [2], [3]), (0, 0, 0, 3), checker=Custom(SAME))
    verdict = judge.run(Program(source, "f"), tests)
    assert [t.status for t in verdict.tests] == [
        Status.RUNTIME_ERROR,
        Status.WRONG_ANSWER,
        Status.RUNTIME_ERROR,
        Status.ACCEPTED,
    ]
    assert (verdict.error_type, verdict.error_line) == ("ZeroDivisionError", 4)
    submission = Submission(Program(source, "f"), tests, stop_at_first_failure=True)
    statuses = [t.status for t in judge.submit_all(submission).result().tests]
    assert statuses == [Status.RUNTIME_ERROR, *[Status.NOT_RUN] * 3]


SAME = "def check(input, expected, got):\n    return got == expected"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def check(input, expected, got): return 1 // 0", "ZeroDivisionError"),
        ("def check(input, expected, got): return 1", "not True or False"),
        ("def check(input, expected, got): return object()", "not True or False"),
        ("def check(input, expected, got): exit(0)", "SystemExit"),
        ("def check(input, expected, got):\n    while True: pass", "CPU time limit"),
        ("def check(input, expected, got): return bytearray(1 << 40)", "MemoryError"),
        ("def check(", "SyntaxError"),
        ("raise KeyError", "KeyError"),
        ("def chek(input, expected, got): return True", "NameError"),
        ("import os\ndef check(input, expected, got): os.execv('/bin/true', ['true'])", "execve"),
        ("#" * (9 << 20), "NameError"),
    ],
    ids=str.split("raises int object exit spins memory syntax load name escape large"),
)
def test_a_checker_that_fails_is_named_and_is_no_verdict_on_the_program(
    judge: Judge, source: str, why: str
) -> None:
    verdict = returned(judge, "3", 3, Custom(source))
    assert verdict.status is Status.INFRASTRUCTURE_ERROR
    assert verdict.message.startswith("the checker failed on test 1")
    assert why in verdict.message


def test_a_checker_s_failure_does_not_hide_that_of_others(judge: Judge) -> None:
    source = "def check(input, expected, got):\n    return 1 // got == 1"
    tests = CallTests(([1], [0], [1]), (0, 0, 0), checker=Custom(source))
    verdict = judge.run(Program("def f(x):\n    return x\n", "f"), tests)
    statuses = [test.status for test in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.INFRASTRUCTURE_ERROR, Status.ACCEPTED]


def test_an_answer_on_which_the_checker_fails_is_wrong_where_the_expected_one_is_read(
    judge: Judge,
) -> None:
    source = """
def check(input, expected, got):
    if got == "spin":
        while True: pass
    if got == "die":
        exit()
    return sorted(got) == sorted(expected)
"""
    tests = CallTests(([0], [1]), ([2, 1], [3]), checker=Custom(source))
    for answer, why in (("None", "TypeError"), ("'spin'", "CPU time"), ("'die'", "SystemExit")):
        program = f"def f(x):\n    return [1, 2] if x == 0 else {answer}\n"
        verdict = judge.run(Program(program, "f"), tests)
        assert [t.status for t in verdict.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]
        assert verdict.message.startswith("the checker failed on test 2")
        assert why in verdict.message
        assert verdict.message.endswith("does not fail on the expected answer")


def test_a_catastrophic_expression_does_not_hold_up_the_judge(judge: Judge) -> None:
    slow = CallTests(([],), ("(a|a)*b",), checker=Regex())
    future = judge.submit(Program("def f():\n    return 'a' * 99\n", "f"), slow)
    start = time.monotonic()
    assert returned(judge, "1", 1, Exact()).passed
    assert time.monotonic() - start < 4.0
    assert future.result().status is Status.WRONG_ANSWER  # on its own text the expression ends
    bad = returned(judge, "'a'", "(", Regex())
    assert bad.status is Status.INFRASTRUCTURE_ERROR
    assert "unterminated subpattern" in bad.message


def test_a_program_s_limits_do_not_hold_for_its_checker(judge: Judge) -> None:
    source = """
def check(input, expected, got):
    return sum(range(4 * 10**7)) > 0 and len(bytearray(400 << 20)) > 0
"""
    limits = Limits(cpu_s=0.1, wall_s=30.0, memory_bytes=64 << 20)
    tests = CallTests(([],), (0,), checker=Custom(source))
    assert judge.run(Program("def f():\n    return 1\n", "f"), tests, limits).passed


def test_a_program_leaves_nothing_for_its_checker_to_find(judge: Judge) -> None:
    program = """
import builtins
builtins.check = lambda *a: True
open("left", "w").close()
def f(): return 1
"""
    source = """
import builtins, os
def check(input, expected, got):
    return hasattr(builtins, "check") or bool(os.listdir("."))
"""
    verdict = judge.run(Program(program, "f"), CallTests(([],), (1,), checker=Custom(source)))
    assert verdict.status is Status.WRONG_ANSWER, verdict.message


def test_cancelling_ends_a_checker_and_closing_settles_it() -> None:
    spins = Custom("def check(input, expected, got):\n    while True: pass")
    program, tests = Program("def f(): return 1", "f"), CallTests(([],), (1,), checker=spins)
    with Judge(workers=1) as judge:
        future = judge.submit(program, tests)
        time.sleep(1.0)
        assert future.cancel()
        start = time.monotonic()
        assert judge.run(program, CallTests(([],), (1,))).passed
        assert time.monotonic() - start < 2.0
        waiting = judge.submit(program, tests)
        time.sleep(0.5)
    assert waiting.result(timeout=0).status is Status.INFRASTRUCTURE_ERROR


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        (CallTests(([],), (1,), checker=Regex()), "no text"),
    ],
)
def test_checkers_that_make_no_sense_are_refused(
    judge: Judge, tests: CallTests | StdinTests, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        judge.submit(Program("", "f"), tests)


items = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=1), max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(items, max_size=6), st.randoms())
def test_a_list_is_the_same_in_any_order(values: list[Any], rng: random.Random) -> None:
    shuffled = [*values]
    rng.shuffle(shuffled)
    assert same_in_any_order(shuffled, values, 0.0)
    assert same_in_any_order(tuple(shuffled), values, 1e-6)
    assert not same_in_any_order([*shuffled, None], values)


@given(st.lists(st.lists(st.floats(1, 1e6), min_size=2, max_size=3), max_size=6), st.randoms())
def test_noise_below_the_tolerance_changes_no_pairing(
    values: list[list[float]], rng: random.Random
) -> None:
    noisy = [[x * (1 + rng.uniform(-4e-7, 4e-7)) for x in value] for value in values]
    rng.shuffle(noisy)
    assert same_in_any_order(noisy, values, 1e-6)


@given(st.lists(st.integers(0, 2), max_size=5), st.lists(st.integers(0, 2), max_size=5))
def test_lists_of_other_counts_are_not_the_same(left: list[int], right: list[int]) -> None:
    boxed = [[x] for x in left], [[x] for x in right]
    assert same_in_any_order(*boxed) is (sorted(left) == sorted(right))


def test_items_with_equal_hashes_take_no_longer_to_compare() -> None:
    collide = [i * ((1 << 61) - 1) for i in range(20_000)]
    start = time.monotonic()
    assert same_in_any_order(collide[::-1], collide)
    assert not same_in_any_order(collide, list(range(20_000)))
    assert time.monotonic() - start < 5.0


def test_many_items_that_noise_has_moved_find_their_partners() -> None:
    expected = [[float(i // 2), float(i % 2)] for i in range(2_000)]
    noisy = [[a + (1e-9 if b == 0.0 and a % 9 == 0 else 0.0), b] for a, b in expected]
    assert same_in_any_order(noisy[::-1], expected)
    assert not same_in_any_order([[a, b + 0.1] for a, b in noisy], expected)


def test_a_set_is_a_list_in_any_order(judge: Judge) -> None:
    assert returned(judge, "{3, 1}", [1, 3], Unordered()).passed
    assert not returned(judge, "{3, 1}", [1, 3], Exact()).passed
    assert not returned(judge, "{3, 1}", [1, 1, 3], Unordered()).passed


def test_a_value_as_deep_as_can_be_returned_reaches_its_checker(judge: Judge) -> None:
    source = "def f():\n    value = 1\n    for _ in range(200): value = [value]\n    return value\n"
    for checker in (Custom(SAME), Unordered(), None):
        tests = CallTests(([],), (1,), checker=checker)
        assert judge.run(Program(source, "f"), tests).status is Status.WRONG_ANSWER


PARTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.5, -0.0, 1.0, NAN, "a", b"a"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(PARTS, max_size=5), st.lists(PARTS, max_size=5), st.randoms())
def test_any_order_is_some_order(left: list[Any], right: list[Any], order: random.Random) -> None:
    """Hashing finds what trying every order finds, with noise or without."""
    shuffled = order.sample(left, len(left))
    assert same_in_any_order(shuffled, left)
    found = any(same_value(list(items), right, 0) for items in itertools.permutations(left))
    assert same_in_any_order(left, right, 0) == found


def test_numbers_equal_across_types_have_the_same_items() -> None:
    assert same_in_any_order([True, 1 + 0j, 2.0, NAN], [NAN, 2, 1.0, 1], 0)
    assert not same_in_any_order([complex(NAN, 1)], [complex(NAN, 2)])
    assert same_in_any_order([complex(NAN, 1)], [complex(NAN, 1)])
    assert not same_in_any_order([[1]], [{1}])
    assert same_in_any_order([10**400, 2.0**70, math.inf], [math.inf, 10**400, 2**70], 0)


def test_keys_that_a_program_has_chosen_do_not_slow_the_judge() -> None:
    """A table of 50,000 integers with equal hashes would take minutes to fill."""
    equal_hashes = [i * ((1 << 61) - 1) for i in range(50_000)]
    assert not same_in_any_order(equal_hashes, list(range(50_000)))


def test_an_expected_value_is_that_of_its_own_tests(judge: Judge) -> None:
    program = Program("def f(x): return [x]", "f")
    for i in range(300):  # short-lived test sets may have each other's addresses
        assert judge.run(program, CallTests(([i],), ([i],))).passed
        assert not judge.run(program, CallTests(([i],), ([i + 1],))).passed
