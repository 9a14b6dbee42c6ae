"""Verifying a problem: its solution against its tests, repairs where it fails, and other seeds.

Takes a Candidate, gives a Verified or why it was dropped. Every program runs in the sandbox.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepcoder.clean.comparison import Comparison, checker_of, comparison_of
from stepcoder.clean.judges import Judges
from stepcoder.clean.reasons import Dropped, Reason, Repair
from stepcoder.clean.records import Candidate
from stepcoder.problems.fields import ProblemRecord
from stepcoder.problems.problem import Problem, program_of
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.tolerance import TOLERANCE, tolerance_checker
from stepcoder.sandbox import (
    CallTests,
    Limits,
    Status,
    StdinTests,
    Submission,
    TestVerdict,
    Verdict,
)
from stepcoder.sandbox.checker_runs import needs_checker_run
from stepcoder.sandbox.program import Tests, test_code

ALTERNATIVES = 8  # other solutions that are tried where the first fails
NO_VALUE = object()  # of a test that gave none, or one that is no plain data
_REASONS = {
    Status.WRONG_ANSWER: Reason.FAILS_TESTS,
    Status.RUNTIME_ERROR: Reason.RUNTIME_ERROR,
    Status.CPU_TIME_LIMIT: Reason.TIMES_OUT,
    Status.WALL_TIME_LIMIT: Reason.TIMES_OUT,
    Status.MEMORY_LIMIT: Reason.OVER_LIMITS,
    Status.OUTPUT_LIMIT: Reason.OVER_LIMITS,
    Status.COMPILE_ERROR: Reason.DOES_NOT_PARSE,
    Status.SECURITY_VIOLATION: Reason.FORBIDDEN,
    Status.INFRASTRUCTURE_ERROR: Reason.MALFORMED,
    Status.NOT_RUN: Reason.RUNTIME_ERROR,
}
_UNKNOWN_NAME = re.compile(r"name '\w+' is not defined")


@dataclass(frozen=True, slots=True)
class Verified:
    """A candidate whose solution passes all its tests, the same in every run."""

    candidate: Candidate
    executed_lines: frozenset[int]
    comparison: Comparison

    @property
    def number(self) -> int:
        """Its place in the input."""
        return self.candidate.number

    @property
    def task_id(self) -> str:
        """The problem's name."""
        return self.candidate.task_id

    @property
    def problem(self) -> Problem:
        """The problem as it was repaired."""
        return self.candidate.problem


def verify(candidate: Candidate, judges: Judges) -> Verified | Dropped:
    """Run the solution, repair what fails, and run it again under other seeds.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    comparison = comparison_of(candidate.problem)
    if comparison is Comparison.ANY and not needs_checker_run(candidate.problem.tests):
        detail = "the statement accepts several answers, the tests hold one"
        return candidate.dropped(Reason.AMBIGUOUS, detail)
    if checker := checker_of(comparison, candidate.problem):
        tests = {**candidate.record["tests"], "checker": checker}
        candidate = replace(candidate, record={**candidate.record, "tests": tests})
    verdict = judges.run(submission_of(candidate.problem))
    if not verdict.passed:
        repaired = _first_repair(candidate, verdict, judges)
        if repaired is None:
            return _dropped(candidate, verdict, judges)
        candidate, verdict = repaired
        if Repair.FLOATS in candidate.repairs:
            comparison = Comparison.FLOAT
    if detail := _other_answers(candidate.problem, judges):
        return candidate.dropped(Reason.NON_DETERMINISTIC, detail)
    return Verified(candidate, verdict.executed_lines, comparison)


def submission_of(
    problem: Problem, tests: Tests | None = None, limits: Limits | None = None
) -> Submission:
    """Return the solution with its problem's tests, or with others."""
    program = program_of(problem, problem.canonical_solution)
    return Submission(program, problem.tests if tests is None else tests, limits)


def _first_repair(
    candidate: Candidate, verdict: Verdict, judges: Judges
) -> tuple[Candidate, Verdict] | None:
    """Return the first repair whose solution passes, with its verdict."""
    for repair, changes in _repairs(candidate, verdict):
        try:
            repaired = candidate.repaired(repair, **changes)
        except BrokenRecordError:
            continue
        again = judges.run(submission_of(repaired.problem))
        if again.passed:
            return repaired, again
    return None


