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
from stepcoder.sandbox.checkers import IN_SANDBOX, Custom, Regex, Testlib
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
from stepcoder.sandbox.testlib import TestlibRun, start_testlib
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
    """Return whether tests have a checker that runs in the sandbox."""
    return isinstance(getattr(tests, "checker", None), IN_SANDBOX)


@dataclass(frozen=True, slots=True)
class CheckerRun:
    """A judged submission that waits for its checker.

    `checker` is a submission of its own: it runs the checker on the values of the tests `indices`.
    """

    judged: Submission
    runs: Runs
    indices: tuple[int, ...]
    checker: Submission
    job: None = None  # the checker's own tests
    # What the checker said of the program's values, by test, once it is asked about expected ones.
    meanings: Mapping[int, bool | TestVerdict] = field(default_factory=dict)

    def grade(self, checker_runs: Runs) -> Verdict | CheckerRun:
        """Return the verdict of the judged submission, given the runs of the checker.

        Where the checker failed on a value, return its run on the expected one: if it works there,
        the value is wrong. A program must not get out of its verdict by an answer that no checker
        can read.
        """
        # A False is an answer, and the answers after it count too.
        answers = grade(replace(self.checker, stop_at_first_failure=False), checker_runs)
        of_test = dict(zip(self.indices, answers.tests, strict=False))
        found = {i: _meaning(i, of_test.get(i), answers.message) for i in self.indices}
        failed = {index for index, meaning in found.items() if _has_failed(meaning)}
        if failed and not self.meanings:
            return self._on_expected(sorted(failed), found)
        if self.meanings:  # what was found is of expected values
            wrong = {index: _unreadable(self.meanings[index]) for index in found.keys() - failed}
            found = {**self.meanings, **wrong}
        return grade(self.judged, self.runs, lambda index, _: found[index])

    def _on_expected(
        self, indices: list[int], meanings: Mapping[int, bool | TestVerdict]
    ) -> CheckerRun:
        """Return the run of the checker on the expected values of some tests."""
        tests = self.judged.tests
        assert isinstance(tests, (CallTests, StdinTests))
        arguments: tuple[Any, ...] = tuple(
            _launcher.encode(
                [tests.inputs[i], tests.outputs[i], tests.outputs[i]], MAX_REQUEST_BYTES
            )
            for i in indices
        )
        calls = EncodedCalls(arguments, (True,) * len(arguments))
        checker = replace(self.checker, tests=calls)
        return replace(self, indices=tuple(indices), checker=checker, meanings=meanings)


def start_checker(submission: Submission, runs: Runs) -> CheckerRun | TestlibRun | None:
    """Return the checker's run; None if the program has left no value to check."""
    tests = submission.tests
    assert isinstance(tests, (CallTests, StdinTests))
    values: dict[int, Any] = {}
    texts = isinstance(tests, StdinTests)

    def note(index: int, got: Any) -> bool:
        if texts and not isinstance(tests.checker, Testlib):
            text = got.rstrip() if isinstance(tests.checker, Regex) else got
            got = _launcher.encode(text, MAX_REQUEST_BYTES)
        values[index] = got
        return False

    grade(submission, runs, note)
    if not values:
        return None
    if isinstance(tests.checker, Testlib):
        return start_testlib(submission, runs, values, CHECKER_LIMITS)
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


def _has_failed(meaning: bool | TestVerdict) -> bool:
    return isinstance(meaning, TestVerdict) and meaning.status is Status.INFRASTRUCTURE_ERROR


def _unreadable(failure: bool | TestVerdict) -> TestVerdict:
    """Return the verdict for a value on which alone the checker failed."""
    assert isinstance(failure, TestVerdict)
    text = f"{failure.message}, and does not fail on the expected answer"
    return TestVerdict(Status.WRONG_ANSWER, message=text)


def _meaning(index: int, answer: TestVerdict | None, message: str) -> bool | TestVerdict:
    """Return a checker's answer, or an infrastructure error if it gave none."""
    if answer is not None and answer.got in ("True", "False"):
        return answer.got == "True"
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
