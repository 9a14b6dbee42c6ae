"""The pipeline: leave out what overlaps, verify, leave out duplicates, extend, write.

Takes what reading gave and Options, leaves problems.jsonl and decisions.jsonl in a folder. Every
step decides in the order of the input, whatever order programs finish in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from stepcoder.clean.coverage import coverage, statement_spans
from stepcoder.clean.duplicates import (
    Match,
    duplicates,
    is_same_problem,
    matches,
    overlaps,
    same_statements,
    similar_statements,
)
from stepcoder.clean.extend import Cleaned, extend
from stepcoder.clean.judges import JudgeFailedError, Judges
from stepcoder.clean.outcomes import (
    EXTENDED,
    VERIFIED,
    cleaned_of,
    extended_record,
    verified_of,
    verified_record,
)
from stepcoder.clean.reasons import Dropped
from stepcoder.clean.records import Candidate
from stepcoder.clean.verify import Verified, verify
from stepcoder.command import StepProgress, say
from stepcoder.journal import Journal, Record, replace_file
from stepcoder.method.curriculum import stage_count, start_points
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import starter_part
from stepcoder.problems.source import parse

PROBLEMS, DECISIONS = "problems.jsonl", "decisions.jsonl"
THREADS = 4  # for each worker of the sandbox

Outcome = Candidate | Verified | Cleaned | Dropped
Ended = Candidate | Cleaned | Dropped  # a candidate: it has no solution, so nothing was verified


class _Named(Protocol):
    @property
    def task_id(self) -> str:
        """The name of a problem."""


A = TypeVar("A", bound=_Named)
B = TypeVar("B")
Kind = TypeVar("Kind", Candidate, Verified)


@dataclass(frozen=True, slots=True)
class Options:
    """What the results depend on, besides input and limits."""

    tests: int = 8  # as many as a problem shall have, 0 to leave them as they are
    similarity: float = 0.8  # from which on statements are the same
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cleaning:
    """The whole result, in the order of the input."""

    outcomes: tuple[Ended, ...]
    failed: int  # problems that the sandbox failed on; the same command tries them again
    seconds: Mapping[str, float]  # by step


def clean(
    records: Iterable[Candidate | Dropped],
    references: Sequence[Problem],
    options: Options,
    judges: Judges,
    journal: Journal,
    progress: StepProgress,
) -> Cleaning:
    """Run every step that the folder does not hold the results of yet."""
    outcomes: dict[int, Outcome] = {record.number: record for record in records}
    seconds: dict[str, float] = {}
    begun = time.monotonic()

    def remaining(kind: type[Kind]) -> list[Kind]:
        return [outcome for outcome in outcomes.values() if isinstance(outcome, kind)]

    def end(step: str, found: Iterable[Outcome]) -> None:
        outcomes.update({outcome.number: outcome for outcome in found})
        since = time.monotonic() - begun - sum(seconds.values())
        seconds[step] = seconds.get(step, 0.0) + since

    pairs = similar_statements(remaining(Candidate), references, options.similarity)
    end("compare", overlaps(remaining(Candidate), references, pairs))
    end("compare", same_statements(remaining(Candidate)))
    solved = [candidate for candidate in remaining(Candidate) if candidate.has_solution]
    end("verify", verify_all(solved, judges, journal, progress))
    found = matches(remaining(Verified), pairs)
    same, unknown = confirm_all(found, judges)
    end("duplicates", duplicates(same))
    end("extend", extend_all(remaining(Verified), options, judges, journal, progress))
    ended = tuple(
        o
        for o in outcomes.values()
        if isinstance(o, (Cleaned, Dropped)) or (isinstance(o, Candidate) and not o.has_solution)
    )
    return Cleaning(ended, len(outcomes) - len(ended) + unknown, seconds)


def verify_all(
    candidates: Sequence[Candidate], judges: Judges, journal: Journal, progress: StepProgress
) -> list[Verified | Dropped]:
    """Verify the candidates; those that the sandbox failed on are left out."""
    known = journal[VERIFIED]
    waiting = [c for c in candidates if c.number not in known]
    for candidate, outcome in in_parallel(waiting, lambda c: verify(c, judges), judges):
        journal.add(VERIFIED, verified_record(candidate, outcome))
        progress.step("verifying:", len(known), len(candidates))
    return [verified_of(c, known[c.number]) for c in candidates if c.number in known]


def confirm_all(found: Sequence[Match], judges: Judges) -> tuple[list[Match], int]:
    """Return the matches that are the same problem, and on how many the sandbox failed."""
    answers = {
        match.numbers: same
        for match, same in in_parallel(found, lambda m: is_same_problem(m, judges), judges)
    }
    known = [match for match in found if match.numbers in answers]
    return [match for match in known if answers[match.numbers]], len(found) - len(known)


def extend_all(
    problems: Sequence[Verified],
    options: Options,
    judges: Judges,
    journal: Journal,
    progress: StepProgress,
) -> list[Cleaned]:
    """Add tests to the problems; those that the sandbox failed on are left out."""

    def work(verified: Verified) -> Cleaned:
        return extend(verified, judges, options.tests, options.seed)

    known = journal[EXTENDED]
    waiting = [verified for verified in problems if verified.number not in known]
    for verified, cleaned in in_parallel(waiting, work, judges):
        journal.add(EXTENDED, extended_record(verified.number, cleaned))
        progress.step("more tests:", len(known), len(problems))
    return [cleaned_of(v, known[v.number]) for v in problems if v.number in known]


def in_parallel(
    items: Iterable[A], work: Callable[[A], B], judges: Judges
) -> Iterator[tuple[A, B]]:
    """Yield each item with what `work` made of it, as they finish, where the sandbox did not fail.

    Work waits for the sandbox most of the time, so there are more threads than workers.
    """
    with ThreadPoolExecutor(THREADS * judges.workers) as pool:
        running = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(running):
                item = running.pop(future)
                try:
                    result = future.result()
                except JudgeFailedError as error:
                    say(f"{item.task_id}: the sandbox failed: {error}")
                else:
                    yield item, result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def decisions(cleaning: Cleaning) -> list[Record]:
    """Return a line for each record of the input: kept, repaired, unverified or dropped."""
    return [_decision(outcome) for outcome in cleaning.outcomes]


def _decision(outcome: Ended) -> Record:
    if isinstance(outcome, Dropped):
        decision = {"decision": "dropped", "reason": outcome.reason, "detail": outcome.detail}
        return {"number": outcome.number, "task_id": outcome.task_id, **decision}
    unverified = isinstance(outcome, Candidate)
    candidate = outcome if isinstance(outcome, Candidate) else outcome.verified.candidate
    return {
        "number": candidate.number,
        "task_id": candidate.task_id,
        "decision": "unverified" if unverified else "repaired" if candidate.repairs else "kept",
        "repairs": list(candidate.repairs),
        "tidied": list(candidate.normalized),
        **({} if isinstance(outcome, Candidate) else annotations_of(outcome)),
    }


def annotations_of(cleaned: Cleaned) -> Record:
    """Return what is known about a problem: its comparison, curriculum, tests and coverage."""
    problem = cleaned.verified.problem
    given = len(starter_part(problem))
    conditionals = sum(cut >= given for cut in start_points(problem.canonical_solution))
    spans = statement_spans(parse(problem.canonical_solution))
    run, failed_before, failed = cleaned.mutants
    return {
        "checker": cleaned.verified.comparison,
        "conditionals": conditionals,
        "stages": stage_count(conditionals),
        "tests": len(problem.tests) + cleaned.generated,
        "generated_tests": cleaned.generated,
        "statements": len(spans),
        "coverage_before": round(coverage(spans, cleaned.verified.executed_lines), 4),
        "coverage": round(coverage(spans, cleaned.executed_lines), 4),
        "mutants": {"run": run, "failed_before": failed_before, "failed": failed},
    }


def write(folder: Path, cleaning: Cleaning, lines: Sequence[Record]) -> None:
    """Write the decisions, and the problems with what is known of each in a field `clean`."""
    problems = []
    for outcome, line in zip(cleaning.outcomes, lines, strict=True):
        known = {k: v for k, v in line.items() if k not in ("number", "task_id", "decision")}
        if isinstance(outcome, Cleaned):
            record = outcome.verified.candidate.record
            problems.append({**record, "tests": outcome.tests, "clean": known})
        elif isinstance(outcome, Candidate):
            problems.append({**outcome.record, "clean": {"verified": False, **known}})
    replace_file(folder / PROBLEMS, _lines(problems))
    replace_file(folder / DECISIONS, _lines(lines))


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
