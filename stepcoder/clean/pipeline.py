"""The pipeline: leave out what overlaps, verify, leave out duplicates, extend, write.

Takes what reading gave and Options, leaves problems.jsonl, decisions.jsonl and report.html in a
folder. Every step decides in the order of the input, whatever order programs finish in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stepcoder.clean.coverage import coverage
from stepcoder.clean.extend import Extension, extend
from stepcoder.clean.judges import JudgeFailedError, Judges
from stepcoder.clean.reasons import Dropped
from stepcoder.clean.records import Candidate
from stepcoder.clean.duplicates import (
    Likeness,
    duplicates,
    likenesses,
    overlaps,
    solve_each_other,
    statement_pairs,
)
from stepcoder.clean.store import (
    EXTENDED,
    VERIFIED,
    Store,
    extended_record,
    extension_of,
    verified_of,
    verified_record,
)
from stepcoder.clean.verify import Verified, verify
from stepcoder.method.curriculum import stage_count, start_points
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import starter_part
from stepcoder.report.run_dir import replace_file

PROBLEMS, DECISIONS = "problems.jsonl", "decisions.jsonl"

A = TypeVar("A")
B = TypeVar("B")
Record = dict[str, Any]
THREADS = 4  # for each worker of the sandbox


class Notify(Protocol):
    """Who hears how far the cleaning is."""

    def step(self, name: str, done: int, total: int) -> None:
        """So many problems of a step are done."""

    def failure(self, task_id: str, error: Exception) -> None:
        """The sandbox failed on a problem."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the results depend on, besides input and limits."""

    tests: int = 8  # as many as a problem shall have, 0 to leave them as they are
    similarity: float = 0.8  # from which on statements are the same
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A problem that is kept, with all that is known about it."""

    verified: Verified
    extension: Extension


@dataclass(frozen=True, slots=True)
class Cleaning:
    """The whole result, in the order of the input."""

    outcomes: tuple[Kept | Dropped, ...]
    failed: int  # problems that the sandbox failed on; the same command tries them again
    seconds: Mapping[str, float]  # by step


def clean(
    records: Iterable[Candidate | Dropped],
    references: Sequence[Problem],
    options: Options,
    judges: Judges,
    store: Store,
    notify: Notify,
) -> Cleaning:
    """Run every step that the folder does not hold the results of yet."""
    clock = _Clock()
    failures = 0  # in comparing solutions
    outcomes: dict[int, Candidate | Verified | Kept | Dropped] = {r.number: r for r in records}
    candidates = [c for c in outcomes.values() if isinstance(c, Candidate)]

    pairs = statement_pairs(candidates, references, options.similarity)
    for dropped in overlaps(candidates, references, pairs):
        outcomes[dropped.number] = dropped
    numbers = [-1] * len(references) + [candidate.number for candidate in candidates]
    pairs = [replace(p, first=numbers[p.first], second=numbers[p.second]) for p in pairs]
    candidates = [c for c in outcomes.values() if isinstance(c, Candidate)]
    clock.end("compare")

    for candidate in candidates:
        if record := store.verified.get(candidate.number):
            outcomes[candidate.number] = verified_of(candidate, record)
    waiting = [c for c in candidates if isinstance(outcomes[c.number], Candidate)]
    for candidate, verified in in_parallel(waiting, lambda c: verify(c, judges), judges.workers):
        if isinstance(verified, JudgeFailedError):
            notify.failure(candidate.task_id, verified)
        else:
            store.add(VERIFIED, verified_record(candidate, verified))
            outcomes[candidate.number] = verified
        notify.step("verify", len(store.verified), len(candidates))
    clock.end("verify")

    kept = [v for v in map(outcomes.get, sorted(outcomes)) if isinstance(v, Verified)]
    likes = likenesses(kept, pairs)
    problems = {verified.number: verified.candidate.problem for verified in kept}

    def same(like: Likeness) -> bool:
        return solve_each_other(problems[like.first], problems[like.second], judges)

    answers: dict[tuple[int, int], bool] = {}
    for like, answer in in_parallel(likes, same, judges.workers):
        if isinstance(answer, JudgeFailedError):
            notify.failure(problems[like.second].task_id, answer)
            failures += 1
        answers[like.first, like.second] = answer is True
    for dropped in duplicates(kept, likes, lambda like: answers[like.first, like.second]):
        outcomes[dropped.number] = dropped
    kept = [v for v in kept if isinstance(outcomes[v.number], Verified)]
    clock.end("duplicates")

    for verified in kept:
        if record := store.extended.get(verified.number):
            outcomes[verified.number] = Kept(verified, extension_of(verified, record))
    left = [v for v in kept if isinstance(outcomes[v.number], Verified)]

    def extended(verified: Verified) -> Extension:
        return extend(verified, judges, options.tests, options.seed)

    for verified, extension in in_parallel(left, extended, judges.workers):
        if isinstance(extension, JudgeFailedError):
            notify.failure(verified.candidate.task_id, extension)
        else:
            store.add(EXTENDED, extended_record(verified.number, extension))
            outcomes[verified.number] = Kept(verified, extension)
        notify.step("extend", len(store.extended), len(kept))
    clock.end("extend")
    done = [outcomes[number] for number in sorted(outcomes)]
    ended = tuple(outcome for outcome in done if isinstance(outcome, (Kept, Dropped)))
    return Cleaning(ended, len(done) - len(ended) + failures, clock.seconds)


def in_parallel(
    items: Iterable[A], work: Callable[[A], B], workers: int
) -> Iterator[tuple[A, B | JudgeFailedError]]:
    """Yield each item with what `work` made of it, as they finish.

    Work waits for the sandbox most of the time, so there are more threads than workers.
    """
    rest = iter(items)
    with ThreadPoolExecutor(THREADS * workers) as pool:
        running: dict[Future[B], A] = {}
        try:
            while True:
                for item in islice(rest, 2 * THREADS * workers - len(running)):
                    running[pool.submit(work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    try:
                        yield item, future.result()
                    except JudgeFailedError as error:
                        yield item, error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def end(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = now - self._last
        self._last = now


def decisions(cleaning: Cleaning) -> list[Record]:
    """Return a line for each record of the input: kept, repaired or dropped, and why."""
    return [_decision(outcome) for outcome in cleaning.outcomes]


def _decision(outcome: Kept | Dropped) -> Record:
    if isinstance(outcome, Dropped):
        return {
            "number": outcome.number,
            "task_id": outcome.task_id,
            "decision": "dropped",
            "reason": outcome.reason,
            "detail": outcome.detail,
        }
    candidate = outcome.verified.candidate
    return {
        "number": candidate.number,
        "task_id": candidate.task_id,
        "decision": "repaired" if candidate.repairs else "kept",
        "repairs": list(candidate.repairs),
        "tidied": list(candidate.tidied),
        **marks(outcome),
    }


def marks(kept: Kept) -> Record:
    """Return what is known about a problem: its checker, curriculum, tests and coverage."""
    problem, extension = kept.verified.candidate.problem, kept.extension
    solution = problem.canonical_solution
    given = len(starter_part(problem))
    conditionals = sum(cut >= given for cut in start_points(solution))
    before = coverage(solution, kept.verified.executed_lines)
    after = coverage(solution, extension.executed_lines)
    return {
        "checker": kept.verified.checker,
        "conditionals": conditionals,
        "stages": stage_count(conditionals),
        "tests": len(problem.tests) + extension.generated,
        "generated_tests": extension.generated,
        "statements": after.statements,
        "coverage_before": round(before.share, 4),
        "coverage": round(after.share, 4),
        "mutants": dict(zip(("run", "failed_before", "failed"), extension.mutants, strict=True)),
    }


def write(folder: Path, cleaning: Cleaning, lines: Sequence[Record]) -> None:
    """Write the problems, with a field `clean` that holds their marks, and the decisions."""
    problems = []
    for outcome, line in zip(cleaning.outcomes, lines, strict=True):
        if isinstance(outcome, Kept):
            record = outcome.verified.candidate.record
            unmarked = ("number", "task_id", "decision")
            clean_field = {key: value for key, value in line.items() if key not in unmarked}
            problems.append({**record, "tests": outcome.extension.tests, "clean": clean_field})
    replace_file(folder / PROBLEMS, _lines(problems))
    replace_file(folder / DECISIONS, _lines(lines))


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
