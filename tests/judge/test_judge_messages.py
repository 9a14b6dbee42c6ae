"""Requests of the server as submissions: every kind of tests, with its checker and its options."""

from typing import Any

import pytest
from pydantic import ValidationError

from stepcoder.judge.messages import ProgramMessage
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Custom,
    Exact,
    Interactor,
    Limits,
    Regex,
    StdinTests,
    Testlib,
    Tests,
    Tolerance,
    UnittestTests,
    Unordered,
)

CALL = {"kind": "call", "inputs": [[1]], "outputs": ["a"]}
STDIN = {"kind": "stdin", "inputs": ["1"], "outputs": ["a"]}
CHECKERS: list[tuple[dict[str, Any], Any]] = [
    ({"kind": "exact"}, Exact()),
    ({"kind": "tolerance", "float_tolerance": 0.5}, Tolerance(0.5)),
    ({"kind": "unordered"}, Unordered()),
    ({"kind": "regex"}, Regex()),
    ({"kind": "custom", "source": "x"}, Custom("x")),
]
CODE = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n"


def read_tests(message: dict[str, Any]) -> Tests:
    program = ProgramMessage.model_validate({"source": "", "entry_point": "f", "tests": message})
    return program.submission(Limits()).tests


@pytest.mark.parametrize(("message", "checker"), CHECKERS)
def test_a_request_may_bring_any_checker(message: dict[str, Any], checker: Any) -> None:
    assert read_tests(CALL | {"checker": message}) == CallTests(([1],), ("a",), checker=checker)
    if checker != Unordered():
        expected = StdinTests(("1",), ("a",), checker=checker)
        assert read_tests(STDIN | {"checker": message}) == expected


def test_a_request_may_bring_a_checker_in_cpp() -> None:
    given = {"source": "x", "headers": {"testlib.h": "y"}}
    for kind in (Testlib, Interactor):
        checker = {"kind": kind.__name__.lower(), **given}
        expected = StdinTests(("1",), ("a",), checker=kind("x", (("testlib.h", "y"),)))
        assert read_stdin(checker) == expected
        with pytest.raises(ValueError, match="is for stdin tests"):
            read_tests(CALL | {"checker": checker})


def read_stdin(checker: dict[str, Any]) -> Tests:
    message = {"source": "", "language": "cpp", "tests": STDIN | {"checker": checker}}
    submission = ProgramMessage.model_validate(message).submission(Limits())
    assert submission.program.language == "cpp"
    return submission.tests


@pytest.mark.parametrize(
    ("message", "tests"),
    [
        (CALL | {"process_per_test": True}, CallTests(([1],), ("a",), process_per_test=True)),
        (
            {"kind": "assert", "asserts": ["a"], "process_per_test": True},
            AssertTests(("a",), process_per_test=True),
        ),
        ({"kind": "unittest", "code": CODE}, UnittestTests(CODE, ("T.test_a",))),
        (
            {"kind": "unittest", "code": "", "names": ["A.b"], "shared_process": True},
            UnittestTests("", ("A.b",), shared_process=True),
        ),
    ],
)
def test_a_request_says_how_tests_run(message: dict[str, Any], tests: Tests) -> None:
    assert read_tests(message) == tests


@pytest.mark.parametrize(
    "message",
    [
        CALL | {"checker": "exact"},
        CALL | {"checker": {"kind": "magic"}},
        CALL | {"checker": {"kind": "custom"}},
        CALL | {"checker": {"kind": "exact", "source": "x"}},
        CALL | {"checker": {"kind": "tolerance", "float_tolerance": -1.0}},
        CALL | {"process_per_test": 1},
        CALL | {"inputs": [[1]] * 10_001, "outputs": [1] * 10_001},
        STDIN | {"input_file": "../x"},
        STDIN | {"subtasks": [{"points": 1, "tests": [1]}]},
        STDIN | {"process_per_test": True},
        {"kind": "unittest", "code": "x = 1"},
        {"kind": "unittest", "code": CODE, "names": "T.test_a"},
    ],
)
def test_a_request_that_says_it_wrongly_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError)):
        read_tests(message)
