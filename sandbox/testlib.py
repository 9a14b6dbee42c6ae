"""Checkers in C++ with testlib's convention (Codeforces, open-r1): the job that runs one.

Takes a submission and outputs of its tests. The checker is compiled and run as programs are, each
time on three files: the input, the output, and the answer of the jury.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.checkers import Interactor, Testlib
from stepcoder.sandbox.jobs import TESTLIB_FILES, build_job, request_on_files
from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.program import Limits, Program, StdinTests, Submission


def checker_program(checker: Testlib | Interactor) -> Program:
    """Return the program that a checker is."""
    return Program(checker.source, language="cpp", headers=checker.headers)


def testlib_job(
    submission: Submission, outputs: Mapping[int, str], limits: Limits
) -> tuple[Submission, _launcher.Job]:
    """Return the run of a submission's checker on outputs of its tests. Nobody talks to it."""
    tests = submission.tests
    assert isinstance(tests, StdinTests)
    assert isinstance(tests.checker, (Testlib, Interactor))
    nothing = ("",) * len(outputs)
    checker = Submission(checker_program(tests.checker), StdinTests(nothing, nothing))
    job = build_job(checker, limits, Libraries(()))
    texts = [(tests.inputs[i], output, tests.outputs[i]) for i, output in outputs.items()]
    contents = [dict(zip(TESTLIB_FILES, of_test, strict=True)) for of_test in texts]
    job.request = request_on_files(job, ["checker", *TESTLIB_FILES], contents)
    return checker, job
