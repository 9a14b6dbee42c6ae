"""Checkers that are programs, partial credit and subtasks, and files in place of stdin."""

from __future__ import annotations

import pytest

from stepcoder.sandbox import (
    CallTests,
    Exact,
    Judge,
    Program,
    Status,
    StdinTests,
    Tolerance,
    Unordered,
    Verdict,
)
from stepcoder.sandbox.checker_programs import program_checker
from stepcoder.sandbox.points import Subtask

READS = "import sys\ngiven, output, answer = (open(p).read() for p in sys.argv[1:])\n"


def printed(judge: Judge, text: str, source: str, convention="testlib") -> Verdict:
    checker = program_checker(READS + source, convention)
    tests = StdinTests(("in\n",), ("right\n",), checker=checker)
    return judge.run(Program(f"print({text!r})"), tests)


@pytest.mark.parametrize(
    ("source", "status", "points"),
    [
        ("sys.exit(output != answer)", Status.ACCEPTED, 1.0),
        ("sys.exit()", Status.ACCEPTED, 1.0),
        (
            "assert (given, output, answer) == ('in\\n', 'right\\n', 'right\\n')",
            Status.ACCEPTED,
            1.0,
        ),
        ("sys.exit(1)", Status.WRONG_ANSWER, 0.0),
        ("sys.exit('wrong: a text is exit code 1')", Status.WRONG_ANSWER, 0.0),
        ("sys.exit(2)", Status.WRONG_ANSWER, 0.0),
        ("print('points 0.25 close', file=sys.stderr); sys.exit(7)", Status.WRONG_ANSWER, 0.25),
        ("print('points 1'); sys.exit(7)", Status.ACCEPTED, 1.0),
        ("print('points', 1e-05); sys.exit(7)", Status.WRONG_ANSWER, 1e-05),
        ("print('points 1/3'); sys.exit(7)", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("print('points 5'); sys.exit(7)", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("sys.exit(7)", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("print('bad test', file=sys.stderr); sys.exit(3)", Status.INFRASTRUCTURE_ERROR, 0.0),
        (
            "def main():\n    sys.exit(0)\nif __name__ == '__main__':\n    main()",
            Status.ACCEPTED,
            1.0,
        ),
        ("1 / 0", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("def f(:", Status.INFRASTRUCTURE_ERROR, 0.0),
    ],
)
def test_exit_codes_are_those_of_testlib(
    judge: Judge, source: str, status: Status, points: float
) -> None:
    verdict = printed(judge, "right", source)
    assert (verdict.status, verdict.points) == (status, points), verdict.message
    if status is Status.INFRASTRUCTURE_ERROR:
        assert verdict.message.startswith("the checker failed on test 1")


@pytest.mark.parametrize(
    ("source", "status", "points"),
    [
        ("print(1)", Status.ACCEPTED, 1.0),
        ("print('checked'); print('0')", Status.WRONG_ANSWER, 0.0),
        ("print(0.5)", Status.WRONG_ANSWER, 0.5),
        ("print(int(answer == 'right\\n' != output))", Status.WRONG_ANSWER, 0.0),
        ("pass", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("print('yes')", Status.INFRASTRUCTURE_ERROR, 0.0),
        ("print(1); sys.exit(3)", Status.INFRASTRUCTURE_ERROR, 0.0),
    ],
)
def test_open_r1_s_checkers_print_the_credit(
    judge: Judge, source: str, status: Status, points: float
) -> None:
    swapped = "output, answer = answer, output\n" + source
    verdict = printed(judge, "right", swapped, "open-r1")
    assert (verdict.status, verdict.points) == (status, points), verdict.message


def test_an_output_that_a_checker_cannot_read_is_wrong_and_no_fault_of_the_judge(
    judge: Judge,
) -> None:
    checker = program_checker(READS + "sys.exit(int(output) != int(answer))")
    tests = StdinTests(("", "", ""), ("1", "1", "1"), checker=checker)
    source = "import itertools\nprint({!r})"
    for text, right in (("1", True), ("2", False), ("no number", False), ("", False)):
        verdict = judge.run(Program(source.format(text)), tests)
        assert verdict.status is (Status.ACCEPTED if right else Status.WRONG_ANSWER)


def test_each_test_has_a_fresh_module_and_its_own_files(judge: Judge) -> None:
    source = READS + "assert 'seen' not in globals()\nseen = 1\nsys.exit(output != answer)"
    tests = StdinTests(("a", "b"), ("a", "b"), checker=program_checker(source))
    assert judge.run(Program("print(input(), end='')"), tests).passed


def test_a_checker_program_is_as_confined_as_the_program(judge: Judge) -> None:
    verdict = printed(judge, "right", "import socket\nsocket.socket()")
    assert verdict.status is Status.INFRASTRUCTURE_ERROR
    verdict = printed(judge, "right", "sys.exit(len(open('/etc/passwd').read()) > 0)")
    assert verdict.status is Status.INFRASTRUCTURE_ERROR


def test_a_subtask_earns_the_share_of_its_worst_test(judge: Judge) -> None:
    half = program_checker("import sys\nprint('points', open('output.txt').read())\nsys.exit(7)")
    subtasks = (Subtask(30, (0, 1)), Subtask(60, (2,)), Subtask(10, (1, 3)))
    tests = StdinTests(("1", "0.5", "1", "0"), ("", "", "", ""), checker=half, subtasks=subtasks)
    verdict = judge.run(Program("print(input())"), tests)
    assert verdict.points == pytest.approx((30 * 0.5 + 60 * 1 + 10 * 0) / 100)
    assert [test.partial for test in verdict.tests] == [0.0, 0.5, 0.0, 0.0]
    assert verdict.status is Status.WRONG_ANSWER


def test_without_subtasks_points_are_the_mean_of_the_tests(judge: Judge) -> None:
    tests = CallTests(([1], [2], [3], [4]), (1, 2, 3, 0))
    assert judge.run(Program("def f(x): return x", "f"), tests).points == 0.75
    assert judge.run(Program("def f(x) return", "f"), tests).points == 0.0


@pytest.mark.parametrize("subtask", [Subtask(1, ()), Subtask(1, (1,)), Subtask(0, (0,))])
def test_a_subtask_without_sense_is_refused(judge: Judge, subtask: Subtask) -> None:
    with pytest.raises(ValueError, match="subtask 1"):
        judge.submit(Program("", "f"), CallTests(([],), (1,), subtasks=(subtask,)))


@pytest.mark.parametrize(
    "source",
    [
        "open('output.txt', 'w').write(open('input.txt').read())",
        "sys.stdin = open('input.txt')\nprint(1)\nprint(input(), file=open('output.txt', 'w'))",
        "sys.stdin = open('input.txt')\nsys.stdout = open('output.txt', 'w')\nprint(input())",
        # Neither closed nor flushed.
        "f = open('input.txt')\ng = open('output.txt', 'w')\ng.write(f.readline())",
        "g = open('output.txt', 'wb')\ng.write(open('input.txt', 'rb').read())",
        "os.dup2(os.open('output.txt', os.O_CREAT | os.O_WRONLY), 1)\nprint(7)",
        "atexit.register(lambda: open('output.txt', 'w').write('7'))",
        "open('output.txt', 'w').write('7')\nexit()",
    ],
)
def test_files_stand_for_stdin_and_stdout(judge: Judge, source: str) -> None:
    files = {"input_file": "input.txt", "output_file": "output.txt"}
    program = Program(f"import atexit, os, sys\n{source}")
    verdict = judge.run(program, StdinTests(("7\n",), ("7\n",), **files))
    assert verdict.passed, verdict.message
    assert verdict.executed_lines


def test_a_missing_output_file_is_a_wrong_answer_and_its_checker_sees_it(judge: Judge) -> None:
    out = {"output_file": "output.txt"}
    verdict = judge.run(Program("print(input())"), StdinTests(("7",), ("7",), **out))
    assert (verdict.status, verdict.tests[0].got) == (Status.WRONG_ANSWER, "")
    program = Program("open('output.txt', 'w').write(input() + ' ')")
    assert judge.run(program, StdinTests(("7",), ("7",), checker=Exact(), **out)).passed
    verdict = judge.run(Program("1 / 0"), StdinTests(("7",), ("7",), **out))
    assert (verdict.error_type, verdict.error_line) == ("ZeroDivisionError", 1)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".", "..", "a b", "x" * 200, "é"])
def test_only_plain_names_stand_for_stdin(judge: Judge, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a file"):
        judge.submit(Program(""), StdinTests(("",), ("",), input_file=name))


@pytest.mark.parametrize(
    ("checker", "text", "expected", "right"),
    [
        (Tolerance(1e-6, 1e-3), "0.0009", "0", True),
        (Tolerance(1e-6, 1e-3), "0.002", "0", False),
        (Tolerance(1e-6), "0.0009", "0", False),
        (Unordered(), "3 4\n1 2\n", "1 2\n3 4\n", True),
        (Unordered(), "2 1\n4 3\n", "1 2\n3 4\n", True),
        (Unordered(), "2 1\n", "1 2\n", True),
        (Unordered(), "1 2\n1 2\n", "1 2\n3 4\n", False),
        (Unordered(), "1 3\n2 4\n", "1 2\n3 4\n", False),
        (Unordered(), "1 2 2", "1 2", False),
        (Unordered(), "1.00000001\n0.5", "0.5\n1", True),
    ],
)
def test_stdout_within_an_absolute_tolerance_or_in_any_order(
    judge: Judge, checker: Tolerance | Unordered, text: str, expected: str, right: bool
) -> None:
    tests = StdinTests(("",), (expected,), checker=checker)
    assert judge.run(Program(f"print({text!r})"), tests).passed is right
