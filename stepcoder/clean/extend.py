"""More tests for a verified problem: new inputs with what the solution answers, where that is safe.

Takes a Verified, gives an Extension. Of the inputs on which the solution ends quickly, in every run
alike, with a plain answer of a known type, those come first that run new statements or fail a
mutant of the solution which all tests so far pass.
"""

from __future__ import annotations

import ast
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from stepcoder.clean.answers import Checker
from stepcoder.clean.coverage import coverage, statement_spans
from stepcoder.clean.inputs import new_inputs
from stepcoder.clean.judges import Judges
from stepcoder.clean.stdin_inputs import new_stdins
from stepcoder.clean.vary import may_vary
from stepcoder.clean.verify import Verified, called_with, submission_of, values_of
from stepcoder.problems.formats import ProblemRecord
from stepcoder.problems.problem import Problem, program_of
from stepcoder.problems.schema import read_tests
from stepcoder.problems.source import parse
from stepcoder.sandbox import AssertTests, CallTests, Limits, Status, StdinTests, Submission
from stepcoder.sandbox.checking import asks_checker
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.program import test_code
from stepcoder.suite.mutants import mutants

MUTANTS = 12  # of a solution, spread over all
QUICK_S = 0.25  # CPU seconds that an answer may take
LONGEST_ANSWER = 300  # characters
LONGEST_SOLUTION = 20_000  # characters; longer ones are not mutated


@dataclass(frozen=True, slots=True)
class Extension:
    """The tests of a problem with the generated ones at their end.

    `mutants` says how many mutants ran, how many the given tests failed, and how many all do.
    """

    tests: ProblemRecord
    generated: int
    executed_lines: frozenset[int]
    mutants: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Test:
    """A new test: its input, the solution's answer, and the lines that ran."""

    input: Any
    output: Any
    lines: frozenset[int]


