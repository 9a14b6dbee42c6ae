"""Grades a submission: from what its runs left behind to its verdict.

Takes a Submission and the launcher's RunResults, gives a Verdict. Everything that a run reports is
a claim of untrusted code. So values are compared here, and limits are judged by what the worker saw
(signals, clocks, system calls).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from stepcoder.sandbox import _launcher, returned
from stepcoder.sandbox.checkers import IN_SANDBOX, Interactor, same_output
from stepcoder.sandbox.failures import (
    died,
    has_failed,
    raised,
    raised_in_test,
    recorded_by,
    testlib_answer,
)
from stepcoder.sandbox.messages import SHOWN, decoded, one_line, shown, shown_value
from stepcoder.sandbox.points import points_of
from stepcoder.sandbox.program import (
    CallTests,
    CodeTests,
    StdinTests,
    Submission,
    UnittestTests,
)
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

_NO_LINES: frozenset[int] = frozenset()

# The statuses of a submission, those that decide first coming first.
_PRECEDENCE = (
    (Status.INFRASTRUCTURE_ERROR,),
    (Status.COMPILE_ERROR,),
    (Status.SECURITY_VIOLATION,),
    (
        Status.RUNTIME_ERROR,
        Status.CPU_TIME_LIMIT,
        Status.WALL_TIME_LIMIT,
        Status.MEMORY_LIMIT,
        Status.OUTPUT_LIMIT,
    ),
    (Status.WRONG_ANSWER,),
    (Status.NOT_RUN,),
)

# Of a program that talks to an interactor which has ended, with guesses of it unread or not.
_OTHER_END_CLOSED = ("BrokenPipeError", "ConnectionResetError")

Runs = list[_launcher.RunResult]


def grade(submission: Submission, runs: Runs, check: returned.Check | None = None) -> Verdict:
    """Return the verdict of a submission, given its runs.

    `check` is needed if the submission has a checker that runs in the sandbox (`checker_runs`).
    """
    cpu_ns = wall_ns = peak_memory_bytes = 0
    tampered = False
    for run in runs:
        if run.infrastructure_error:
            message = decoded(run.infrastructure_message) or "the sandbox failed"
            return Verdict(Status.INFRASTRUCTURE_ERROR, message=one_line(message))
        cpu_ns += run.cpu_ns
        wall_ns += run.wall_ns
        peak_memory_bytes = max(peak_memory_bytes, run.peak_memory_bytes)
        tampered = tampered or run.tampered
    shared = isinstance(submission.tests, CodeTests) and submission.tests.shared_process
    interactive = isinstance(getattr(submission.tests, "checker", None), Interactor)
    if any(run.is_tester for run in runs) and not interactive:
        tests = [_pair_verdict(submission, runs, i) for i in range(len(submission.tests))]
    else:
        tests = [_test_verdict(submission, runs, i, check) for i in range(len(submission.tests))]
    if any(test.error_line for test in tests):  # a claim of the program
        tests = [test.with_line_within(submission.program.line_count) for test in tests]
    if isinstance(submission.tests, UnittestTests) and all(map(_is_skipped, tests)):
        tests[0] = replace(tests[0], status=Status.INFRASTRUCTURE_ERROR)
    if submission.stop_at_first_failure:
        tests = _until_first_failure(tests)
    decisive = _decisive(tests)
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
        points=points_of(tests, getattr(submission.tests, "subtasks", ())),
    )


def has_no_value(runs: Runs) -> bool:
    """Return whether some test returned a value that is not plain data, or is very large."""
    return any(run.returned_no_value for run in runs)


def needs_a_tester(runs: Runs) -> bool:
    """Return whether the tests need a process of their own: the program may not share theirs."""
    return any(recorded_by(_last_finding(run)) == "strict" for run in runs)


def _last_finding(run: _launcher.RunResult) -> _launcher.Finding:
    """Return the finding of the phase that a run ended in."""
    if run.phase >= _launcher.PHASE_FIRST_TEST:
        with contextlib.suppress(IndexError):  # it came to its end
            return run.test(run.phase - _launcher.PHASE_FIRST_TEST)
    return run.loading


def _is_skipped(test: TestVerdict) -> bool:
    return test.status is Status.ACCEPTED and test.message.startswith("skipped: ")


def _until_first_failure(tests: list[TestVerdict]) -> list[TestVerdict]:
    for i, test in enumerate(tests):
        if test.status is not Status.ACCEPTED:
            return tests[: i + 1] + [TestVerdict(Status.NOT_RUN)] * (len(tests) - i - 1)
    return tests


def _decisive(tests: list[TestVerdict]) -> TestVerdict:
    """Return the first test of the status that decides."""
    if all(test.status is Status.ACCEPTED for test in tests):
        return tests[0]
    for statuses in _PRECEDENCE:
        for test in tests:
            if test.status in statuses:
                return test
    return tests[0]


# Tests in the program's own process: calls, stdin, and test code that shares it.


def _test_verdict(
    submission: Submission, runs: Runs, index: int, check: returned.Check | None
) -> TestVerdict:
    """Return the verdict of one test from the run that it was part of."""
    tests = submission.tests
    if isinstance(tests, StdinTests) and isinstance(tests.checker, Interactor):
        return _interactive_verdict(runs, index, check)
    alone = isinstance(tests, StdinTests) or tests.process_per_test
    run = None
    for candidate in runs:
        if candidate.first_test <= index:
            run = candidate
    if run is None:
        return TestVerdict(Status.NOT_RUN)
    phase = run.phase
    position = 0 if alone else index
    if alone and run.first_test != index and phase != _launcher.PHASE_COMPILE:
        return TestVerdict(Status.NOT_RUN)
    if phase < _launcher.PHASE_FIRST_TEST:
        failure = _loading_failure(run, of_tests=isinstance(tests, CodeTests))
        return _measured(failure, _lines(run, 0), run.cpu_ns, run.wall_ns)
    finding = run.test(position)
    unfinished = finding.outcome == _launcher.OUTCOME_NONE
    if unfinished and phase < _launcher.PHASE_FIRST_TEST + position:
        return TestVerdict(Status.NOT_RUN)
    if isinstance(tests, StdinTests):
        test = (
            died(run)
            if _used_too_much(run, 0)
            else _stdin_verdict(tests, run, index, finding, check)
        )
        if tests.keep_output:
            test = replace(test, stdout=decoded(run.stdout), stderr=decoded(run.stderr))
    elif unfinished or _used_too_much(run, position):
        test = died(run)
    else:
        test = _value_verdict(submission, run, index, finding, check)
    cpu_ns, wall_ns = run.cpu_ns, run.wall_ns
    if not unfinished and not alone:
        cpu_ns, wall_ns = min(finding.cpu_ns, cpu_ns), min(finding.wall_ns, wall_ns)
    return _measured(test, _lines(run, 0) | _lines(run, 1 + position), cpu_ns, wall_ns)


def _used_too_much(run: _launcher.RunResult, position: int) -> bool:
    """Return whether a test is the last of a run that used too much memory, whatever it left."""
    last = min(run.phase - _launcher.PHASE_FIRST_TEST, run.test_count - 1)
    return run.killed_for == _launcher.KILLED_FOR_MEMORY and position == last


def _loading_failure(run: _launcher.RunResult, *, of_tests: bool = False) -> TestVerdict:
    """Return the verdict for a run that failed before its first test, where tests ran or not."""
    too_much = run.killed_for == _launcher.KILLED_FOR_MEMORY
    if too_much or run.loading.outcome != _launcher.OUTCOME_ERROR:
        return died(run)
    in_test = of_tests and recorded_by(run.loading) is not None
    return raised_in_test(run.loading, run) if in_test else raised(run.loading, run)


def _measured(
    test: TestVerdict, executed_lines: frozenset[int], cpu_ns: int, wall_ns: int
) -> TestVerdict:
    """Return a test's verdict with its evidence. Written out, since `replace` takes far longer."""
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
        test.partial,
    )


