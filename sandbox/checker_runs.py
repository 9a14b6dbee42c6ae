"""Checkers that are code of their own: the second job that runs them, and what it returns.

Takes a submission whose program has ended, and what its runs left. Gives a submission of the
checker's source on the values that the program returned, and from its runs the verdict. Values
cross as plain data, encoded as they came, and the program is gone when the checker starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.checkers import IN_SANDBOX, Custom, Interactor, Regex, Testlib
from stepcoder.sandbox.failures import has_failed, testlib_answer
from stepcoder.sandbox.grading import Runs, grade
from stepcoder.sandbox.jobs import MAX_REQUEST_BYTES, without_end
from stepcoder.sandbox.points import partial_credit
from stepcoder.sandbox.program import (
    CallTests,
    EncodedCalls,
    Limits,
    Program,
    StdinTests,
    Submission,
)
from stepcoder.sandbox.testlib import testlib_job
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

# For each test. The program's own limits do not apply to the work of checking it.
CHECKER_LIMITS = Limits(cpu_s=5.0, wall_s=20.0, memory_bytes=1 << 30)

# `re` cannot be interrupted, and some expressions take for ever on text that a program can choose.
_REGEX = """
import re
def check(input, expected, got):
    return isinstance(got, str) and re.fullmatch(expected, got) is not None
"""


def needs_checker_run(tests: object) -> bool:
    """Return whether tests have a checker that may have to run once the program has ended."""
    return isinstance(getattr(tests, "checker", None), (*IN_SANDBOX, Interactor))


@dataclass(frozen=True, slots=True)
class CheckerRun:
    """A judged submission that waits for its checker.

    `checker` is a submission of its own: it runs the checker on the values of the tests `indices`.
    `job` is there for checkers and interactors in C++, whose exit status is the answer.
    """

    judged: Submission
    runs: Runs
    indices: tuple[int, ...]
    checker: Submission
    job: _launcher.Job | None = None
    # What the checker said of the program's values, by test, once it is asked about expected ones.
    meanings: Mapping[int, bool | TestVerdict] = field(default_factory=dict)

    def grade(self, checker_runs: Runs) -> Verdict | CheckerRun:
        """Return the verdict of the judged submission, given the runs of the checker.

        Where the checker failed on a value, return its run on the expected one: if it works there,
        the value is wrong. A program must not get out of its verdict by an answer that no checker
        can read.
        """
        found = self._answers(checker_runs)
        failed = {index for index, meaning in found.items() if has_failed(meaning)}
        if failed and not self.meanings:
            return self._on_expected(sorted(failed), found)
        if self.meanings:  # what was found is of expected values
            talks = isinstance(getattr(self.judged.tests, "checker", None), Interactor)
            where = "where nobody talks to it" if talks else "on the expected answer"
            wrong = {i: _unreadable(self.meanings[i], where) for i in found.keys() - failed}
            found = {**self.meanings, **wrong}
        return grade(self.judged, self.runs, lambda index, _: found[index])

    def _answers(self, checker_runs: Runs) -> dict[int, bool | TestVerdict]:
        """Return what the checker said of each test."""
        if self.job:
            runs = {self.indices[run.first_test]: run for run in checker_runs}
            return {i: testlib_answer(i, runs.get(i)) for i in self.indices}
        # A False is an answer, and the answers after it count too.
        answers = grade(replace(self.checker, stop_at_first_failure=False), checker_runs)
        of_test = dict(zip(self.indices, answers.tests, strict=False))
        return {i: _meaning(i, of_test.get(i), answers.message) for i in self.indices}

    def _on_expected(
        self, indices: list[int], meanings: Mapping[int, bool | TestVerdict]
    ) -> CheckerRun:
        """Return the run of the checker on the expected values of some tests."""
        tests = self.judged.tests
        assert isinstance(tests, (CallTests, StdinTests))
        if self.job:
            outputs = {index: tests.outputs[index] for index in indices}
            checker, job = testlib_job(self.judged, outputs, CHECKER_LIMITS)
            return CheckerRun(self.judged, self.runs, tuple(indices), checker, job, meanings)
        arguments: tuple[Any, ...] = tuple(
            _launcher.encode(
                [tests.inputs[i], tests.outputs[i], tests.outputs[i]], MAX_REQUEST_BYTES
            )
            for i in indices
        )
        calls = EncodedCalls(arguments, (True,) * len(arguments))
        checker = replace(self.checker, tests=calls)
        return replace(self, indices=tuple(indices), checker=checker, meanings=meanings)


def start_checker(submission: Submission, runs: Runs) -> CheckerRun | None:
    """Return the checker's run; None if the program has left no value to check.

    An interactor that has failed runs once more, and nobody talks to it: if it ends as it should,
    what the program has said to it (or not read of it) is why it failed.
    """
    tests = submission.tests
    assert isinstance(tests, (CallTests, StdinTests))
    values: dict[int, Any] = {}
    native = isinstance(tests.checker, (Testlib, Interactor))
    texts = isinstance(tests, StdinTests)

    def note(index: int, got: Any) -> bool:
        if texts and not native:
            text = got.rstrip() if isinstance(tests.checker, Regex) else got
            got = _launcher.encode(text, MAX_REQUEST_BYTES)
        values[index] = got
        return False

    grade(submission, runs, note)
    if not values:
        return None
    if native:
        failed = values if isinstance(tests.checker, Interactor) else {}
        outputs = dict.fromkeys(values, "") if failed else values
        checker, job = testlib_job(submission, outputs, CHECKER_LIMITS)
        return CheckerRun(submission, runs, tuple(values), checker, job, failed)
    source = tests.checker.source if isinstance(tests.checker, Custom) else _REGEX
    # What was returned takes the place of a None at the end: a value is not made to be passed on.
    arguments: tuple[Any, ...] = tuple(
        without_end(_launcher.encode([tests.inputs[i], tests.outputs[i], None], MAX_REQUEST_BYTES))
        + got
        for i, got in values.items()
    )
    checker = Submission(
        Program(source, "check"),
        EncodedCalls(arguments, (True,) * len(arguments)),
        CHECKER_LIMITS,
        stop_at_first_failure=True,  # if its process dies: one failed check decides the verdict
    )
    return CheckerRun(submission, runs, tuple(values), checker)


def _unreadable(failure: bool | TestVerdict, where: str) -> TestVerdict:
    """Return the verdict for a value on which alone the checker failed."""
    assert isinstance(failure, TestVerdict)
    return TestVerdict(Status.WRONG_ANSWER, f"{failure.message}, and does not fail {where}")


def _meaning(index: int, answer: TestVerdict | None, message: str) -> bool | TestVerdict:
    """Return a checker's answer, or an infrastructure error if it gave none."""
    if answer is not None and answer.got in ("True", "1.0", "False", "0.0"):
        return answer.got in ("True", "1.0")
    if answer is not None and (partial := partial_credit(answer.got)):
        text = f"partly right: {partial:g} of 1"
        return TestVerdict(Status.WRONG_ANSWER, message=text, partial=partial)
    if answer is not None and answer.got is not None:
        message = f"it returned {answer.got}, not True or False or a float between 0.0 and 1.0"
    elif answer is not None:
        message = answer.message or "it ended on an earlier test"
    return TestVerdict(
        Status.INFRASTRUCTURE_ERROR,
        message=f"the checker failed on test {index + 1}: {message}"[:300],
    )
