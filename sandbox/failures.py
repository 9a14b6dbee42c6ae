"""What a recorded exception, or a process that ended early, means for the verdict of a test.

Takes the launcher's findings and runs. Exceptions are what untrusted code reports; the cause of an
early end is what the worker and the kernel saw.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.libraries import explained
from stepcoder.sandbox.messages import decoded, one_line, shown, without_surrogates
from stepcoder.sandbox.points import partial_credit
from stepcoder.sandbox.verdict import Status, TestVerdict

_SIGNALS = frozenset(int(number) for number in signal.Signals)
# Exit statuses of testlib's checkers: 2 is a wrong format, 4 more output than asked for.
TESTLIB_RIGHT, TESTLIB_WRONG, TESTLIB_POINTS = 0, (1, 2, 4), 7
_POINTS = re.compile(r"points\s+(\d*\.?\d+(?:e[+-]?\d+)?)(?!\S)")
# What the C++ library writes when no one catches an exception.
_TERMINATE = re.compile(r"terminate called after throwing an instance of '([^'\n]+)'")


def raised(finding: _launcher.Finding, run: _launcher.RunResult) -> TestVerdict:
    """Return the verdict for a recorded exception."""
    try:
        error_type, message, line, *_ = _launcher.decode(finding.payload, None, 1 << 20)
    except (ValueError, TypeError):
        return TestVerdict(Status.RUNTIME_ERROR, message="raised an exception")
    if not isinstance(error_type, str) or not isinstance(message, str):
        return TestVerdict(Status.RUNTIME_ERROR, message="raised an exception")
    status = Status.RUNTIME_ERROR
    if run.phase == _launcher.PHASE_COMPILE:
        status = Status.COMPILE_ERROR
    elif error_type == "MemoryError":
        status = Status.MEMORY_LIMIT
    if error_type == "ModuleNotFoundError":
        message = explained(message)
    error_type = shown(without_surrogates(error_type))
    return TestVerdict(
        status,
        message=one_line(f"{error_type}: {without_surrogates(message)}" if message else error_type),
        error_type=error_type,
        error_line=line if type(line) is int and line > 0 else None,
    )


def raised_in_test(finding: _launcher.Finding, tester: _launcher.RunResult) -> TestVerdict:
    """Return the verdict for an exception in test code, which records who raised it."""
    test = raised(finding, tester)
    by_whom = recorded_by(finding)
    if by_whom == "broken":  # the tests themselves are (guest.unittests)
        return replace(test, status=Status.INFRASTRUCTURE_ERROR)
    if by_whom is True:
        return test
    # An error of the test code itself on a wrong value, such as TypeError for len(None), means the
    # same as a failed assert. A name that the program should have defined is the program's error.
    if test.error_line is not None or test.error_type in ("NameError", "MemoryError"):
        return test
    return replace(test, status=Status.WRONG_ANSWER, error_type=None)


def recorded_by(finding: _launcher.Finding) -> Any:
    """Return who raised a recorded exception, or what else its record says; None if nothing."""
    try:
        return _launcher.decode(finding.payload, None, 1 << 20)[3]
    except (ValueError, TypeError, IndexError):
        return None


def died(run: _launcher.RunResult) -> TestVerdict:
    """Return the verdict for a process that ended before it had finished."""
    test = _cause_of_death(run)
    if run.phase == _launcher.PHASE_COMPILE and test.status is not Status.SECURITY_VIOLATION:
        return replace(test, status=Status.COMPILE_ERROR, message=f"compiling: {test.message}")
    return test


def _cause_of_death(run: _launcher.RunResult) -> TestVerdict:
    status = run.wait_status
    if run.violation >= 0:
        name = _launcher.syscall_name(run.violation)
        return TestVerdict(Status.SECURITY_VIOLATION, message=f"system call {name} is not allowed")
    if run.killed_for == _launcher.KILLED_FOR_CPU:
        return TestVerdict(Status.CPU_TIME_LIMIT, message="CPU time limit exceeded")
    if run.killed_for == _launcher.KILLED_FOR_WALL:
        return TestVerdict(Status.WALL_TIME_LIMIT, message="wall time limit exceeded")
    if run.killed_for == _launcher.KILLED_FOR_MEMORY:
        return TestVerdict(Status.MEMORY_LIMIT, message="memory limit exceeded")
    if run.output_exceeded:
        return TestVerdict(Status.OUTPUT_LIMIT, message="output limit exceeded")
    if run.is_native:
        return _end_of_native(run)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            message = "memory limit exceeded" if run.out_of_memory else "killed by the kernel"
            return TestVerdict(Status.MEMORY_LIMIT, message=message)
        name = _signal_name(number)
        return TestVerdict(Status.RUNTIME_ERROR, message=f"crashed ({name})", error_type=name)
    code = os.WEXITSTATUS(status)
    if code == _launcher.EXIT_ABORTED:
        return TestVerdict(Status.RUNTIME_ERROR, "crashed (SIGABRT)", error_type="SIGABRT")
    message = f"the process ended with exit status {code} before the test did"
    return TestVerdict(Status.RUNTIME_ERROR, message=message, error_type="SystemExit")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in _SIGNALS else f"signal {number}"


def _end_of_native(run: _launcher.RunResult) -> TestVerdict:
    """Return why a C or C++ program ended. Its own words are on stderr, if it has any."""
    said = decoded(run.stderr)
    thrown = _TERMINATE.search(said)
    if not os.WIFSIGNALED(run.wait_status):
        message = f"exit status {os.WEXITSTATUS(run.wait_status)}"
        return TestVerdict(Status.RUNTIME_ERROR, message=message, error_type="exit status")
    number = os.WTERMSIG(run.wait_status)
    if number == signal.SIGSYS:  # on machines that do not tell which
        message = "a system call that is not allowed"
        return TestVerdict(Status.SECURITY_VIOLATION, message=message)
    if number == signal.SIGKILL or (thrown and thrown[1] == "std::bad_alloc"):
        message = "memory limit exceeded" if run.out_of_memory or thrown else "killed by the kernel"
        return TestVerdict(Status.MEMORY_LIMIT, message=message)
    name = _signal_name(number)
    details = f": {said[thrown.start() :]}" if thrown else ""
    return TestVerdict(
        Status.RUNTIME_ERROR,
        message=one_line(f"crashed ({name}){details}"),
        error_type=shown(thrown[1]) if thrown else name,
    )


def testlib_answer(index: int, run: _launcher.RunResult | None) -> bool | TestVerdict:
    """Return what a checker or interactor with testlib's convention says of a test.

    If it gives no answer, that is the judge's failure.
    """
    if run is None:
        return TestVerdict(Status.NOT_RUN)
    said = one_line(decoded(run.stderr))
    status = os.WEXITSTATUS(run.wait_status) if os.WIFEXITED(run.wait_status) else -1
    if run.violation < 0 and not run.killed_for and not run.infrastructure_error:
        if status == TESTLIB_RIGHT:
            return True
        if status in TESTLIB_WRONG:
            return TestVerdict(Status.WRONG_ANSWER, said or f"the checker's answer is {status}")
        if status == TESTLIB_POINTS and (points := _POINTS.match(said)):
            if float(points[1]) in (0, 1):
                return float(points[1]) == 1 or TestVerdict(Status.WRONG_ANSWER, said)
            if partial := partial_credit(points[1]):
                return TestVerdict(Status.WRONG_ANSWER, said, partial=partial)
    why = decoded(run.infrastructure_message) or said or died(run).message
    message = one_line(f"the checker failed on test {index + 1}: {why}")
    return TestVerdict(Status.INFRASTRUCTURE_ERROR, message)


def has_failed(answer: bool | TestVerdict) -> bool:
    """Return whether a checker, or an interactor, has given no answer."""
    return isinstance(answer, TestVerdict) and answer.status is Status.INFRASTRUCTURE_ERROR
