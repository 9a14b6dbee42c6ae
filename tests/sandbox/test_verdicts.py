"""Every status, for every kind of test, with the evidence that comes with it."""

import sys
from dataclasses import replace

import pytest

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Submission,
    UnittestTests,
    Verdict,
)

SHORT = Limits(cpu_s=0.3, wall_s=30.0, memory_bytes=128 << 20, output_bytes=1 << 12)


def call(judge: Judge, source: str, *, limits: Limits | None = None) -> Verdict:
    """Judge `f` on f(2) == 4."""
    return judge.run(Program(source, "f"), CallTests(([2],), (4,)), limits)


def stdin(judge: Judge, source: str, *, limits: Limits | None = None) -> Verdict:
    """Judge a program on reading 2 and printing 4."""
    return judge.run(Program(source), StdinTests(("2\n",), ("4\n",)), limits)


def test_a_right_function_is_accepted(judge: Judge) -> None:
    verdict = call(judge, "def f(x):\n    return x * 2\n")
    assert verdict.status is Status.ACCEPTED
    assert verdict.passed
    assert verdict.pass_fraction == 1.0
    assert verdict.executed_lines == {1, 2}
    assert verdict.peak_memory_bytes > 0
    assert not verdict.shared_process


def test_a_run_gets_its_memory_limit_and_no_more(judge: Judge) -> None:
    source = (
        "import mmap\ndef f(x):\n    keep = []\n    while True:\n"
        "        keep.append(mmap.mmap(-1, 1 << 20))\n        keep[-1].write(b'x' * (1 << 20))\n"
    )
    verdict = call(judge, source, limits=replace(SHORT, cpu_s=5.0))
    assert verdict.status is Status.MEMORY_LIMIT
    # How far it gets before someone looks depends on the machine.
    assert 120 << 20 < verdict.peak_memory_bytes < SHORT.memory_bytes + (1 << 30)


def test_a_wrong_value_says_what_was_expected(judge: Judge) -> None:
    verdict = call(judge, "def f(x):\n    return x\n")
    assert verdict.status is Status.WRONG_ANSWER
    assert verdict.message == "expected 4, got 2"
    assert verdict.tests[0].got == "2"


def test_an_exception_names_its_type_and_line(judge: Judge) -> None:
    verdict = call(judge, "def f(x):\n    y = x\n    return [][y]\n")
    assert verdict.status is Status.RUNTIME_ERROR
    assert verdict.error_type == "IndexError"
    assert verdict.error_line == 3
    assert verdict.executed_lines == {1, 2, 3}


def test_a_missing_entry_point_is_a_runtime_error(judge: Judge) -> None:
    verdict = call(judge, "def g(x):\n    return 4\n")
    assert (verdict.status, verdict.error_type) == (Status.RUNTIME_ERROR, "NameError")


def test_an_error_while_loading_fails_every_test(judge: Judge) -> None:
    verdict = judge.run(
        Program("x = 1\nraise KeyError('gone')\n", "f"), CallTests(([1], [2]), (1, 2))
    )
    assert [t.status for t in verdict.tests] == [Status.RUNTIME_ERROR] * 2
    assert verdict.error_line == 2
    assert verdict.executed_lines == {1, 2}


@pytest.mark.parametrize(
    "source",
    [
        "def f(x:\n    return 4\n",
        "def f(x):\nreturn 4\n",
        "x = '\0'\n",
        "def f(x):\n    return 4\n\tx\n",
        "f = " + "(" * 300 + ")" * 300,
        "x = \ud800",
        "return 4",
        "# coding: nonsense\nx = (",
    ],
    ids=["syntax", "indent", "nul", "tab", "nesting", "surrogate", "return", "coding"],
)
def test_what_does_not_compile_is_a_compile_error(judge: Judge, source: str) -> None:
    assert call(judge, source).status is Status.COMPILE_ERROR
    assert stdin(judge, source).status is Status.COMPILE_ERROR
    tests = AssertTests(("assert f(2) == 4",))
    assert judge.run(Program(source, "f"), tests).status is Status.COMPILE_ERROR


def test_a_compile_error_names_its_line(judge: Judge) -> None:
    verdict = call(judge, "x = 1\ny = 2\ndef f(x:\n")
    assert (verdict.error_type, verdict.error_line) == ("SyntaxError", 3)


