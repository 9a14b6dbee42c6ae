"""More tests for a verified problem: new inputs with what the solution answers, where that is safe.

Takes a Verified, gives a Cleaned. Of the inputs on which the solution ends quickly, in every run
alike, with a plain answer of a known type, those come first that run new statements or fail a
mutant of the solution which all tests so far pass.
"""

from __future__ import annotations

import ast
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from stepcoder.clean.comparison import Comparison
from stepcoder.clean.coverage import executed_statements, statement_spans
from stepcoder.clean.inputs import new_inputs
from stepcoder.clean.judges import Judges
from stepcoder.clean.mutants import mutants
from stepcoder.clean.stdin_inputs import new_stdins
from stepcoder.clean.verify import NO_VALUE, Verified, ended, submission_of, value_of
from stepcoder.problems.fields import ProblemRecord
from stepcoder.problems.problem import Problem, program_of
from stepcoder.problems.schema import read_tests
from stepcoder.problems.source import parse
from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Limits,
    Status,
    StdinTests,
    Submission,
    Tests,
    TestVerdict,
)
from stepcoder.sandbox.checker_runs import needs_checker_run
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.program import test_code

MUTANTS = 12  # of a solution, drawn from all
QUICK_S = 0.25  # CPU seconds that an answer may take
LONGEST_ANSWER = 300  # characters
LONGEST_SOLUTION = 20_000  # characters; longer ones are not mutated


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A problem that is kept: its tests, the generated ones at their end, and how good they are.

    `mutants` says how many mutants ran, how many the given tests failed, and how many all do.
    """

    verified: Verified
    tests: ProblemRecord
    generated: int
    executed_lines: frozenset[int]
    mutants: tuple[int, int, int] = (0, 0, 0)

    @property
    def number(self) -> int:
        """Its place in the input."""
        return self.verified.number


@dataclass(frozen=True, slots=True, eq=False)
class _Test:
    """A new test: its input, the solution's answer, the lines that ran, and what else fails it."""

    input: Any
    output: Any
    lines: frozenset[int]
    killed: set[int] = field(default_factory=set)  # mutants that pass all given tests


