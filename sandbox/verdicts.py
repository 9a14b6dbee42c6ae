"""From what the runs of a submission left behind to its verdict.

Takes a Submission and the launcher's RunResults, gives a Verdict. Everything that a run reports is
a claim of untrusted code: values are compared here, and only what the worker saw (signals, clocks,
system calls) decides about limits.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.program import AssertTests, CallTests, StdinTests, Submission
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

_PHASE_COMPILE, _PHASE_LOAD, _PHASE_FIRST_TEST = 1, 2, 3
_NONE, _VALUE, _ERROR, _NOT_PLAIN, _TOO_LARGE = range(5)
_KILLED_CPU, _KILLED_WALL, _KILLED_ORDER = 1, 2, 3
_SHOWN = 300  # characters of a value or an output in a verdict

_LIMITS_AND_ERRORS = (
    Status.RUNTIME_ERROR,
    Status.CPU_TIME_LIMIT,
    Status.WALL_TIME_LIMIT,
    Status.MEMORY_LIMIT,
    Status.OUTPUT_LIMIT,
)


def verdict_of(submission: Submission, runs: list[_launcher.RunResult]) -> Verdict:
    """Return the verdict that the runs of a submission earn."""
    for run in runs:
        if run.infrastructure_error:
            message = _text(run.infrastructure_message) or "the sandbox failed"
            return Verdict(Status.INFRASTRUCTURE_ERROR, message=_one_line(message))
    pair = isinstance(submission.tests, AssertTests) and not submission.tests.shared_process
    verdict_of_test = pair_test_verdict if pair else _test_verdict
    tests = [verdict_of_test(submission, runs, i) for i in range(len(submission.tests))]
    if submission.stop_at_first_failure:
        tests = _stopped(tests)
    decisive = decisive_test(tests)
    return Verdict(
        status=decisive.status,
        tests=tuple(tests),
        message=decisive.message,
        error_type=decisive.error_type,
        error_line=decisive.error_line,
        executed_lines=frozenset().union(*(test.executed_lines for test in tests)),
        cpu_s=sum(run.cpu_ns for run in runs) / 1e9,
        wall_s=sum(run.wall_ns for run in runs) / 1e9,
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
        tampered=any(run.tampered for run in runs),
        shared_process=isinstance(submission.tests, AssertTests) and not pair,
    )


def decisive_test(tests: list[TestVerdict]) -> TestVerdict:
    """Return the first test of the status that decides (precedence: Verdict)."""
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
    submission: Submission, runs: list[_launcher.RunResult], index: int
) -> TestVerdict:
    """Return the verdict of one test from the run that it was part of."""
    stdin = isinstance(submission.tests, StdinTests)
    run = None
    for candidate in runs:
        if candidate.first_test <= index:
            run = candidate
    if run is None:
        return TestVerdict(Status.NOT_RUN)
    position = 0 if stdin else index
    if stdin and run.first_test != index and run.phase != _PHASE_COMPILE:
        return TestVerdict(Status.NOT_RUN)
    if run.phase < _PHASE_FIRST_TEST:
        test = _died(run) if run.loading.outcome != _ERROR else _error(run.loading, run)
        return replace(
            test,
            executed_lines=_lines(run, 0),
            cpu_s=run.cpu_ns / 1e9,
            wall_s=run.wall_ns / 1e9,
        )
    finding = run.test(position)
    if finding.outcome == _NONE and run.phase < _PHASE_FIRST_TEST + position:
        return TestVerdict(Status.NOT_RUN)
    died = finding.outcome == _NONE
    test = (
        _stdin_verdict(submission.tests, run, index, finding)
        if isinstance(submission.tests, StdinTests)
        else _died(run)
        if died
        else _value_verdict(submission, run, index, finding)
    )
    if isinstance(submission.tests, StdinTests) and submission.tests.keep_output:
        test = replace(test, stdout=_text(run.stdout), stderr=_text(run.stderr))
    return replace(
        test,
        executed_lines=_lines(run, 0) | _lines(run, 1 + position),
        cpu_s=(run.cpu_ns if died or stdin else min(finding.cpu_ns, run.cpu_ns)) / 1e9,
        wall_s=(run.wall_ns if died or stdin else min(finding.wall_ns, run.wall_ns)) / 1e9,
    )


def pair_test_verdict(
    _submission: Submission, runs: list[_launcher.RunResult], index: int
) -> TestVerdict:
    """Return the verdict of one assert test from the runs of the program and of its tester."""
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
        test = TestVerdict(Status.ACCEPTED)
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
        by_program = _launcher.decode(finding.payload)[3] is True
    except (ValueError, IndexError):
        by_program = False
    return test if by_program else _failed_assert(test)


def _value_verdict(
    submission: Submission, run: _launcher.RunResult, index: int, finding: _launcher.Finding
) -> TestVerdict:
    tests = submission.tests
    if finding.outcome == _ERROR:
        test = _error(finding, run)
        return _failed_assert(test) if isinstance(tests, AssertTests) else test
    if finding.outcome == _NOT_PLAIN:
        what = _shown(_text(finding.payload))
        return TestVerdict(
            Status.WRONG_ANSWER, message=f"returned {what}, not plain data", got=what
        )
    if finding.outcome == _TOO_LARGE:
        return TestVerdict(Status.OUTPUT_LIMIT, message="the returned value is too large")
    if not isinstance(tests, CallTests):
        return TestVerdict(Status.ACCEPTED)
    expected = tests.outputs[index]
    try:
        got = _launcher.decode(finding.payload)
    except ValueError:
        return TestVerdict(Status.WRONG_ANSWER, message="returned a value that cannot be read")
    if same_value(got, expected, tests.float_tolerance):
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
    tests: StdinTests, run: _launcher.RunResult, index: int, finding: _launcher.Finding
) -> TestVerdict:
    if finding.outcome == _ERROR:
        return _error(finding, run)
    # os._exit(0) in a program that has printed its answer is an end like any other.
    ended_well = finding.outcome == _VALUE or (run.wait_status == 0 and not run.killed_for)
    if not ended_well or run.output_exceeded or run.violation >= 0:
        return _died(run)
    got = _shown(_text(run.stdout)[-_SHOWN:])
    if run.output_matches:
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
