"""Verifying a problem: its solution against its tests, repairs where it fails, and other seeds.

Takes a Candidate, gives a Verified or why it was dropped. Every program runs in the sandbox.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from stepcoder.clean.answers import Checker, checker_of, same_in_any_order, same_tokens
from stepcoder.clean.judges import Judges
from stepcoder.clean.reasons import Dropped, Reason, Repair
from stepcoder.clean.records import ALTERNATIVES, Candidate
from stepcoder.clean.vary import may_vary
from stepcoder.problems.problem import Problem, program_of
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.sandbox import (
    CallTests,
    Program,
    Status,
    StdinTests,
    Submission,
    Verdict,
)
from stepcoder.sandbox.program import CodeTests, test_code

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
    checker: Checker

    @property
    def number(self) -> int:
        """Its place in the input."""
        return self.candidate.number


def verify(candidate: Candidate, judges: Judges) -> Verified | Dropped:
    """Run the solution, repair what fails, and run it again under other seeds.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    checker = checker_of(candidate.problem)
    if checker is Checker.ANY:
        detail = "the statement accepts several answers, the tests hold one"
        return Dropped(candidate.number, candidate.task_id, Reason.AMBIGUOUS, detail)
    verdict = judges.run(submission_of(candidate.problem))
    if not verdict.passed:
        found = _repaired(candidate, verdict, checker, judges)
        if found is None:
            return _dropped(candidate, verdict, judges)
        candidate, verdict = found
        checker = Checker.UNORDERED if Repair.ORDER in candidate.repairs else checker
        checker = Checker.FLOAT if Repair.FLOATS in candidate.repairs else checker
    if detail := _differs(candidate.problem, checker, judges):
        return Dropped(candidate.number, candidate.task_id, Reason.NON_DETERMINISTIC, detail)
    return Verified(candidate, verdict.executed_lines, checker)


def submission_of(problem: Problem, source: str | None = None) -> Submission:
    """Return a program (the solution) with its problem's tests."""
    program = program_of(problem, problem.canonical_solution if source is None else source)
    return Submission(program, problem.tests)


def _dropped(candidate: Candidate, verdict: Verdict, judges: Judges) -> Dropped:
    reason = _REASONS[verdict.status]
    erred = verdict.status in (Status.WRONG_ANSWER, Status.RUNTIME_ERROR)
    if erred and _passes_elsewhere(candidate, judges):
        reason = Reason.NON_DETERMINISTIC
    if verdict.error_type == "NameError" and _UNKNOWN_NAME.search(verdict.message):
        reason = Reason.MISSING_IMPORT
    place = next((i for i, t in enumerate(verdict.tests) if t.status is verdict.status), 0)
    detail = f"test {place + 1} of {len(verdict.tests)}: {verdict.message}"
    if verdict.error_line:
        detail += f" (line {verdict.error_line})"
    return Dropped(candidate.number, candidate.task_id, reason, detail)


def _passes_elsewhere(candidate: Candidate, judges: Judges) -> bool:
    """Return whether a solution that failed passes under another seed."""
    submission = submission_of(candidate.problem)
    if not may_vary(candidate.problem.canonical_solution):
        return False
    return any(judges.run(submission, run).passed for run in range(1, judges.runs))


def _repaired(
    candidate: Candidate, verdict: Verdict, checker: Checker, judges: Judges
) -> tuple[Candidate, Verdict] | None:
    """Return the first repair whose solution passes, with its verdict."""
    attempts = [*_attempts(candidate, verdict, checker, judges)]
    solution = candidate.problem.canonical_solution
    others = [text for text in dict.fromkeys(candidate.alternatives) if text != solution]
    attempts += [
        partial(candidate.repaired, Repair.SOLUTION, canonical_solution=text)
        for text in others[:ALTERNATIVES]
    ]
    for attempt in attempts:
        try:
            changed = attempt()
        except BrokenRecordError:
            continue
        again = judges.run(submission_of(changed.problem))
        if again.passed:
            return changed, again
    return None


