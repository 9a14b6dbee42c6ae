"""From what the runs of a submission left behind to its verdict.

Takes a Submission and the launcher's RunResults, gives a Verdict. Everything that a run reports is
a claim of untrusted code: values are compared here, and only what the worker saw (signals, clocks,
system calls) decides about limits.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.by_value import ValueTests
from stepcoder.sandbox.checkers import Custom, Regex, same_answer, same_output
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.program import (
    CallTests,
    CodeTests,
    StdinTests,
    Submission,
    UnittestTests,
)
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

_PHASE_COMPILE, _PHASE_LOAD, _PHASE_FIRST_TEST = 1, 2, 3
_NONE, _VALUE, _ERROR, _NOT_PLAIN, _TOO_LARGE = range(5)
_KILLED_CPU, _KILLED_WALL, _KILLED_ORDER = 1, 2, 3
_SHOWN = 300  # characters of a value or an output in a verdict
_NO_LINES: frozenset[int] = frozenset()

_LIMITS_AND_ERRORS = (
    Status.RUNTIME_ERROR,
    Status.CPU_TIME_LIMIT,
    Status.WALL_TIME_LIMIT,
    Status.MEMORY_LIMIT,
    Status.OUTPUT_LIMIT,
)


# Judges a value of test i that its checker has to see: a verdict of the checker's own failing, or
# whether the value is right.
Check = Callable[[int, Any], "bool | TestVerdict"]


def verdict_of(
    submission: Submission, runs: list[_launcher.RunResult], check: Check | None = None
) -> Verdict:
    """Return the verdict that the runs of a submission earn.

    `check` answers for checkers that run in the sandbox (`checking`).
    """
    cpu_ns = wall_ns = peak_memory_bytes = 0
    tampered = False
    for run in runs:
        if run.infrastructure_error:
            message = _text(run.infrastructure_message) or "the sandbox failed"
            return Verdict(Status.INFRASTRUCTURE_ERROR, message=_one_line(message))
        cpu_ns += run.cpu_ns
        wall_ns += run.wall_ns
        peak_memory_bytes = max(peak_memory_bytes, run.peak_memory_bytes)
        tampered = tampered or run.tampered
    shared = isinstance(submission.tests, CodeTests) and submission.tests.shared_process
    pair = isinstance(submission.tests, CodeTests) and not shared
    if pair:
        tests = [pair_test_verdict(submission, runs, i) for i in range(len(submission.tests))]
    else:
        tests = [_test_verdict(submission, runs, i, check) for i in range(len(submission.tests))]
    if isinstance(submission.tests, UnittestTests) and all(map(_is_skipped, tests)):
        tests[0] = replace(tests[0], status=Status.INFRASTRUCTURE_ERROR)
    if submission.stop_at_first_failure:
        tests = _stopped(tests)
    decisive = decisive_test(tests)
    return Verdict(
        status=decisive.status,
        tests=tuple(tests),
        message=decisive.message,
        error_type=decisive.error_type,
        error_line=decisive.error_line,
        executed_lines=_NO_LINES.union(*[test.executed_lines for test in tests]),
        cpu_s=cpu_ns / 1e9,
        wall_s=wall_ns / 1e9,
        peak_memory_bytes=peak_memory_bytes,
        tampered=tampered,
        shared_process=shared,
    )


def has_no_value(runs: list[_launcher.RunResult]) -> bool:
    """Return whether some test returned what is no plain data, or very much of it."""
    return any(run.returned_no_value for run in runs)


def decisive_test(tests: list[TestVerdict]) -> TestVerdict:
    """Return the first test of the status that decides (precedence: Verdict)."""
    if all(test.status is Status.ACCEPTED for test in tests):
        return tests[0]
    for statuses in (
        (Status.INFRASTRUCTURE_ERROR,),
        (Status.COMPILE_ERROR,),
        (Status.SECURITY_VIOLATION,),
        _LIMITS_AND_ERRORS,
        (Status.WRONG_ANSWER,),
        (Status.NOT_RUN,),
    ):
        for test in tests:
            if test.status in statuses:
                return test
    return tests[0]


def _stopped(tests: list[TestVerdict]) -> list[TestVerdict]:
    for i, test in enumerate(tests):
        if test.status is not Status.ACCEPTED:
            return tests[: i + 1] + [TestVerdict(Status.NOT_RUN)] * (len(tests) - i - 1)
    return tests


def _test_verdict(
    submission: Submission, runs: list[_launcher.RunResult], index: int, check: Check | None
) -> TestVerdict:
    """Return the verdict of one test from the run that it was part of."""
    alone = isinstance(submission.tests, StdinTests) or submission.tests.process_per_test
    run = None
    for candidate in runs:
        if candidate.first_test <= index:
            run = candidate
    if run is None:
        return TestVerdict(Status.NOT_RUN)
    phase = run.phase
    position = 0 if alone else index
    if alone and run.first_test != index and phase != _PHASE_COMPILE:
        return TestVerdict(Status.NOT_RUN)
    if phase < _PHASE_FIRST_TEST:
        test = _died(run) if run.loading.outcome != _ERROR else _error(run.loading, run)
        return _measured(test, _lines(run, 0), run.cpu_ns, run.wall_ns)
    finding = run.test(position)
    died = finding.outcome == _NONE
    if died and phase < _PHASE_FIRST_TEST + position:
        return TestVerdict(Status.NOT_RUN)
    test = (
        _stdin_verdict(submission.tests, run, index, finding, check)
        if isinstance(submission.tests, StdinTests)
        else _died(run)
        if died
        else _value_verdict(submission, run, index, finding, check)
    )
    if isinstance(submission.tests, StdinTests) and submission.tests.keep_output:
        test = replace(test, stdout=_text(run.stdout), stderr=_text(run.stderr))
    cpu_ns, wall_ns = run.cpu_ns, run.wall_ns
    if not died and not alone:
        cpu_ns, wall_ns = min(finding.cpu_ns, cpu_ns), min(finding.wall_ns, wall_ns)
    return _measured(test, _lines(run, 0) | _lines(run, 1 + position), cpu_ns, wall_ns)


def _measured(
    test: TestVerdict, executed_lines: frozenset[int], cpu_ns: int, wall_ns: int
) -> TestVerdict:
    """Return a test's verdict with its evidence. Written out: `replace` takes far longer."""
    return TestVerdict(
        test.status,
        test.message,
        test.error_type,
        test.error_line,
        test.got,
        executed_lines,
        cpu_ns / 1e9,
        wall_ns / 1e9,
        test.stdout,
        test.stderr,
    )


