"""Checkers in C++ with testlib's convention (Codeforces, open-r1): their job, and what it means.

Takes a submission whose program has ended, and what it wrote. The checker is compiled and run as
programs are, each time on three files: the input, the output, and the answer of the jury.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.checkers import Interactor, Testlib
from stepcoder.sandbox.failures import testlib_answer
from stepcoder.sandbox.grading import Runs, grade
from stepcoder.sandbox.jobs import TESTLIB_FILES, build_job, request_on_files
from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.program import Limits, Program, StdinTests, Submission
from stepcoder.sandbox.verdict import Verdict


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
        return grade(
            self.judged, self.runs, lambda index, _: testlib_answer(index, of_test.get(index))
        )


def checker_program(checker: Testlib | Interactor) -> Program:
    """Return the program that a checker is."""
    return Program(checker.source, language="cpp", headers=checker.headers)


def start_testlib(
    submission: Submission, runs: Runs, outputs: dict[int, str], limits: Limits
) -> TestlibRun:
    """Return the run of a submission's checker on what its program wrote in the tests."""
    tests = submission.tests
    assert isinstance(tests, StdinTests)
    assert isinstance(tests.checker, Testlib)
    program = checker_program(tests.checker)
    nothing = ("",) * len(outputs)
    checker = Submission(program, StdinTests(nothing, nothing))
    job = build_job(checker, limits, Libraries(()))
    texts = [(tests.inputs[i], output, tests.outputs[i]) for i, output in outputs.items()]
    contents = [dict(zip(TESTLIB_FILES, of_test, strict=True)) for of_test in texts]
    job.request = request_on_files(job, ["checker", *TESTLIB_FILES], contents)
    return TestlibRun(submission, runs, tuple(outputs), checker, job)