def _attempts(
    candidate: Candidate, verdict: Verdict, checker: Checker, judges: Judges
) -> Iterator[Callable[[], Candidate]]:
    """Yield what may mend the tests, given how the solution failed them."""
    tests, record = candidate.problem.tests, candidate.record

    def with_tests(repair: Repair, **changes: Any) -> Callable[[], Candidate]:
        return partial(candidate.repaired, repair, tests={**record["tests"], **changes})

    if isinstance(tests, StdinTests):
        if any(test.status not in (Status.ACCEPTED, Status.WRONG_ANSWER) for test in verdict.tests):
            return
        got = stdout_of(candidate.problem, candidate.problem.canonical_solution, judges)
        pairs = list(zip(got, tests.outputs, strict=True))
        if all(same_tokens(text, expected) for text, expected in pairs):
            yield with_tests(Repair.FLOATS, outputs=got)
        if checker is Checker.UNORDERED and all(same_in_any_order(*pair) for pair in pairs):
            yield with_tests(Repair.ORDER, outputs=got)
        return
    if not isinstance(tests, CallTests):
        return
    if any('"' in repr(value) or "'" in repr(value) for value in tests.inputs):
        inputs, outputs = _unquoted(list(tests.inputs)), _unquoted(list(tests.outputs))
        if (inputs, outputs) != (list(tests.inputs), list(tests.outputs)):
            yield with_tests(Repair.QUOTES, inputs=inputs, outputs=outputs)
    values = values_of(verdict)
    if None in values:
        return
    found = [value[0] for value in values if value]
    if all(isinstance(e, list) and len(e) == 1 for e in tests.outputs):
        yield with_tests(Repair.WRAPPING, outputs=[e[0] for e in tests.outputs])
    if all(isinstance(v, (list, tuple)) and len(v) == 1 for v in found):
        yield with_tests(Repair.WRAPPING, outputs=[[e] for e in tests.outputs])
    if checker is Checker.UNORDERED and all(map(same_in_any_order, found, tests.outputs)):
        yield with_tests(Repair.ORDER, outputs=found)


def values_of(verdict: Verdict) -> list[tuple[Any] | None]:
    """Return the value of each call test, in a tuple of one; None where it has none that is plain.

    A verdict shows the first 300 characters of a value: longer ones count as having none.
    """
    return [
        _value(test.got, test.message) if _returned(test.status) else None for test in verdict.tests
    ]


def _returned(status: Status) -> bool:
    return status in (Status.ACCEPTED, Status.WRONG_ANSWER)


def _value(got: str | None, message: str) -> tuple[Any] | None:
    if got is None or message.endswith("not plain data"):
        return None
    try:
        return (ast.literal_eval(got),)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def stdout_of(problem: Problem, source: str, judges: Judges, run: int = 0) -> list[str]:
    """Return all that a program prints on each stdin of its problem."""
    tests = problem.tests
    assert isinstance(tests, StdinTests)
    kept = StdinTests(tests.inputs, tests.outputs, keep_output=True)
    verdict = judges.run(Submission(program_of(problem, source), kept), run)
    return [test.stdout or "" for test in verdict.tests]


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


def _differs(problem: Problem, checker: Checker, judges: Judges) -> str:
    """Return how the solution answers otherwise under another seed; "" if it does not."""
    tests = problem.tests
    code = test_code(tests)
    if not may_vary(problem.canonical_solution, *code):
        return ""
    for run in range(1, judges.runs):
        verdict = judges.run(submission_of(problem), run)
        if verdict.passed:
            continue
        if checker is Checker.UNORDERED and _same_but_for_order(problem, verdict, judges, run):
            continue
        return f"with hash and random seed {run}: {verdict.message}"
    return ""


def _same_but_for_order(problem: Problem, verdict: Verdict, judges: Judges, run: int) -> bool:
    tests = problem.tests
    if isinstance(tests, CodeTests):
        return False
    if isinstance(tests, StdinTests):
        got: list[Any] = stdout_of(problem, problem.canonical_solution, judges, run)
    else:
        values = values_of(verdict)
        got = [value[0] for value in values if value]
    return len(got) == len(tests.outputs) and all(map(same_in_any_order, got, tests.outputs))


def called_with(problem: Problem, source: str, inputs: tuple[list[Any], ...]) -> Submission:
    """Return a submission that calls a program with inputs whose answers are not known."""
    program = Program(source, problem.entry_point, problem.preamble)
    return Submission(program, CallTests(inputs, (None,) * len(inputs)))