def extend(verified: Verified, judges: Judges, wanted: int, seed: int) -> Cleaned:
    """Add tests until there are `wanted`, as far as safe ones are found.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    problem, given = verified.problem, verified.candidate.record["tests"]
    unchanged = Cleaned(verified, given, 0, verified.executed_lines)
    missing = wanted - len(problem.tests)
    grouped = getattr(problem.tests, "subtasks", ())  # new tests would belong to no subtask
    if missing <= 0 or grouped or verified.comparison is Comparison.UNORDERED:
        return unchanged
    rng = random.Random(f"tests {seed} {problem.task_id}")
    new = _new_tests(problem, judges, 2 * missing + 4, rng)
    if not new:
        return unchanged
    run, killed = _run_mutants(problem, new, judges, rng)
    chosen = _most_useful(problem, new, verified.executed_lines, missing)
    while chosen:
        tests = _with_tests(given, chosen, problem)
        failing = _failing(problem, tests, judges, len(chosen))
        if not failing:
            lines = verified.executed_lines.union(*(test.lines for test in chosen))
            killed_by_all = killed + len(set().union(*(test.killed for test in chosen)))
            return Cleaned(verified, tests, len(chosen), lines, (run, killed, killed_by_all))
        chosen = [test for i, test in enumerate(chosen) if i not in failing]
    return unchanged


def _new_tests(problem: Problem, judges: Judges, count: int, rng: random.Random) -> list[_Test]:
    """Return tests on new inputs that the solution answers safely."""
    tests = problem.tests
    if needs_checker_run(tests):  # such a checker need not expect what the solution answers
        return []
    if isinstance(tests, StdinTests):
        texts = tuple(new_stdins(tests.inputs, count, rng))
        unanswered = replace(tests, inputs=texts, outputs=("",) * len(texts), keep_output=True)
        found = _answered(problem, unanswered, _printed, judges)
        return [test for test in found if len(test.output) <= LONGEST_ANSWER]
    known = calls_of(problem)
    inputs = tuple(new_inputs([arguments for arguments, _ in known], count, rng))
    found = _answered(problem, CallTests(inputs, (None,) * len(inputs)), value_of, judges)
    types = {type(expected) for _, expected in known}
    as_json = isinstance(tests, CallTests)
    if as_json and list in types:
        types.add(tuple)
    return [
        test
        for test in found
        if type(test.output) in types
        and len(repr(test.output)) <= LONGEST_ANSWER
        and (_survives_json(test.output) if as_json else _exact(test.output))
    ]


def _answered(
    problem: Problem,
    unanswered: CallTests | StdinTests,
    answer_of: Callable[[TestVerdict], Any],
    judges: Judges,
) -> list[_Test]:
    """Return the tests that the solution answers quickly and the same in every run."""
    if not unanswered.inputs:
        return []
    submission = submission_of(problem, unanswered, _quick(judges.limits))
    first = judges.run(submission).tests
    answers = list(map(answer_of, first))
    for run in judges.other_runs(problem.canonical_solution):
        again = map(answer_of, judges.run(submission, run).tests)
        pairs = zip(answers, again, strict=True)
        answers = [one if repr(one) == repr(other) else NO_VALUE for one, other in pairs]
    return [
        _Test(given, answer, test.executed_lines)
        for given, answer, test in zip(unanswered.inputs, answers, first, strict=True)
        if answer is not NO_VALUE and test.cpu_s < QUICK_S
    ]


def _printed(test: TestVerdict) -> Any:
    """Return what was printed, without spaces at the ends of lines; NO_VALUE if nothing was."""
    text = (test.stdout or "").rstrip()
    if not ended(test) or not text or "nan" in text.lower().split():
        return NO_VALUE
    return "".join(line.rstrip() + "\n" for line in text.split("\n"))


def _quick(limits: Limits) -> Limits:
    cpu_s = min(limits.cpu_s, QUICK_S)
    return replace(limits, cpu_s=cpu_s, wall_s=min(limits.wall_s, 8 * cpu_s))


def calls_of(problem: Problem) -> list[tuple[list[Any], Any]]:
    """Return arguments and expected value of each test that is a call of the entry point."""
    tests = problem.tests
    if isinstance(tests, CallTests):
        return list(zip(tests.inputs, tests.outputs, strict=True))
    texts = tests.asserts if isinstance(tests, AssertTests) else ()
    return [call for text in texts for call in _asserted_calls(text, problem.entry_point)]


def _asserted_calls(code: str, entry_point: str | None) -> Iterator[tuple[list[Any], Any]]:
    """Yield arguments and value of each `assert f(...) == ...` whose values are written out."""
    with suppress(SyntaxError):
        for node in parse(code).body:
            match node:
                case ast.Assert(
                    test=ast.Compare(
                        left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                        ops=[ast.Eq()],
                        comparators=[expected],
                    )
                ) if name == entry_point:
                    with suppress(ValueError, TypeError, MemoryError, RecursionError):
                        yield list(map(ast.literal_eval, args)), ast.literal_eval(expected)


def _survives_json(value: Any) -> bool:
    """Return whether a value can be written as JSON and still be compared with."""
    try:
        again = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False
    return same_value(again, value, 0.0)


def _exact(value: Any) -> bool:
    """Return whether a value may stand in an assert: real numbers are not compared by `==`."""
    if isinstance(value, float):
        return math.isfinite(value) and value == int(value)
    if isinstance(value, dict):
        return all(_exact(item) for pair in value.items() for item in pair)
    return all(map(_exact, value)) if isinstance(value, (list, tuple, set, frozenset)) else True


def _run_mutants(
    problem: Problem, new: Sequence[_Test], judges: Judges, rng: random.Random
) -> tuple[int, int]:
    """Note in each new test which mutants it kills that pass all given tests.

    Returns:
        How many mutants ran, and how many the given tests kill.
    """
    sources, limits, killed = _mutants(problem.canonical_solution, rng), _quick(judges.limits), 0
    given = replace(submission_of(problem, limits=limits), stop_at_first_failure=True)
    pairs: dict[str, Any] = {
        "inputs": tuple(test.input for test in new),
        "outputs": tuple(test.output for test in new),
    }
    compared = isinstance(problem.tests, (StdinTests, CallTests))
    more: Tests = replace(problem.tests, **pairs) if compared else CallTests(**pairs)
    for number, source in enumerate(sources):
        program = program_of(problem, source)
        if not judges.run(replace(given, program=program)).passed:
            killed += 1
            continue
        verdict = judges.run(Submission(program, more, limits))
        for test, outcome in zip(new, verdict.tests, strict=False):
            if outcome.status is not Status.ACCEPTED:
                test.killed.add(number)
    return len(sources), killed


def _mutants(source: str, rng: random.Random) -> list[str]:
    """Return some programs that differ from a solution in a small fault."""
    if len(source) > LONGEST_SOLUTION:
        return []
    try:
        found = sorted({text for _, text in islice(mutants(source), 400)})
    except (ValueError, RecursionError):
        return []
    return rng.sample(found, min(MUTANTS, len(found)))


def _most_useful(
    problem: Problem, new: Sequence[_Test], lines: frozenset[int], count: int
) -> list[_Test]:
    """Return up to `count` of the new tests, the most useful first."""
    spans = statement_spans(parse(problem.canonical_solution))
    answers = {repr(expected) for _, expected in calls_of(problem)}
    executed, killed = executed_statements(spans, lines), set[int]()
    left, chosen = list(new), list[_Test]()

    def gain(test: _Test) -> tuple[int, int, bool]:
        statements = executed_statements(spans, test.lines) - executed
        return len(statements), len(test.killed - killed), repr(test.output) not in answers

    while left and len(chosen) < count:
        best = max(left, key=gain)  # the earliest of the best
        left.remove(best)
        chosen.append(best)
        executed |= executed_statements(spans, best.lines)
        killed |= best.killed
        answers.add(repr(best.output))
    return chosen


def _with_tests(tests: ProblemRecord, new: Sequence[_Test], problem: Problem) -> ProblemRecord:
    """Return the tests of a record with new ones at the end."""
    if tests["kind"] != "assert":
        inputs = [*tests["inputs"], *(test.input for test in new)]
        outputs = [*tests["outputs"], *(test.output for test in new)]
        return {**tests, "inputs": inputs, "outputs": outputs}
    lines = [
        f"assert {problem.entry_point}({', '.join(map(repr, test.input))}) == {test.output!r}"
        for test in new
    ]
    extended = {**tests, "code": "\n".join([tests["code"].rstrip("\n"), *lines, ""])}
    if isinstance(tests.get("asserts"), list):
        extended["asserts"] = [*tests["asserts"], *lines]
    return extended


def _failing(problem: Problem, tests: ProblemRecord, judges: Judges, generated: int) -> set[int]:
    """Return which generated tests the solution fails once they follow the others, in any run."""
    whole, solution = read_tests(tests), problem.canonical_solution
    given = len(problem.tests)
    if len(whole) != given + generated:  # the test code is not cut as before
        return set(range(generated))
    submission = submission_of(problem, whole)
    failing: set[int] = set()
    for run in (0, *judges.other_runs(solution, *test_code(whole))):
        statuses = [test.status for test in judges.run(submission, run).tests]
        if any(status is not Status.ACCEPTED for status in statuses[:given]):
            return set(range(generated))
        failing |= {i for i, s in enumerate(statuses[given:]) if s is not Status.ACCEPTED}
    return failing