def extend(verified: Verified, judges: Judges, wanted: int, seed: int) -> Extension:
    """Add tests until there are `wanted`, as far as safe ones are found.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    problem, lines = verified.candidate.problem, verified.executed_lines
    unchanged = Extension(verified.candidate.record["tests"], 0, lines)
    missing = wanted - len(problem.tests)
    if missing <= 0 or verified.checker is Checker.UNORDERED:
        return unchanged
    rng = random.Random(f"tests {seed} {problem.task_id}")
    new = _new_tests(problem, judges, 2 * missing + 4, rng)
    if not new:
        return unchanged
    killed, before, kills = _kills(problem, new, judges, rng)
    chosen = _chosen(problem, new, kills, lines, missing)
    while chosen:
        tests = _with_tests(verified.candidate.record["tests"], [new[i] for i in chosen], problem)
        failing = _failing(problem, tests, judges, len(chosen))
        if not failing:
            after = before + len(set().union(*(kills[i] for i in chosen)))
            ran = lines.union(*(new[i].lines for i in chosen))
            return Extension(tests, len(chosen), ran, (killed, before, after))
        chosen = [test for place, test in enumerate(chosen) if place not in failing]
    return unchanged


def _new_tests(problem: Problem, judges: Judges, count: int, rng: random.Random) -> list[_Test]:
    """Return tests on new inputs that the solution answers safely."""
    tests = problem.tests
    if asks_checker(tests):  # what the solution answers need not be what such a checker expects
        return []
    if isinstance(tests, StdinTests):
        return _stdin_tests(problem, new_stdins(tests.inputs, count, rng), judges)
    known = calls_of(problem)
    inputs = tuple(new_inputs([arguments for arguments, _ in known], count, rng))
    if not inputs:
        return []
    found = _calls(problem, inputs, judges)
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


def _calls(problem: Problem, inputs: tuple[list[Any], ...], judges: Judges) -> list[_Test]:
    limits = _quick(judges)
    submission = replace(called_with(problem, problem.canonical_solution, inputs), limits=limits)
    first = judges.run(submission)
    values = values_of(first)
    for run in _other_runs(problem, judges):
        again = values_of(judges.run(submission, run))
        values = [
            v if v is not None and repr(v) == repr(w) else None
            for v, w in zip(values, again, strict=True)
        ]
    return [
        _Test(arguments, value[0], test.executed_lines)
        for arguments, value, test in zip(inputs, values, first.tests, strict=True)
        if value is not None and test.cpu_s < QUICK_S
    ]


def _stdin_tests(problem: Problem, inputs: Sequence[str], judges: Judges) -> list[_Test]:
    if not inputs:
        return []
    asked = StdinTests(tuple(inputs), ("",) * len(inputs), keep_output=True)
    submission = Submission(program_of(problem, problem.canonical_solution), asked, _quick(judges))
    first = judges.run(submission)
    outputs = [_stdout(test.status, test.stdout) for test in first.tests]
    for run in _other_runs(problem, judges):
        again = [_stdout(t.status, t.stdout) for t in judges.run(submission, run).tests]
        outputs = [o if o == other else None for o, other in zip(outputs, again, strict=True)]
    return [
        _Test(text, output, test.executed_lines)
        for text, output, test in zip(inputs, outputs, first.tests, strict=True)
        if output
        and len(output) <= LONGEST_ANSWER
        and test.cpu_s < QUICK_S
        and "nan" not in output.lower().split()
    ]


def _stdout(status: Status, text: str | None) -> str | None:
    ended = status in (Status.ACCEPTED, Status.WRONG_ANSWER) and text and text.strip()
    return (
        "\n".join(line.rstrip() for line in text.rstrip().split("\n")) + "\n"
        if ended and text
        else None
    )


def _quick(judges: Judges) -> Limits:
    cpu_s = min(judges.limits.cpu_s, QUICK_S)
    return replace(judges.limits, cpu_s=cpu_s, wall_s=min(judges.limits.wall_s, 8 * cpu_s))


def _other_runs(problem: Problem, judges: Judges) -> range:
    """Return the runs besides the first that a safe answer must be the same in."""
    return range(1, judges.runs if may_vary(problem.canonical_solution) else min(judges.runs, 1))


def calls_of(problem: Problem) -> list[tuple[list[Any], Any]]:
    """Return arguments and expected value of each test that is a call of the entry point."""
    tests = problem.tests
    if isinstance(tests, CallTests):
        return list(zip(tests.inputs, tests.outputs, strict=True))
    if not isinstance(tests, AssertTests):
        return []
    found = []
    for text in tests.asserts:
        try:
            found += [_asserted_call(node, problem.entry_point) for node in parse(text).body]
        except SyntaxError:
            continue
    return [call for call in found if call is not None]


def _asserted_call(node: ast.stmt, entry_point: str | None) -> tuple[list[Any], Any] | None:
    """Return arguments and value of `assert f(...) == ...`; None for everything else."""
    match node:
        case ast.Assert(
            test=ast.Compare(
                left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                ops=[ast.Eq()],
                comparators=[expected],
            )
        ) if name == entry_point:
            try:
                return [ast.literal_eval(arg) for arg in args], ast.literal_eval(expected)
            except (ValueError, TypeError, MemoryError, RecursionError):
                return None
    return None


def _survives_json(value: Any) -> bool:
    """Return whether a value can be written as JSON and still be compared with."""
    try:
        again = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False
    return same_value(again, value, 0.0) and _has_text_keys(value)


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _has_text_keys(v) for k, v in value.items())
    return all(map(_has_text_keys, value)) if isinstance(value, (list, tuple)) else True


def _exact(value: Any) -> bool:
    """Return whether a value may stand in an assert: real numbers are not compared by `==`."""
    if isinstance(value, float):
        return math.isfinite(value) and value == int(value)
    if isinstance(value, dict):
        return all(_exact(item) for pair in value.items() for item in pair)
    return all(map(_exact, value)) if isinstance(value, (list, tuple, set, frozenset)) else True


def _kills(
    problem: Problem, new: Sequence[_Test], judges: Judges, rng: random.Random
) -> tuple[int, int, list[set[int]]]:
    """Return how many mutants ran, how many the given tests fail, and which more each new one."""
    sources = _mutants(problem.canonical_solution, rng)
    kills: list[set[int]] = [set() for _ in new]
    limits, killed = _quick(judges), 0
    for number, source in enumerate(sources):
        given = replace(submission_of(problem, source), limits=limits, stop_at_first_failure=True)
        if not judges.run(given).passed:
            killed += 1
            continue
        verdict = judges.run(Submission(program_of(problem, source), _tests_of(new), limits))
        for i, test in enumerate(verdict.tests):
            if test.status is not Status.ACCEPTED:
                kills[i].add(number)
    return len(sources), killed, kills


def _tests_of(new: Sequence[_Test]) -> CallTests | StdinTests:
    inputs, outputs = tuple(t.input for t in new), tuple(t.output for t in new)
    return (StdinTests if isinstance(inputs[0], str) else CallTests)(inputs, outputs)


def _mutants(source: str, rng: random.Random) -> list[str]:
    if len(source) > LONGEST_SOLUTION:
        return []
    try:
        found = sorted({text for _, text in islice(mutants(source), 400)})
    except (ValueError, RecursionError):
        return []
    return rng.sample(found, min(MUTANTS, len(found)))


def _chosen(
    problem: Problem,
    new: Sequence[_Test],
    kills: Sequence[set[int]],
    lines: frozenset[int],
    count: int,
) -> list[int]:
    """Return up to `count` of the new tests, the most useful first."""
    spans = statement_spans(parse(problem.canonical_solution))
    ran = {i for i, span in enumerate(spans) if not lines.isdisjoint(span)}
    runs = [{i for i, span in enumerate(spans) if not t.lines.isdisjoint(span)} for t in new]
    answers = {repr(expected) for _, expected in calls_of(problem)}
    dead: set[int] = set()
    left = set(range(len(new)))
    chosen: list[int] = []

    def use(i: int) -> tuple[int, int, bool, int]:
        return len(runs[i] - ran), len(kills[i] - dead), repr(new[i].output) not in answers, -i

    while left and len(chosen) < count:
        best = max(left, key=use)
        left.remove(best)
        chosen.append(best)
        ran |= runs[best]
        dead |= kills[best]
        answers.add(repr(new[best].output))
    return chosen


def _with_tests(tests: ProblemRecord, new: Sequence[_Test], problem: Problem) -> ProblemRecord:
    """Return the tests of a record with new ones at the end."""
    if tests["kind"] != "assert":
        return {
            **tests,
            "inputs": [*tests["inputs"], *(test.input for test in new)],
            "outputs": [*tests["outputs"], *(test.output for test in new)],
        }
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
    whole = read_tests(tests)
    given = len(problem.tests)
    if len(whole) != given + generated:  # the test code is not cut as before
        return set(range(generated))
    submission = Submission(program_of(problem, problem.canonical_solution), whole)
    failing: set[int] = set()
    runs = judges.runs if may_vary(problem.canonical_solution, *test_code(whole)) else 1
    for run in range(runs):
        verdict = judges.run(submission, run)
        failing |= {
            i - given for i, t in enumerate(verdict.tests) if t.status is not Status.ACCEPTED
        }
    return failing if all(i >= 0 for i in failing) else set(range(generated))


def share_of(problem: Problem, lines: frozenset[int]) -> float:
    """Return the share of the solution's statements among the lines that ran."""
    return coverage(problem.canonical_solution, lines).share
