"""The figures of an evaluation: pass@k of all problems, of groups of them, and of each problem.

Takes problems and the records of verdicts; gives the figures, and writes them as a table for a
terminal, Markdown, CSV and JSON.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from stepcoder.evaluate.passk import Estimate, estimate, pass_at_k
from stepcoder.evaluate.records import Key
from stepcoder.journal import Record
from stepcoder.problems.problem import Problem

ORDER = ("introductory", "easy", "interview", "medium", "competition", "hard")


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of a group of problems."""

    group: str
    problems: int
    samples: int
    pass_at: dict[int, Estimate]
    statuses: dict[str, int]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of an evaluation: rows[0] is of all problems, `problems` has a record of each."""

    ks: tuple[int, ...]
    rows: tuple[GroupFigures, ...]
    problems: tuple[Record, ...]


def evaluation_of(
    problems: Sequence[Problem], verdicts: Mapping[Key, Record], ks: Sequence[int]
) -> Evaluation:
    """Return the figures. Problems without a judged sample are left out."""
    by_task: dict[str, list[Record]] = {}
    for (task_id, _), record in sorted(verdicts.items()):
        by_task.setdefault(task_id, []).append(record)
    judged = [p for p in problems if p.task_id in by_task]
    groups = {"all": judged}
    for kind in ("difficulty", "split"):
        names = sorted({getattr(p, kind) for p in judged}, key=_rank)
        if len(names) > 1:
            for name in names:
                groups[f"{kind} {name}"] = [p for p in judged if getattr(p, kind) == name]
    rows = tuple(
        _row(name, [by_task[p.task_id] for p in members], ks) for name, members in groups.items()
    )
    shown = tuple(k for k in ks if k in rows[0].pass_at)
    return Evaluation(shown, rows, tuple(_problem(p, by_task[p.task_id], shown) for p in judged))


def _rank(name: str) -> tuple[int, str]:
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def _row(name: str, members: Sequence[Sequence[Record]], ks: Sequence[int]) -> GroupFigures:
    counts = [(len(records), sum(r["passed"] for r in records)) for records in members]
    estimates = {k: found for k in ks if (found := estimate(counts, k)) is not None}
    statuses = Counter(r["status"] for records in members for r in records)
    return GroupFigures(name, len(members), sum(n for n, _ in counts), estimates, dict(statuses))


def _problem(problem: Problem, records: Sequence[Record], ks: Sequence[int]) -> Record:
    n, passed = len(records), sum(r["passed"] for r in records)
    failed = next((r for r in records if not r["passed"]), None)
    return {
        "task_id": problem.task_id,
        "difficulty": problem.difficulty,
        "split": problem.split,
        "samples": n,
        "passed": passed,
        **{f"pass@{k}": pass_at_k(n, passed, k) for k in ks if k <= n},
        "statuses": dict(Counter(r["status"] for r in records)),
        "first_failure": failed,
    }


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the rows as JSON data."""
    return {
        row.group: {
            "problems": row.problems,
            "samples": row.samples,
            "statuses": row.statuses,
            **{
                f"pass@{k}": {"value": e.value, "low": e.low, "high": e.high, "of": e.problems}
                for k, e in row.pass_at.items()
            },
        }
        for row in evaluation.rows
    }


def cells(evaluation: Evaluation) -> list[list[str]]:
    """Return the table as text: a header, then a line for each row."""
    lines = [["problems of", "problems", "samples", *(f"pass@{k} (95%)" for k in evaluation.ks)]]
    for row in evaluation.rows:
        figures = [_figure(row.pass_at.get(k)) for k in evaluation.ks]
        lines.append([row.group, str(row.problems), str(row.samples), *figures])
    return lines


def _figure(found: Estimate | None) -> str:
    if found is None:
        return "-"
    return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def to_table(evaluation: Evaluation) -> Table:
    """Return the table for a terminal."""
    header, *lines = cells(evaluation)
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(header):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table in Markdown."""
    header, *lines = cells(evaluation)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def to_csv(evaluation: Evaluation) -> str:
    """Return the figures as CSV, one line a group and k."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["group", "problems", "samples", "k", "pass_at_k", "low", "high"])
    for row in evaluation.rows:
        for k, e in row.pass_at.items():
            figures = (f"{x:.6f}" for x in (e.value, e.low, e.high))
            writer.writerow([row.group, e.problems, row.samples, k, *figures])
    return file.getvalue()
