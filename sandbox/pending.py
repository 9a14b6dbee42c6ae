"""The jobs that lead from a submission to its verdict: one, or more where it does not decide.

| tests | first job | second job |
|---|---|---|
| asserts that compile to calls | the calls | the asserts, if a call returned no plain data |
| with a checker in the sandbox | the tests | the checker on the returned values, and where it
failed, in a third job, on the expected ones |
| asserts and unittests that run in the program's process | the tests | the tests in a process of
their own, if the program or the tests ask for it |
| all others | the tests | - |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.assert_calls import compile_asserts
from stepcoder.sandbox.checker_runs import (
    CHECKER_LIMITS,
    CheckerRun,
    needs_checker_run,
    start_checker,
)
from stepcoder.sandbox.grading import Runs, grade, has_no_value, needs_a_tester
from stepcoder.sandbox.program import CodeTests, Limits, Submission
from stepcoder.sandbox.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Pending:
    """A job in flight: what it runs, and `finish`, which turns its runs into a verdict or a job.

    `job` is there where it is not the submission's own tests (`native`, `testlib`).
    """

    submission: Submission
    limits: Limits
    finish: Callable[[Runs], Any]
    job: _launcher.Job | None = None
    apart: bool = False  # tests that are code have a process of their own


def first_job(submission: Submission, limits: Limits) -> Pending:
    """Return the first job for a submission."""
    compiled = compile_asserts(submission)
    if compiled is None:
        return _with_its_tests(submission, limits)

    def finish(runs: Runs) -> Verdict | Pending:
        if has_no_value(runs):
            return _with_its_tests(submission, limits)
        return grade(compiled, runs)

    return Pending(compiled, limits, finish)


def _with_its_tests(submission: Submission, limits: Limits, *, apart: bool = False) -> Pending:
    def finish(runs: Runs) -> Verdict | Pending:
        shares = isinstance(submission.tests, CodeTests) and not apart
        if shares and needs_a_tester(runs):
            return _with_its_tests(submission, limits, apart=True)
        if needs_checker_run(submission.tests) and (run := start_checker(submission, runs)):
            return _with_its_checker(run)
        return grade(submission, runs)

    return Pending(submission, limits, finish, apart=apart)


def _with_its_checker(run: CheckerRun) -> Pending:
    def finish(runs: Runs) -> Verdict | Pending:
        outcome = run.grade(runs)
        return outcome if isinstance(outcome, Verdict) else _with_its_checker(outcome)

    return Pending(run.checker, CHECKER_LIMITS, finish, run.job)