def test_a_source_over_8_mib_is_a_compile_error(judge: Judge) -> None:
    assert call(judge, "#" * (9 << 20)).status is Status.COMPILE_ERROR


def test_a_syntax_error_at_run_time_is_a_runtime_error(judge: Judge) -> None:
    verdict = call(judge, "def f(x):\n    return eval('1 +')\n")
    assert (verdict.status, verdict.error_type) == (Status.RUNTIME_ERROR, "SyntaxError")


def test_busy_programs_exceed_the_cpu_limit(judge: Judge) -> None:
    source = "def f(x):\n    while True:\n        x += 1\n"
    assert call(judge, source, limits=SHORT).status is Status.CPU_TIME_LIMIT
    assert stdin(judge, "while True: pass", limits=SHORT).status is Status.CPU_TIME_LIMIT


def test_sleeping_programs_exceed_the_wall_limit(judge: Judge) -> None:
    limits = Limits(cpu_s=5.0, wall_s=0.3)
    verdict = call(judge, "import time\ndef f(x):\n    time.sleep(60)\n", limits=limits)
    assert verdict.status is Status.WALL_TIME_LIMIT
    assert verdict.executed_lines == {1, 2, 3}


def test_time_limits_hold_for_each_test_alone(judge: Judge) -> None:
    source = "def f(x):\n    if x == 1:\n        while True: pass\n    return x\n"
    verdict = judge.run(Program(source, "f"), CallTests(([0], [1], [2]), (0, 1, 2)), SHORT)
    statuses = [t.status for t in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.CPU_TIME_LIMIT, Status.ACCEPTED]
    assert verdict.status is Status.CPU_TIME_LIMIT


def test_too_much_memory_is_a_memory_limit(judge: Judge) -> None:
    source = "def f(x):\n    return len(b'x' * (1 << 30))\n"
    assert call(judge, source, limits=SHORT).status is Status.MEMORY_LIMIT
    source = "a = []\nwhile True: a.append('x' * 100000)\n"
    assert stdin(judge, source, limits=SHORT).status is Status.MEMORY_LIMIT


def test_too_much_output_is_an_output_limit(judge: Judge) -> None:
    source = "while True: print('x' * 1000)"
    assert stdin(judge, source).status is Status.OUTPUT_LIMIT
    source = "import sys\nwhile True: sys.stderr.write('x' * 1000)"
    assert stdin(judge, source).status is Status.OUTPUT_LIMIT


def test_escape_calls_are_violations_that_name_the_call(judge: Judge) -> None:
    source = "import os\ndef f(x):\n    os.execv('/bin/true', ['true'])\n"
    verdict = call(judge, source)
    assert verdict.status is Status.SECURITY_VIOLATION
    assert "execve" in verdict.message


def test_a_violation_outranks_other_failures(judge: Judge) -> None:
    source = "import os\ndef f(x):\n    if x: os.chroot('/')\n    return [][1]\n"
    verdict = judge.run(Program(source, "f"), CallTests(([0], [1]), (0, 1)))
    assert [t.status for t in verdict.tests] == [Status.RUNTIME_ERROR, Status.SECURITY_VIOLATION]
    assert verdict.status is Status.SECURITY_VIOLATION


def test_stop_at_first_failure_leaves_the_rest_unrun(judge: Judge) -> None:
    program = Program("def f(x):\n    return 1 // x\n", "f")
    tests = CallTests(([1], [0], [1]), (1, 1, 1))
    verdict = judge.submit_all(Submission(program, tests, stop_at_first_failure=True)).result()
    statuses = [t.status for t in verdict.tests]
    assert statuses == [Status.ACCEPTED, Status.RUNTIME_ERROR, Status.NOT_RUN]
    source = "import sys\nprint(1 // int(input()))"
    stdin_tests = StdinTests(("1", "0", "1"), ("1", "1", "1"))
    submission = Submission(Program(source), stdin_tests, stop_at_first_failure=True)
    statuses = [t.status for t in judge.submit_all(submission).result().tests]
    assert statuses == [Status.ACCEPTED, Status.RUNTIME_ERROR, Status.NOT_RUN]


