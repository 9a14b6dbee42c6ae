"""Checkers that are code of their own: the second job that asks them, and what their answers mean.

Takes a submission whose program has ended, with what its runs left; gives a submission of the
checker's source on the values that the program gave, and from its runs the verdict. A value
crosses as plain data, and the program is gone when the checker starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.checkers import Custom, Regex
from stepcoder.sandbox.program import CallTests, Limits, Program, StdinTests, Submission
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict
from stepcoder.sandbox.verdicts import verdict_of

# Of each test; the program's own limits say nothing about the work of checking it.
CHECKER_LIMITS = Limits(cpu_s=5.0, wall_s=20.0, memory_bytes=1 << 30)

# `re` cannot be interrupted, and an expression can take for ever on what a program chose to print.
_REGEX = """
import re
def check(input, expected, got):
    return isinstance(got, str) and re.fullmatch(expected, got) is not None
"""


def asks_checker(tests: object) -> bool:
    """Return whether tests have a checker that runs in the sandbox."""
    return isinstance(getattr(tests, "checker", None), (Regex, Custom))


@dataclass(frozen=True, slots=True)
class Asked:
    """A submission that waits for its checker: `question` runs it on the values of `tests`."""

    submission: Submission
    runs: list[_launcher.RunResult]
    tests: tuple[int, ...]
    question: Submission

    def verdict(self, runs: list[_launcher.RunResult]) -> Verdict:
        """Return the submission's verdict, given what the checker's own runs left."""
        # A False is an answer: those that follow it count too.
        answers = verdict_of(replace(self.question, stop_at_first_failure=False), runs)
        of_test = dict(zip(self.tests, answers.tests, strict=False))

        def check(index: int, _got: Any) -> bool | TestVerdict:
            return _meaning(index, of_test.get(index), answers.message)

        return verdict_of(self.submission, self.runs, check)


def asked(submission: Submission, runs: list[_launcher.RunResult]) -> Asked | None:
    """Return what to ask the checker; None where the program gave it no value to see."""
    tests = submission.tests
    assert isinstance(tests, (CallTests, StdinTests))
    values: dict[int, Any] = {}

    def note(index: int, got: Any) -> bool:
        values[index] = got
        return False

    verdict_of(submission, runs, note)
    if not values:
        return None
    source = tests.checker.source if isinstance(tests.checker, Custom) else _REGEX
    if isinstance(tests, StdinTests) and isinstance(tests.checker, Regex):
        values = {i: text.rstrip() for i, text in values.items()}
    arguments = tuple([tests.inputs[i], tests.outputs[i], got] for i, got in values.items())
    question = Submission(
        Program(source, "check"),
        CallTests(arguments, (True,) * len(arguments)),
        CHECKER_LIMITS,
        stop_at_first_failure=True,  # of its process: one failure decides about the submission
    )
    return Asked(submission, runs, tuple(values), question)


def _meaning(index: int, answer: TestVerdict | None, message: str) -> bool | TestVerdict:
    """Return the answer of a checker, or the judge's failing where it gave none."""
    if answer is not None and answer.got in ("True", "False"):
        return answer.got == "True"
    if answer is not None and answer.got is not None:
        message = f"it returned {answer.got}, not True or False"
    elif answer is not None:
        message = answer.message or "it ended on an earlier test"
    return TestVerdict(
        Status.INFRASTRUCTURE_ERROR,
        message=f"the checker failed on test {index + 1}: {message}"[:300],
    )
