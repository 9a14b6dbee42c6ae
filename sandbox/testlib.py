"""Checkers in C++ with testlib's convention (Codeforces, open-r1): their job, and what it means.

Takes a submission whose program has ended, and what it wrote. The checker is compiled and run as
programs are, each time on three files: the input, the output, and the answer of the jury.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.checkers import Testlib
from stepcoder.sandbox.failures import died
from stepcoder.sandbox.grading import Runs, grade
from stepcoder.sandbox.jobs import build_job, request_on_files
from stepcoder.sandbox.messages import decoded, one_line
from stepcoder.sandbox.program import Limits, Program, StdinTests, Submission
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

FILES = ("input.txt", "output.txt", "answer.txt")
RIGHT, WRONG = 0, (1, 2, 7)  # exit statuses; 2 is a wrong format, 7 a share of the points


@dataclass(frozen=True, slots=True)
class TestlibRun:
    """A judged submission that waits for its checker (`checker_runs.CheckerRun`)."""

    __test__ = False  # not a pytest class

    judged: Submission
    runs: Runs
    indices: tuple[int, ...]
    checker: Submission
    job: _launcher.Job

    def grade(self, checker_runs: Runs) -> Verdict:
        """Return the verdict of the judged submission, given the runs of the checker."""
        of_test = {self.indices[run.first_test]: run for run in checker_runs}
        return grade(self.judged, self.runs, lambda index, _: _meaning(index, of_test.get(index)))


def start_testlib(
    submission: Submission, runs: Runs, outputs: dict[int, str], limits: Limits
) -> TestlibRun:
    """Return the run of a submission's checker on what its program wrote in the tests."""
    tests = submission.tests
    assert isinstance(tests, StdinTests)
    assert isinstance(tests.checker, Testlib)
    program = Program(tests.checker.source, language="cpp20", headers=tests.checker.headers)
    nothing = ("",) * len(outputs)
    checker = Submission(program, StdinTests(nothing, nothing))
    job = build_job(checker, limits, numpy_installed=False)
    contents = [(tests.inputs[i], output, tests.outputs[i]) for i, output in outputs.items()]
    request_on_files(job, ["checker", *FILES], [dict(zip(FILES, c, strict=True)) for c in contents])
    return TestlibRun(submission, runs, tuple(outputs), checker, job)


def _meaning(index: int, run: _launcher.RunResult | None) -> bool | TestVerdict:
    """Return the answer of a checker's run; if it gave none, that is the judge's failure."""
    said = one_line(decoded(run.stderr)) if run else ""
    ended = run is not None and os.WIFEXITED(run.wait_status) and not run.killed_for
    if run is not None and ended and run.violation < 0 and not run.infrastructure_error:
        status = os.WEXITSTATUS(run.wait_status)
        if status == RIGHT:
            return True
        if status in WRONG:
            return TestVerdict(Status.WRONG_ANSWER, said or f"the checker's answer is {status}")
    why = "it was not run"
    if run is not None:
        why = said or (decoded(run.infrastructure_message) or died(run).message)
    message = one_line(f"the checker failed on test {index + 1}: {why}")
    return TestVerdict(Status.INFRASTRUCTURE_ERROR, message)
