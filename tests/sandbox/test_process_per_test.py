"""One process per test: tests do not affect each other, and each has its own evidence."""

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Program,
    Status,
    Submission,
    Tests,
    UnittestTests,
)

ASSERTS = ("assert f(1) == 1", "assert f(5) == 1", "assert f(0) == 1")
UNITTESTS = """
import unittest
class T(unittest.TestCase):
    def test_a(self): self.assertEqual(f(1), 1)
    def test_b(self): self.assertEqual(f(5), 1)
    def test_c(self): self.assertEqual(f(0), 1)
"""
# f(1), f(5) and f(0) should each return 1.
EACH: list[Tests] = [
    CallTests(([1], [5], [0]), (1, 1, 1), process_per_test=True),
    AssertTests(ASSERTS, "import math", process_per_test=True),
    AssertTests(ASSERTS, "import math", shared_process=True, process_per_test=True),
    UnittestTests(UNITTESTS, process_per_test=True),
    UnittestTests(UNITTESTS, shared_process=True, process_per_test=True),
]
kinds = pytest.mark.parametrize(
    "tests", EACH, ids=["call", "assert", "assert shared", "unittest", "unittest shared"]
)
COUNTS = """\
import os
calls = []
def f(x):
    calls.append(x)
    if x == 5:
        open("left", "w").close()
    if x == 0:
        return len(calls) + len(os.listdir("."))
    return len(calls)
"""


@kinds
def test_state_does_not_leak_between_tests(judge: Judge, tests: Tests) -> None:
    verdict = judge.run(Program(COUNTS, "f"), tests)
    assert verdict.passed, verdict.tests
    leaks = CallTests(([1], [5], [0]), (1, 1, 1))
    assert not judge.run(Program(COUNTS, "f"), leaks).passed


@kinds
def test_executed_lines_are_those_of_each_test(judge: Judge, tests: Tests) -> None:
    verdict = judge.run(Program(COUNTS, "f"), tests)
    loading = {1, 2, 3}
    assert [test.executed_lines for test in verdict.tests] == [
        loading | {4, 5, 7, 9},
        loading | {4, 5, 6, 7, 9},
        loading | {4, 5, 7, 8},
    ]
    assert verdict.executed_lines == set(range(1, 10))


@kinds
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("import os; os._exit(0)", Status.RUNTIME_ERROR),
        ("while True: pass", Status.CPU_TIME_LIMIT),
        ("import os; os.execv('/bin/true', ['true'])", Status.SECURITY_VIOLATION),
        ("bytearray(1 << 40)", Status.MEMORY_LIMIT),
        ("return 2", Status.WRONG_ANSWER),
    ],
    ids=["exit", "spins", "escape", "memory", "wrong"],
)
def test_a_test_that_fails_harms_no_other(
    judge: Judge, tests: Tests, body: str, status: Status
) -> None:
    source = f"def f(x):\n    if x == 5:\n        {body}\n    return 1\n"
    limits = Limits(cpu_s=0.5, wall_s=20.0)
    verdict = judge.run(Program(source, "f"), tests, limits)
    statuses = [test.status for test in verdict.tests]
    assert statuses == [Status.ACCEPTED, status, Status.ACCEPTED], verdict.tests


@kinds
def test_the_first_failure_can_be_the_last_test(judge: Judge, tests: Tests) -> None:
    program = Program("def f(x):\n    return 1 if x == 1 else [][1]\n", "f")
    submission = Submission(program, tests, stop_at_first_failure=True)
    for _ in range(3):  # however many workers take its tests
        statuses = [test.status for test in judge.submit_all(submission).result().tests]
        assert statuses[0] is Status.ACCEPTED
        assert statuses[1] is not Status.ACCEPTED
        assert statuses[2] is Status.NOT_RUN


@kinds
def test_what_does_not_compile_or_load_fails_every_test(judge: Judge, tests: Tests) -> None:
    verdict = judge.run(Program("x = 1\ndef f(:\n", "f"), tests)
    assert [test.status for test in verdict.tests] == [Status.COMPILE_ERROR] * 3
    assert verdict.error_line == 2
    verdict = judge.run(Program("x = 1\n[][x]\n", "f"), tests)
    assert [test.error_type for test in verdict.tests] == ["IndexError"] * 3


def test_many_tests_of_a_long_program_do_not_repeat_its_source(judge: Judge) -> None:
    source = "#" * (4 << 20) + "\ndef f(x):\n    return x\n"
    count = 300
    tests = CallTests(tuple([i] for i in range(count)), tuple(range(count)), process_per_test=True)
    assert judge.run(Program(source, "f"), tests).passed
