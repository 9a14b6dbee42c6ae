"""Problems that are there twice, or that are in a set which must stay unseen.

Takes candidates, references and verified problems, gives what is to be dropped. Statements that
have nearly all words in common count as the same if each solution also solves the other's tests:
"the surface of a cube" and "the surface of a sphere" differ in one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from stepcoder.clean.extend import calls_of
from stepcoder.clean.judges import Judges
from stepcoder.clean.reasons import Dropped, Reason
from stepcoder.clean.records import Candidate
from stepcoder.clean.similar import (
    Pair,
    jaccard,
    program_key,
    shingles_of,
    similar_pairs,
    statement_of,
    words_of,
)
from stepcoder.clean.verify import Verified
from stepcoder.problems.problem import Problem, program_of
from stepcoder.sandbox import CallTests, StdinTests, Submission

SAME_PROGRAM = 0.5  # how similar statements must be for one and the same program to be a duplicate
COMPARED = 8  # of the earlier problems with a similar statement, the most similar ones


@dataclass(frozen=True, slots=True)
class Match:
    """Two problems that may be the same, the earlier one first, and what they have in common."""

    first: Verified
    second: Verified
    similarity: float
    reason: Reason
    detail: str

    @property
    def numbers(self) -> tuple[int, int]:
        """The places of both in the input."""
        return self.first.number, self.second.number

    @property
    def task_id(self) -> str:
        """The name of the problem that may be dropped."""
        return self.second.task_id


def similar_statements(
    candidates: Sequence[Candidate], references: Sequence[Problem], threshold: float
) -> list[Pair]:
    """Return the pairs of similar statements.

    Candidates go by their numbers in the input, references by negative ones: -1 is the last.
    """
    problems = [*references, *(candidate.problem for candidate in candidates)]
    numbers = [*range(-len(references), 0), *(candidate.number for candidate in candidates)]
    shingles = [shingles_of(statement_of(problem.prompt)) for problem in problems]
    return [
        Pair(numbers[pair.first], numbers[pair.second], pair.similarity)
        for pair in similar_pairs(shingles, threshold)
    ]


def overlaps(
    candidates: Sequence[Candidate], references: Sequence[Problem], pairs: Iterable[Pair]
) -> Iterator[Dropped]:
    """Yield the candidates whose solution or statement is that of a reference problem.

    `pairs` are those of `similar_statements` of the same arguments.
    """
    if not references:
        return
    keys = {program_key(problem.canonical_solution): problem.task_id for problem in references}
    similar: dict[int, tuple[int, float]] = {}
    for pair in pairs:
        if pair.first < 0 <= pair.second:
            similar.setdefault(pair.second, (pair.first, pair.similarity))
    for candidate in candidates:
        key = program_key(candidate.problem.canonical_solution)
        if key in keys:
            detail = f"its solution is that of {keys[key]}, names aside"
            yield candidate.dropped(Reason.OVERLAP, detail)
        elif candidate.number in similar:
            first, similarity = similar[candidate.number]
            detail = f"its statement is {similarity:.0%} that of {references[first].task_id}"
            yield candidate.dropped(Reason.OVERLAP, detail)


def matches(verified: Sequence[Verified], pairs: Iterable[Pair]) -> list[Match]:
    """Return what may be duplicates: similar statements, or one solution and statements near it.

    `pairs` hold the numbers of the problems; those of others are left out. Matches come in the
    order of the later problem; each has at most COMPARED, the most similar ones first.
    """
    of_number = {problem.number: problem for problem in verified}
    found = [
        _statement_match(of_number[pair.first], of_number[pair.second], pair.similarity)
        for pair in pairs
        if pair.first in of_number and pair.second in of_number
    ]
    found += _program_matches(verified)
    found.sort(key=lambda match: (match.second.number, -match.similarity, match.first.number))
    groups = groupby(found, key=lambda match: match.second.number)
    return [match for _, group in groups for match in islice(group, COMPARED)]


def _statement_match(first: Verified, second: Verified, similarity: float) -> Match:
    words, others = (words_of(statement_of(one.problem.prompt)) for one in (first, second))
    if words == others:
        return Match(first, second, similarity, Reason.DUPLICATE, "the same statement")
    detail = f"{similarity:.0%} of its words"
    return Match(first, second, similarity, Reason.NEAR_DUPLICATE, detail)


def _program_matches(verified: Iterable[Verified]) -> Iterator[Match]:
    """Yield the problems with one solution and statements that have much in common."""
    of_key: dict[str, list[Verified]] = {}
    for second in verified:
        earlier = of_key.setdefault(program_key(second.problem.canonical_solution), [])
        for first in earlier:
            statements = [statement_of(one.problem.prompt) for one in (first, second)]
            similarity = jaccard(*map(shingles_of, statements))
            if similarity >= SAME_PROGRAM:
                detail = f"the same solution, and {similarity:.0%} of its words"
                yield Match(first, second, similarity, Reason.NEAR_DUPLICATE, detail)
        earlier.append(second)


def is_same_problem(match: Match, judges: Judges) -> bool:
    """Return whether each of two solutions passes the other's tests, as far as those are calls.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    one, other = match.first.problem, match.second.problem
    for solver, asked in ((one, other), (other, one)):
        tests = _tests_for(solver, asked)
        program = program_of(solver, solver.canonical_solution)
        if tests is not None and not judges.run(Submission(program, tests)).passed:
            return False
    return True


def _tests_for(solver: Problem, asked: Problem) -> CallTests | StdinTests | None:
    """Return the tests of one problem as far as another's solution can be asked them."""
    if isinstance(asked.tests, StdinTests):
        return asked.tests if isinstance(solver.tests, StdinTests) else None
    calls = calls_of(asked)
    if not calls or solver.entry_point is None or isinstance(solver.tests, StdinTests):
        return None
    inputs, outputs = zip(*calls, strict=True)
    return CallTests(inputs, outputs)


def duplicates(same: Iterable[Match]) -> Iterator[Dropped]:
    """Yield the later problem of each match of which both are still there, in the order given."""
    gone: set[int] = set()
    for match in same:
        if gone.isdisjoint(match.numbers):
            gone.add(match.second.number)
            detail = f"{match.detail} as {match.first.task_id}"
            yield match.second.candidate.dropped(match.reason, detail)