@pytest.mark.parametrize(
    "body",
    [
        "print(int(input()) * 2)",
        "import sys\nprint(int(sys.stdin.readline()) * 2)",
        "import sys\nprint(int(sys.stdin.buffer.read()) * 2)",
        "print(int(open(0).read()) * 2)",
        "import os\nos.write(1, b'4')",
        "import sys\nsys.stdout.write('4')\nsys.exit()",
        "print('  4  ')\nexit(0)",
        "import os, sys\nprint(4)\nsys.stdout.flush()\nos._exit(0)",
        "import atexit\natexit.register(print, 4)",
        "import threading\nthreading.Thread(target=print, args=(4,)).start()",
        "if __name__ == '__main__':\n    print(4)",
        "import sys\nfor line in sys.stdin:\n    print(int(line) * 2)",
        "import fileinput\nprint(sum(int(l) * 2 for l in fileinput.input()))",
    ],
)
def test_the_usual_ways_to_read_and_print_work(judge: Judge, body: str) -> None:
    verdict = stdin(judge, body)
    assert verdict.status is Status.ACCEPTED, verdict.message


def test_reading_past_the_end_of_stdin_is_an_error(judge: Judge) -> None:
    verdict = stdin(judge, "input()\ninput()\n")
    assert (verdict.error_type, verdict.error_line) == ("EOFError", 2)


def test_an_exit_status_other_than_0_is_a_runtime_error(judge: Judge) -> None:
    for end in ("import sys; sys.exit(3)", "exit('no')", "import os; os._exit(1)"):
        assert stdin(judge, f"print(4, flush=True)\n{end}").status is Status.RUNTIME_ERROR


def test_an_entry_point_reads_stdin_too(judge: Judge) -> None:
    source = "def solve():\n    n = int(input())\n    print(n * 2)\n"
    tests = StdinTests(("2\n", "3\n"), ("4", "7"))
    verdict = judge.run(Program(source, "solve"), tests)
    assert [t.status for t in verdict.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]
    assert verdict.executed_lines == {1, 2, 3}


def test_a_preamble_runs_first_and_has_its_own_lines(judge: Judge) -> None:
    program = Program(
        "def f(x):\n    return helper(x)\n", "f", "\n\n\ndef helper(x):\n    return 4\n"
    )
    verdict = judge.run(program, CallTests(([2],), (4,)))
    assert verdict.passed
    assert verdict.executed_lines == {1, 2}


def test_each_test_gets_a_fresh_entry_point_object(judge: Judge) -> None:
    source = "class S:\n    n = 0\n    def f(self):\n        self.n += 1\n        return self.n\n"
    verdict = judge.run(Program(source, "S().f"), CallTests(([], []), (1, 1)))
    assert verdict.passed


def test_one_stdin_test_does_not_see_another(judge: Judge) -> None:
    source = (
        "import os\nprint(os.listdir('.'))\nopen('left', 'w').write(input())\n"
        "os.mkdir('sub')\nopen('sub/x', 'w').close()\nos.chmod('sub', 0)\n"
    )
    verdict = judge.run(Program(source), StdinTests(("a", "b", "c"), ("[]", "[]", "[]")))
    assert verdict.passed, verdict.message


def test_submissions_that_make_no_sense_are_refused(judge: Judge) -> None:
    with pytest.raises(ValueError, match="no tests"):
        judge.run(Program("x = 1", "f"), CallTests((), ()))
    with pytest.raises(ValueError, match="entry_point"):
        judge.run(Program("x = 1"), CallTests(([1],), (1,)))
    with pytest.raises(ValueError, match="1 inputs but 2 outputs"):
        judge.run(Program("x = 1", "f"), CallTests(([1],), (1, 2)))


def test_verdicts_do_not_depend_on_chance(judge: Judge) -> None:
    source = "import random\ndef f():\n    return [random.random(), list({'a', 'b', 'c', 'd'})]\n"
    seen = {judge.run(Program(source, "f"), CallTests(([],), (0,))).message for _ in range(8)}
    assert len(seen) == 1


# From 3.12 on Python itself refuses so many calls through C code.
DEEPER = "max(map(deep, [n - 1]))" if sys.version_info < (3, 12) else "deep(n - 1)"