def _lines(run: _launcher.RunResult, index: int) -> frozenset[int]:
    """Return the lines that ran in test `index` - 1 of a run, or (0) while it was loaded."""
    return frozenset(run.lines(index))


def _value_verdict(
    submission: Submission,
    run: _launcher.RunResult,
    index: int,
    finding: _launcher.Finding,
    check: returned.Check | None,
) -> TestVerdict:
    """Return the verdict for what a call returned or raised."""
    tests = submission.tests
    if finding.outcome == _launcher.OUTCOME_ERROR:
        is_call = isinstance(tests, CallTests)
        return raised(finding, run) if is_call else raised_in_test(finding, run)
    if finding.outcome == _launcher.OUTCOME_NOT_PLAIN:
        what = shown(decoded(finding.payload[: 4 * SHOWN]))
        return TestVerdict(
            Status.WRONG_ANSWER, message=f"returned {what}, not plain data", got=what
        )
    if finding.outcome == _launcher.OUTCOME_TOO_LARGE:
        return TestVerdict(Status.OUTPUT_LIMIT, message="the returned value is too large")
    if not isinstance(tests, CallTests):
        return _passed_in_test(finding)
    try:
        right, text = returned.judged(tests, index, finding.payload, check)
    except ValueError:
        message = "returned a value that cannot be read, or one that is too large"
        return TestVerdict(Status.WRONG_ANSWER, message=message)
    expected = tests.outputs[index]
    return _compared(right, text, lambda: f"expected {shown_value(expected)}, got {text}")


