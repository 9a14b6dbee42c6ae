"""The figures of an evaluation: pass@k of all problems, of groups of them, and of each problem.

Takes problems and the records of verdicts; gives the figures, and writes them as a table for a
terminal, Markdown, CSV and JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Column, Table

from stepcoder.evaluate.passk import Estimate, estimate, pass_at_k
from stepcoder.evaluate.records import Key
from stepcoder.journal import Record, csv_text
from stepcoder.problems.problem import Problem

ORDER = ("introductory", "easy", "interview", "medium", "competition", "hard")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of an evaluation, all of them as records.

    `groups` begins with "all"; a record has the numbers of problems and samples, the statuses, and
    under "pass@1" and so on an Estimate for each of `ks` that the group has samples for. `problems`
    has a record of each problem.
    """

    ks: tuple[int, ...]
    groups: dict[str, Record]
    problems: list[Record]


def evaluation_of(
    problems: Sequence[Problem], verdicts: Mapping[Key, Record], ks: Sequence[int]
) -> Evaluation:
    """Return the figures. Problems without a judged sample are left out."""
    by_task: dict[str, list[Record]] = {}
    for (task_id, _), record in sorted(verdicts.items()):
        by_task.setdefault(task_id, []).append(record)
    judged = [p for p in problems if p.task_id in by_task]
    members = {"all": judged}
    for kind in ("difficulty", "split"):
        names = sorted({getattr(p, kind) for p in judged}, key=_rank)
        if len(names) > 1:
            for name in names:
                members[f"{kind} {name}"] = [p for p in judged if getattr(p, kind) == name]
    groups = {
        name: _group([by_task[problem.task_id] for problem in chosen], ks)
        for name, chosen in members.items()
    }
    shown = tuple(k for k in ks if f"pass@{k}" in groups["all"])
    return Evaluation(shown, groups, [_problem(p, by_task[p.task_id], shown) for p in judged])


def _rank(name: str) -> tuple[int, str]:
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def _group(members: Sequence[Sequence[Record]], ks: Sequence[int]) -> Record:
    counts = [(len(records), sum(r["passed"] for r in records)) for records in members]
    return {
        "problems": len(members),
        "samples": sum(n for n, _ in counts),
        "statuses": Counter(r["status"] for records in members for r in records),
        # Folders of older versions have no kinds of bugs.
        "bugs": Counter(r["bug"] for records in members for r in records if r.get("bug")),
        **{f"pass@{k}": found for k in ks if (found := estimate(counts, k)) is not None},
    }


def _problem(problem: Problem, records: Sequence[Record], ks: Sequence[int]) -> Record:
    n, passed = len(records), sum(r["passed"] for r in records)
    return {
        "task_id": problem.task_id,
        "difficulty": problem.difficulty,
        "split": problem.split,
        "samples": n,
        "passed": passed,
        **{f"pass@{k}": pass_at_k(n, passed, k) for k in ks if k <= n},
        "statuses": Counter(r["status"] for r in records),
        "first_failure": next((r for r in records if not r["passed"]), None),
    }


def cells(evaluation: Evaluation) -> list[list[str]]:
    """Return the table as text: a header, then a line for each group."""
    lines = [["problems of", "problems", "samples", *(f"pass@{k} (95%)" for k in evaluation.ks)]]
    for name, group in evaluation.groups.items():
        figures = [figure(group.get(f"pass@{k}")) for k in evaluation.ks]
        lines.append([name, str(group["problems"]), str(group["samples"]), *figures])
    return lines


def figure(found: Estimate | None) -> str:
    """Return an estimate with its interval in words."""
    if found is None:
        return "-"
    return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def to_table(evaluation: Evaluation) -> Table:
    """Return the table for a terminal."""
    return table_of(cells(evaluation))


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table in Markdown."""
    return markdown_of(cells(evaluation))


def table_of(cells: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    """Return lines of cells, the first of which are titles, as a table for a terminal."""
    (first, *others), *lines = cells
    columns = (Column(title, justify="right", no_wrap=True) for title in others)
    table = Table(Column(first, no_wrap=True), *columns, box=None, pad_edge=False, caption=caption)
    for line in lines:
        table.add_row(*line)
    return table


def markdown_of(cells: Sequence[Sequence[str]]) -> str:
    """Return such lines as a table in Markdown."""
    header, *lines = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def to_json(evaluation: Evaluation) -> str:
    """Return the groups as JSON."""
    return json.dumps(evaluation.groups, indent=1, default=asdict) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """Return the figures as CSV, one line a group and k."""
    rows = []
    for name, group in evaluation.groups.items():
        for k in evaluation.ks:
            if found := group.get(f"pass@{k}"):
                figures = (f"{x:.6f}" for x in (found.value, found.low, found.high))
                rows.append((name, found.of, group["samples"], k, *figures))
    return csv_text(("group", "problems", "samples", "k", "pass_at_k", "low", "high"), rows)