@pytest.mark.parametrize(
    "source",
    [
        "print(2 * sum(map(int, open('/dev/stdin'))))",
        "import os\nassert os.path.exists('/dev/stdin')\n"
        "print(2 * int(os.read(os.open('/dev/stdin', os.O_RDONLY), 9)))",
        "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (r.getrlimit(r.RLIMIT_STACK)[1],) * 2)\n"
        "print(2 * int(input()))",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(512 << 20)\n"
        f"def deep(n): return n and {DEEPER} + 1\n"
        "thread = threading.Thread(target=lambda: print(deep(20000) // 5000 * int(input()) // 2))\n"
        "thread.start()\nthread.join()",
        "import numpy\na = numpy.zeros((20000, 20000))\na[:, 10000] = 1 / 20000\n"
        "print(round(a[:, 10000].sum() * 2 * int(input())) + int(a[5, 5]))",
        "import mmap\nm = mmap.mmap(-1, 1 << 31)\nm[1 << 30] = int(input())\n"
        "print(2 * m[1 << 30] + m[5])",
    ],
)
def test_what_programs_of_contests_do_works(judge: Judge, source: str) -> None:
    verdict = stdin(judge, source, limits=Limits(memory_bytes=256 << 20))
    assert verdict.passed, verdict.message


@pytest.mark.parametrize("module", ["collections", "fractions", "wsgiref.headers"])
def test_library_classes_are_immutable_to_a_program_beside_its_tests(
    judge: Judge, module: str
) -> None:
    """Those that every worker has loaded, and those that only the preamble imports."""
    kind = {"collections": "Counter", "fractions": "Fraction", "wsgiref.headers": "Headers"}[module]
    preamble = f"from {module} import {kind}"
    source = (
        f"import functools\ndef f(kind):\n    try: functools.update_wrapper(kind, f)\n"
        f"    except TypeError as error: return {kind} is kind and 'immutable' in str(error)\n"
    )
    test = f"assert f({kind}) is True"
    assert judge.run(Program(source, "f", preamble), AssertTests((test,))).passed
    # Those who test from another process may change them: no program is there.
    strict = Program(f"import gc\n{source}", "f", preamble)
    changing = AssertTests((f"assert {kind}.mark == 3",), f"{kind}.mark = 3")
    assert judge.run(strict, changing).passed
    assert judge.run(Program(source, "f", preamble), AssertTests((test,))).passed


BURST = "len(b'x' * (200 << 20))"  # given back before anyone may have looked


@pytest.mark.parametrize("spent", ["f(x)", "body", "end"])
@pytest.mark.parametrize("kind", ["call", "stdin", "beside", "apart", "unittest", "exit"])
def test_a_burst_of_memory_counts_wherever_it_happens(judge: Judge, kind: str, spent: str) -> None:
    """The peak that the kernel has noted decides, whatever the program returns."""
    limits = replace(SHORT, cpu_s=3.0)
    at = {name: BURST if name == spent else "0" for name in ("f(x)", "body", "end")}
    if kind in ("stdin", "exit"):
        last = "import os; sys.stdout.flush(); os._exit(0)" if kind == "exit" else ""
        source = f"import sys\n{at['body']}\nprint(2 * int(input()))\n{at['f(x)']}; {at['end']}\n"
        verdict = stdin(judge, source + last, limits=limits)
    else:
        source = (
            f"{'import gc' if kind == 'apart' else ''}\n{at['body']}\ncount = 0\ndef f(x):\n"
            "    global count\n    count += 1\n"
            f"    if count == 1: {at['f(x)']}\n    if count == 3: {at['end']}\n    return x\n"
        )
        tests: CallTests | AssertTests | UnittestTests
        if kind == "call":
            tests = CallTests(([1], [2], [3]), (1, 2, 3))
        elif kind == "unittest":
            code = "import unittest\nclass T(unittest.TestCase):\n" + "".join(
                f"    def test_{i}(self): self.assertEqual(f({i}), {i})\n" for i in range(3)
            )
            tests = UnittestTests(code)
        else:
            tests = AssertTests(tuple(f"x = f({i}); assert x == {i}" for i in range(3)))
        verdict = judge.run(Program(source, "f"), tests, limits)
        if spent == "f(x)":
            assert verdict.tests[0].status is Status.MEMORY_LIMIT
        if spent == "end":
            assert [t.status for t in verdict.tests[:2]] == [Status.ACCEPTED] * 2
    assert (verdict.status, verdict.message) == (Status.MEMORY_LIMIT, "memory limit exceeded")
    assert call(judge, "def f(x):\n    return 2 * x\n", limits=SHORT).passed
