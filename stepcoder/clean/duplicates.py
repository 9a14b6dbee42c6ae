"""Problems that are there twice, or that are in a set which must stay unseen.

Takes candidates, references and verified problems, gives what is to be dropped. Statements that
have nearly all words in common count as the same if each solution also solves the other's tests:
"the surface of a cube" and "the surface of a sphere" differ in one word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
class Likeness:
    """A pair of problems by their numbers, and what they have in common."""

    first: int
    second: int
    reason: Reason
    detail: str
    similarity: float


def overlaps(
    candidates: Sequence[Candidate], references: Sequence[Problem], pairs: Iterable[Pair]
) -> Iterator[Dropped]:
    """Yield the candidates whose statement or solution is that of a reference problem.

    `pairs` are those of `statement_pairs` of the same arguments.
    """
    if not references:
        return
    count = len(references)
    found: dict[int, str] = {}
    keys = {program_key(problem.canonical_solution): problem.task_id for problem in references}
    for place, candidate in enumerate(candidates):
        key = program_key(candidate.problem.canonical_solution)
        if key in keys:
            found.setdefault(place, f"its solution is that of {keys[key]}, names aside")
    for pair in pairs:
        if pair.first < count <= pair.second:
            same = f"its statement is {pair.similarity:.0%} that of"
            found.setdefault(pair.second - count, f"{same} {references[pair.first].task_id}")
    for place, detail in sorted(found.items()):
        candidate = candidates[place]
        yield Dropped(candidate.number, candidate.task_id, Reason.OVERLAP, detail)


def statement_pairs(
    candidates: Sequence[Candidate], references: Sequence[Problem], threshold: float
) -> list[Pair]:
    """Return the pairs of similar statements, by place: references first, then candidates."""
    problems = [*references, *(candidate.problem for candidate in candidates)]
    sets = [shingles_of(statement_of(problem.prompt)) for problem in problems]
    return list(similar_pairs(sets, threshold))


def likenesses(kept: Sequence[Verified], pairs: Iterable[Pair]) -> list[Likeness]:
    """Return what may be duplicates: similar statements, or one solution and statements near it.

    `pairs` hold the numbers of the problems; those of others are left out. Of each problem only
    the most similar earlier ones are named.
    """
    problems = {verified.number: verified.candidate.problem for verified in kept}
    found: dict[int, list[Likeness]] = {}
    for pair in pairs:
        if pair.first in problems and pair.second in problems:
            found.setdefault(pair.second, []).append(_likeness(pair, problems))
    for like in _same_programs(problems):
        found.setdefault(like.second, []).append(like)
    return [
        like
        for likes in found.values()
        for like in sorted(likes, key=lambda like: (-like.similarity, like.first))[:COMPARED]
    ]


def _likeness(pair: Pair, problems: Mapping[int, Problem]) -> Likeness:
    prompts = (problems[number].prompt for number in (pair.first, pair.second))
    first, second = (words_of(statement_of(prompt)) for prompt in prompts)
    if first == second:
        reason, detail = Reason.DUPLICATE, "the same statement"
    else:
        reason, detail = Reason.NEAR_DUPLICATE, f"{pair.similarity:.0%} of its words"
    return Likeness(pair.first, pair.second, reason, detail, pair.similarity)


def _same_programs(problems: Mapping[int, Problem]) -> Iterator[Likeness]:
    """Yield the problems with one solution and statements that have much in common."""
    numbers: dict[str, list[int]] = {}
    for second, problem in problems.items():
        earlier = numbers.setdefault(program_key(problem.canonical_solution), [])
        for first in earlier:
            texts = [statement_of(problems[number].prompt) for number in (first, second)]
            similarity = jaccard(*map(shingles_of, texts))
            if similarity >= SAME_PROGRAM:
                detail = f"the same solution, and {similarity:.0%} of its words"
                yield Likeness(first, second, Reason.NEAR_DUPLICATE, detail, similarity)
        earlier.append(second)


def duplicates(
    kept: Sequence[Verified], likes: Iterable[Likeness], same: Callable[[Likeness], bool]
) -> Iterator[Dropped]:
    """Yield the problems that are the same as an earlier one which stays."""
    names = {verified.number: verified.candidate.task_id for verified in kept}
    gone: set[int] = set()
    for like in sorted(likes, key=lambda like: (like.second, -like.similarity, like.first)):
        if like.first not in gone and like.second not in gone and same(like):
            gone.add(like.second)
            detail = f"{like.detail} as {names[like.first]}"
            yield Dropped(like.second, names[like.second], like.reason, detail)


def solve_each_other(one: Problem, other: Problem, judges: Judges) -> bool:
    """Return whether each of two solutions passes the other's tests, as far as those are calls.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
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
    return CallTests(tuple(a for a, _ in calls), tuple(e for _, e in calls))