def pair_test_verdict(
    submission: Submission, runs: list[_launcher.RunResult], index: int
) -> TestVerdict:
    """Return the verdict of one test from the runs of the program and of its tester."""
    if isinstance(submission.tests, CodeTests) and submission.tests.process_per_test:
        runs = [run for run in runs if run.first_test == index] or runs[-2:]
        if runs[0].first_test != index and all(run.phase != _PHASE_COMPILE for run in runs):
            return TestVerdict(Status.NOT_RUN)
        index = 0
    program = next(run for run in runs if not run.is_tester)
    tester = next(run for run in runs if run.is_tester)
    if tester.phase == _PHASE_COMPILE:
        reason = _error(tester.loading, tester) if tester.loading.outcome else _died(tester)
        message = f"the test code does not compile: {reason.message}"
        return TestVerdict(Status.INFRASTRUCTURE_ERROR, message=message)
    finding = tester.test(index)
    lines = _lines(program, 0) | _lines(program, 1 + index)
    here = _PHASE_FIRST_TEST + index
    if program.phase < _PHASE_FIRST_TEST and program.killed_for != _KILLED_ORDER:
        loading = program.loading.outcome == _ERROR
        test = _error(program.loading, program) if loading else _died(program)
    elif tester.loading.outcome == _ERROR:
        test = _tester_error(tester.loading, tester)
    elif finding.outcome == _ERROR:
        test = _tester_error(finding, tester)
    elif finding.outcome == _VALUE:
        test = _passed_test(finding)
    elif program.phase == here and program.killed_for != _KILLED_ORDER:
        test = _died(program)
    elif tester.phase == here or tester.phase < _PHASE_FIRST_TEST:
        test = _died(tester)
    else:
        return TestVerdict(Status.NOT_RUN)
    cpu_s = program.cpu_ns / 1e9 if finding.outcome == _NONE else 0.0
    return replace(test, executed_lines=lines, cpu_s=cpu_s, wall_s=finding.wall_ns / 1e9)