def _repairs(candidate: Candidate, verdict: Verdict) -> Iterator[tuple[Repair, ProblemRecord]]:
    """Yield what may mend a problem, as changes of its record: of the tests, then the solution."""
    problem = candidate.problem
    mended: Iterable[tuple[Repair, ProblemRecord]] = ()
    if isinstance(problem.tests, CallTests):
        mended = _call_repairs(problem.tests, list(map(value_of, verdict.tests)))
    elif isinstance(problem.tests, StdinTests) and problem.tests.checker is None:
        mended = [(Repair.FLOATS, {"checker": tolerance_checker(TOLERANCE)})]
    for repair, changes in mended:
        yield repair, {"tests": {**candidate.record["tests"], **changes}}
    others = [s for s in dict.fromkeys(candidate.alternatives) if s != problem.canonical_solution]
    for solution in others[:ALTERNATIVES]:
        yield Repair.SOLUTION, {"canonical_solution": solution}


def _call_repairs(tests: CallTests, returned: list[Any]) -> Iterator[tuple[Repair, ProblemRecord]]:
    """Yield tests without quotes in their texts, or with outputs wrapped as the solution's are."""
    inputs, outputs = list(tests.inputs), list(tests.outputs)
    unquoted = {"inputs": _unquoted(inputs), "outputs": _unquoted(outputs)}
    changed = unquoted != {"inputs": inputs, "outputs": outputs}
    if changed and any(quote in repr(inputs) for quote in "\"'"):
        yield Repair.QUOTES, unquoted
    if NO_VALUE in returned:
        return
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        yield Repair.WRAPPING, {"outputs": [output[0] for output in outputs]}
    if all(isinstance(value, (list, tuple)) and len(value) == 1 for value in returned):
        yield Repair.WRAPPING, {"outputs": [[output] for output in outputs]}


def _unquoted(value: Any) -> Any:
    """Return data whose texts are the texts that they are the source of: '"ab"' becomes 'ab'."""
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
        return literal if isinstance(literal, str) else value
    return value


def _dropped(candidate: Candidate, verdict: Verdict, judges: Judges) -> Dropped:
    """Return why a candidate that no repair mends is dropped."""
    reason, submission = _REASONS[verdict.status], submission_of(candidate.problem)
    if verdict.status in (Status.WRONG_ANSWER, Status.RUNTIME_ERROR) and any(
        judges.run(submission, run).passed
        for run in judges.other_runs(candidate.problem.canonical_solution)
    ):
        reason = Reason.NON_DETERMINISTIC
    if verdict.error_type == "NameError" and _UNKNOWN_NAME.search(verdict.message):
        reason = Reason.MISSING_IMPORT
    place = next((i for i, t in enumerate(verdict.tests) if t.status is verdict.status), 0)
    detail = f"test {place + 1} of {len(verdict.tests)}: {verdict.message}"
    if verdict.error_line:
        detail += f" (line {verdict.error_line})"
    return candidate.dropped(reason, detail)


def _other_answers(problem: Problem, judges: Judges) -> str:
    """Return how the solution answers otherwise under another seed; "" if it does not."""
    for run in judges.other_runs(problem.canonical_solution, *test_code(problem.tests)):
        verdict = judges.run(submission_of(problem), run)
        if not verdict.passed:
            return f"with hash and random seed {run}: {verdict.message}"
    return ""


def ended(test: TestVerdict) -> bool:
    """Return whether the program gave an answer, right or wrong."""
    return test.status in (Status.ACCEPTED, Status.WRONG_ANSWER)


def value_of(test: TestVerdict) -> Any:
    """Return what a call returned; NO_VALUE where that is not known, or no plain data.

    A verdict shows the first 300 characters of a value: longer ones are not known.
    """
    if not ended(test) or test.got is None or test.message.endswith("not plain data"):
        return NO_VALUE
    try:
        return ast.literal_eval(test.got)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return NO_VALUE