def _stdin_verdict(
    tests: StdinTests,
    run: _launcher.RunResult,
    index: int,
    finding: _launcher.Finding,
    check: returned.Check | None,
) -> TestVerdict:
    """Return the verdict for what a program wrote to stdout."""
    if finding.outcome == _launcher.OUTCOME_ERROR:
        return raised(finding, run)
    # os._exit(0) in a program that has printed its answer is an end like any other.
    exited_well = run.wait_status == 0 and not run.killed_for
    ended_well = finding.outcome == _launcher.OUTCOME_VALUE or exited_well
    if not ended_well or run.output_exceeded or run.violation >= 0:
        return died(run)
    expected = tests.outputs[index]
    if tests.checker is None:
        right: bool | TestVerdict = run.output_matches
    elif isinstance(tests.checker, IN_SANDBOX):
        right = check is not None and check(index, decoded(run.stdout))
    else:
        assert not isinstance(tests.checker, Interactor)
        right = same_output(tests.checker, decoded(run.stdout), expected)
    got = shown(decoded(run.stdout[-4 * SHOWN :])[-SHOWN:])
    return _compared(
        right, got, lambda: f"expected stdout {shown_value(expected)}, got {shown_value(got)}"
    )


def _interactive_verdict(runs: Runs, index: int, check: returned.Check | None) -> TestVerdict:
    """Return the verdict of a test from the runs of the program and of its interactor.

    `check` says what the failure of an interactor means.
    """
    pair = [run for run in runs if run.first_test == index]
    if not pair and runs and runs[0].phase == _launcher.PHASE_COMPILE:
        pair = runs[:2]
    if len(pair) < 2:
        return TestVerdict(Status.NOT_RUN)
    program, interactor = sorted(pair, key=lambda run: run.is_tester)
    answer = testlib_answer(index, interactor)
    failure = _failure_in_talk(program)
    # It read on when the interactor had ended.
    if failure and failure.error_type == "EOFError" and answer is not True:
        failure = None
    if failure is None and check and has_failed(answer):
        answer = check(index, answer) or answer
    test = failure or (TestVerdict(Status.ACCEPTED) if answer is True else answer)
    assert isinstance(test, TestVerdict)
    lines = _lines(program, 0) | _lines(program, 1)
    return _measured(test, lines, program.cpu_ns, program.wall_ns)