def _tester_error(finding: _launcher.Finding, tester: _launcher.RunResult) -> TestVerdict:
    test = _error(finding, tester)
    try:
        by_whom = _launcher.decode(finding.payload)[3]
    except (ValueError, IndexError):
        by_whom = False
    if by_whom == "broken":
        return replace(test, status=Status.INFRASTRUCTURE_ERROR)
    return test if by_whom is True else _failed_assert(test)


def _is_skipped(test: TestVerdict) -> bool:
    return test.status is Status.ACCEPTED and test.message.startswith("skipped: ")


def _passed_test(finding: _launcher.Finding) -> TestVerdict:
    """Return a pass with what the tests' own process has to say, such as "skipped: ..."."""
    try:
        said = _launcher.decode(finding.payload)
    except ValueError:
        said = None
    return TestVerdict(Status.ACCEPTED, message=_one_line(said) if isinstance(said, str) else "")


def _value_verdict(
    submission: Submission,
    run: _launcher.RunResult,
    index: int,
    finding: _launcher.Finding,
    check: Check | None,
) -> TestVerdict:
    tests = submission.tests
    if finding.outcome == _ERROR:
        return _error(finding, run) if isinstance(tests, CallTests) else _tester_error(finding, run)
    if finding.outcome == _NOT_PLAIN:
        what = _shown(_text(finding.payload))
        return TestVerdict(
            Status.WRONG_ANSWER, message=f"returned {what}, not plain data", got=what
        )
    if finding.outcome == _TOO_LARGE:
        return TestVerdict(Status.OUTPUT_LIMIT, message="the returned value is too large")
    if not isinstance(tests, CallTests):
        return _passed_test(finding)
    expected = tests.outputs[index]
    try:
        got = _launcher.decode(finding.payload)
    except ValueError:
        return TestVerdict(Status.WRONG_ANSWER, message="returned a value that cannot be read")
    if isinstance(tests, ValueTests):
        right: bool | TestVerdict = tests.holds(index, got)
    elif tests.checker is None:
        right = same_value(got, expected, tests.float_tolerance)
    elif isinstance(tests.checker, (Regex, Custom)):
        right = check is not None and check(index, got)
    else:
        right = same_answer(tests.checker, got, expected)
    if isinstance(right, TestVerdict):
        return replace(right, got=_repr(got))
    if right:
        return TestVerdict(Status.ACCEPTED, got=_repr(got))
    message = f"expected {_repr(expected)}, got {_repr(got)}"
    return TestVerdict(Status.WRONG_ANSWER, message=message, got=_repr(got))


def _failed_assert(test: TestVerdict) -> TestVerdict:
    """Return a wrong answer for an error of the test code itself.

    What the test code raises on a wrong value, such as TypeError for len(None), means the same as a
    failed assert. A name that the program should have defined is the program's own error.
    """
    if test.error_line is not None or test.error_type in ("NameError", "MemoryError"):
        return test
    return replace(test, status=Status.WRONG_ANSWER, error_type=None)


