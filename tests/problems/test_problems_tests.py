"""Tests in records of problems and in requests: every kind, with its checker and its options."""

from dataclasses import asdict
from typing import Any

import pytest

from stepcoder.problems.problem import Problem, fingerprint, problem_of
from stepcoder.problems.schema import read_tests
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Checker,
    Custom,
    Exact,
    Regex,
    StdinTests,
    Tests,
    Tolerance,
    UnittestTests,
    Unordered,
)
from stepcoder.sandbox.checker_programs import program_checker
from stepcoder.sandbox.points import Subtask

CALLS = {"kind": "call", "inputs": [[1]], "outputs": [1]}
UNITTEST = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n"
CALL = {"kind": "call", "inputs": [[1]], "outputs": ["a"]}
STDIN = {"kind": "stdin", "inputs": ["1"], "outputs": ["a"]}


@pytest.mark.parametrize(
    ("record", "tests"),
    [
        (CALL, CallTests(([1],), ("a",))),
        (CALL | {"float_tolerance": 0}, CallTests(([1],), ("a",), 0)),
        (CALL | {"checker": None}, CallTests(([1],), ("a",))),
        (CALL | {"float_tolerance": None, "note": 1}, CallTests(([1],), ("a",))),
        (
            CALL | {"checker": {"kind": "unordered"}, "process_per_test": True},
            CallTests(([1],), ("a",), checker=Unordered(), process_per_test=True),
        ),
        (
            STDIN | {"checker": {"kind": "tolerance", "float_tolerance": 0.1}},
            StdinTests(("1",), ("a",), checker=Tolerance(0.1)),
        ),
        (STDIN | {"checker": {"kind": "regex"}}, StdinTests(("1",), ("a",), checker=Regex())),
        (
            STDIN | {"checker": {"kind": "program", "source": "x", "convention": "open-r1"}},
            StdinTests(("1",), ("a",), checker=program_checker("x", "open-r1")),
        ),
        (
            STDIN
            | {"input_file": "a.in", "subtasks": [{"points": 2, "tests": [0]}], "output_file": ""},
            StdinTests(("1",), ("a",), input_file="a.in", subtasks=(Subtask(2, (0,)),)),
        ),
        (
            {"kind": "assert", "asserts": ["assert f(1)"], "setup": "a = 1"},
            AssertTests(("assert f(1)",), "a = 1"),
        ),
        (
            STDIN | {"checker": {"kind": "custom", "source": "x"}},
            StdinTests(("1",), ("a",), checker=Custom("x")),
        ),
        (
            {"kind": "assert", "code": "assert f(1)", "process_per_test": True},
            AssertTests(("assert f(1)",), process_per_test=True),
        ),
        ({"kind": "unittest", "code": UNITTEST}, UnittestTests(UNITTEST, ("T.test_a",))),
        (
            {
                "kind": "unittest",
                "code": "",
                "names": ["A.b"],
                "shared_process": True,
                "process_per_test": True,
            },
            UnittestTests("", ("A.b",), True, True),
        ),
    ],
)
def test_a_record_says_how_it_is_tested(record: dict[str, Any], tests: Tests) -> None:
    assert read_tests(record) == tests


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (CALL | {"float_tolerance": "0"}, "float_tolerance"),
        (CALL | {"process_per_test": 1}, "process_per_test"),
        (CALL | {"checker": {"kind": "magic"}}, "checker"),
        (STDIN | {"checker": "exact"}, "checker"),
        (STDIN | {"checker": {"kind": "program", "source": "", "convention": "x"}}, "convention"),
        (STDIN | {"subtasks": [{"points": 0, "tests": [0]}]}, "subtasks"),
        (STDIN | {"subtasks": [{"points": 1, "tests": []}]}, "subtasks"),
        (STDIN | {"subtasks": [1]}, "subtasks"),
        (STDIN | {"input_file": 1}, "input_file"),
        ({"kind": "unittest", "code": "x = 1"}, "no class"),
        ({"kind": "unittest", "code": "def f("}, "not parse"),
        ({"kind": "unittest", "code": UNITTEST, "names": "T.test_a"}, "names"),
        ({"kind": "unittest", "code": UNITTEST, "shared_process": "no"}, "shared_process"),
        ({"kind": "unittest"}, "code"),
    ],
)
def test_a_record_that_says_it_wrongly_is_told_where(record: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_tests(record)


CHECKERS = [Exact(), Tolerance(0.5), Tolerance(0.5, 0.1), Unordered(0.0), Regex(), Custom("x")]


def read_checker(data: object) -> Checker | None:
    tests = read_tests(CALL | {"checker": data})
    assert isinstance(tests, CallTests)
    return tests.checker


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_survives_as_json_data(checker: Checker) -> None:
    assert read_checker({"kind": type(checker).__name__.lower(), **asdict(checker)}) == checker


@pytest.mark.parametrize(
    "data",
    [
        "exact",
        {},
        {"kind": "other"},
        {"kind": ["exact"]},
        {"kind": "custom"},
        {"kind": "custom", "source": 1},
        {"kind": "exact", "float_tolerance": 1},
        {"kind": "tolerance", "float_tolerance": "1"},
        {"kind": "tolerance", "float_tolerance": True},
    ],
)
def test_data_that_is_no_checker_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="checker"):
        read_checker(data)


def test_a_fingerprint_sees_checkers_and_processes_and_keeps_those_without() -> None:
    def of(tests: Tests) -> str:
        return fingerprint([Problem("p", "", "", "", tests)])

    plain = CallTests(([1],), (0,))
    prints = {
        of(plain),
        of(CallTests(([1],), (0,), checker=Unordered())),
        of(CallTests(([1],), (0,), checker=Unordered(0.5))),
        of(CallTests(([1],), (0,), process_per_test=True)),
    }
    assert len(prints) == 4
    # What it was before tests could have either: runs that began then can go on.
    assert of(plain) == "f41b1f1b6903c7866c0fd551901caebe264735abb608dd39e4777ed379fdd920"


@pytest.mark.parametrize("tolerance", [0, 0.0, 1, 2.5])
def test_a_file_may_hold_any_tolerance_and_it_is_kept_as_written(tolerance: float) -> None:
    tests = read_tests({**CALLS, "float_tolerance": tolerance})
    checked = read_tests({**CALLS, "checker": {"kind": "tolerance", "float_tolerance": tolerance}})
    assert repr(tests.float_tolerance) == repr(checked.checker.float_tolerance) == repr(tolerance)


@pytest.mark.parametrize("nothing", [None, "", 0, False, [], {}])
def test_an_optional_field_that_holds_nothing_is_an_absent_one(nothing: object) -> None:
    record = {
        "task_id": "t",
        "prompt": "p",
        "canonical_solution": "def f(x): return x\n",
        "entry_point": "f",
        "tests": CALLS,
    }
    optional = ("starter_code", "preamble", "source", "difficulty", "split")
    assert problem_of({**record, **dict.fromkeys(optional, nothing)}) == problem_of(record)