def _failure_in_talk(program: _launcher.RunResult) -> TestVerdict | None:
    """Return how a program failed, but for what the end of its interactor has done to it."""
    finding = program.test(0)
    exited_well = program.wait_status == 0 and not program.killed_for
    if program.killed_for == _launcher.KILLED_CANCELLED:
        return None
    if program.phase < _launcher.PHASE_FIRST_TEST:
        return _loading_failure(program)
    if _used_too_much(program, 0):
        return died(program)
    if finding.outcome == _launcher.OUTCOME_ERROR:
        test = raised(finding, program)
    elif finding.outcome == _launcher.OUTCOME_VALUE or exited_well:
        return None
    else:
        test = died(program)
    return None if test.error_type in _OTHER_END_CLOSED else test


def _compared(right: bool | TestVerdict, got: str, message: Callable[[], str]) -> TestVerdict:
    """Return the verdict of a comparison; `message` tells how the answer is wrong."""
    if isinstance(right, TestVerdict):
        return replace(right, got=got)
    if right:
        return TestVerdict(Status.ACCEPTED, got=got)
    return TestVerdict(Status.WRONG_ANSWER, message=message(), got=got)


# Test code in a tester's process, which runs the program in another one.


def _pair_verdict(submission: Submission, runs: Runs, index: int) -> TestVerdict:
    """Return the verdict of one test from the runs of the program and of its tester."""
    if isinstance(submission.tests, CodeTests) and submission.tests.process_per_test:
        runs = [run for run in runs if run.first_test == index] or runs[-2:]
        compiled = all(run.phase != _launcher.PHASE_COMPILE for run in runs)
        if runs[0].first_test != index and compiled:
            return TestVerdict(Status.NOT_RUN)
        index = 0
    program = next(run for run in runs if not run.is_tester)
    tester = next(run for run in runs if run.is_tester)
    if tester.phase == _launcher.PHASE_COMPILE:
        reason = _loading_failure(tester)
        message = f"the test code does not compile: {reason.message}"
        return TestVerdict(Status.INFRASTRUCTURE_ERROR, message=message)
    finding = tester.test(index)
    here = _launcher.PHASE_FIRST_TEST + index
    cancelled = program.killed_for == _launcher.KILLED_CANCELLED
    if tester.loading.outcome == _launcher.OUTCOME_ERROR:  # the program has been loaded
        test = raised_in_test(tester.loading, tester)
    elif program.phase < _launcher.PHASE_FIRST_TEST and not cancelled:
        test = _loading_failure(program)
    elif _used_too_much(program, index):
        test = died(program)
    elif finding.outcome == _launcher.OUTCOME_ERROR:
        test = raised_in_test(finding, tester)
    elif finding.outcome == _launcher.OUTCOME_VALUE:
        test = _passed_in_test(finding)
    elif program.phase == here and not cancelled:
        test = died(program)
    elif tester.phase == here or tester.phase < _launcher.PHASE_FIRST_TEST:
        test = died(tester)
    else:
        return TestVerdict(Status.NOT_RUN)
    lines = _lines(program, 0) | _lines(program, 1 + index)
    cpu_s = program.cpu_ns / 1e9 if finding.outcome == _launcher.OUTCOME_NONE else 0.0
    return replace(test, executed_lines=lines, cpu_s=cpu_s, wall_s=finding.wall_ns / 1e9)


def _passed_in_test(finding: _launcher.Finding) -> TestVerdict:
    """Return a pass, with the message of the test's process if there is one ("skipped: ...")."""
    try:
        said = _launcher.decode(finding.payload, None, 1 << 20)
    except ValueError:
        said = None
    return TestVerdict(Status.ACCEPTED, message=one_line(said) if isinstance(said, str) else "")