def _stdin_verdict(
    tests: StdinTests,
    run: _launcher.RunResult,
    index: int,
    finding: _launcher.Finding,
    check: Check | None,
) -> TestVerdict:
    if finding.outcome == _ERROR:
        return _error(finding, run)
    # os._exit(0) in a program that has printed its answer is an end like any other.
    ended_well = finding.outcome == _VALUE or (run.wait_status == 0 and not run.killed_for)
    if not ended_well or run.output_exceeded or run.violation >= 0:
        return _died(run)
    got = _shown(_text(run.stdout)[-_SHOWN:])
    if tests.checker is None:
        right: bool | TestVerdict = run.output_matches
    elif isinstance(tests.checker, (Regex, Custom)):
        right = check is not None and check(index, _text(run.stdout))
    else:
        right = same_output(tests.checker, _text(run.stdout), tests.outputs[index])
    if isinstance(right, TestVerdict):
        return replace(right, got=got)
    if right:
        return TestVerdict(Status.ACCEPTED, got=got)
    message = f"expected stdout {_repr(tests.outputs[index])}, got {_repr(got)}"
    return TestVerdict(Status.WRONG_ANSWER, message=message, got=got)


def _error(finding: _launcher.Finding, run: _launcher.RunResult) -> TestVerdict:
    """Return the verdict for a recorded exception."""
    try:
        error_type, message, line, *_ = _launcher.decode(finding.payload)
    except (ValueError, TypeError):
        return TestVerdict(Status.RUNTIME_ERROR, message="raised an exception")
    if not isinstance(error_type, str) or not isinstance(message, str):
        return TestVerdict(Status.RUNTIME_ERROR, message="raised an exception")
    status = Status.RUNTIME_ERROR
    if run.phase == _PHASE_COMPILE:
        status = Status.COMPILE_ERROR
    elif error_type == "MemoryError":
        status = Status.MEMORY_LIMIT
    error_type = _shown(error_type)
    return TestVerdict(
        status,
        message=_one_line(f"{error_type}: {_clean(message)}" if message else error_type),
        error_type=error_type,
        error_line=line if isinstance(line, int) and line > 0 else None,
    )


def _died(run: _launcher.RunResult) -> TestVerdict:
    """Return the verdict for a process that ended before it had finished."""
    test = _cause_of_death(run)
    if run.phase == _PHASE_COMPILE and test.status is not Status.SECURITY_VIOLATION:
        return replace(test, status=Status.COMPILE_ERROR, message=f"compiling: {test.message}")
    return test


def _cause_of_death(run: _launcher.RunResult) -> TestVerdict:
    status = run.wait_status
    if run.violation >= 0:
        name = _launcher.syscall_name(run.violation)
        return TestVerdict(Status.SECURITY_VIOLATION, message=f"system call {name} is not allowed")
    if run.killed_for == _KILLED_CPU:
        return TestVerdict(Status.CPU_TIME_LIMIT, message="CPU time limit exceeded")
    if run.killed_for == _KILLED_WALL:
        return TestVerdict(Status.WALL_TIME_LIMIT, message="wall time limit exceeded")
    if run.output_exceeded:
        return TestVerdict(Status.OUTPUT_LIMIT, message="output limit exceeded")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            message = "memory limit exceeded" if run.out_of_memory else "killed by the kernel"
            return TestVerdict(Status.MEMORY_LIMIT, message=message)
        name = signal.Signals(number).name if number in _SIGNALS else f"signal {number}"
        return TestVerdict(Status.RUNTIME_ERROR, message=f"crashed ({name})", error_type=name)
    code = os.WEXITSTATUS(status)
    if code == 117:
        return TestVerdict(Status.RUNTIME_ERROR, "crashed (SIGABRT)", error_type="SIGABRT")
    message = f"the process ended with exit status {code} before the test did"
    return TestVerdict(Status.RUNTIME_ERROR, message=message, error_type="SystemExit")


_SIGNALS = frozenset(int(number) for number in signal.Signals)


def _lines(run: _launcher.RunResult, index: int) -> frozenset[int]:
    return frozenset(run.lines(index))


def _repr(value: Any) -> str:
    try:
        return _shown(repr(value))
    except (ValueError, RecursionError):  # an int of more digits than Python prints
        return f"<{type(value).__name__}>"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _one_line(text: str) -> str:
    return _shown(" ".join(_clean(text).split()))
