"""The figures of a refinement: pass@1 by round and by tokens, what it cost, what became of answers.

Takes the records of rounds.jsonl; a problem keeps its last answer in later rounds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from stepcoder.evaluate.passk import Estimate, estimate
from stepcoder.evaluate.results import figure, markdown_of, table_of
from stepcoder.journal import Record

COSTS = ("tokens", "prompt_tokens", "runs")


@dataclass(frozen=True, slots=True)
class Curve:
    """One method: its answers by problem, and what they come to.

    `by_tokens` has (tokens a problem, share that passes by then); `transitions` counts (first,
    last) outcome; `bugs` has of each kind (round, answers).
    """

    by_task: dict[str, list[Record]]
    by_round: list[Estimate]
    by_tokens: list[tuple[int, float]]
    costs: dict[str, float]
    transitions: Counter[tuple[str, str]]
    bugs: dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Refinement:
    """Curves by name, the method first; `gain` is its pass@1 less that of resampling.

    `problems` were asked for, `shown` of them show a test; `cut_short` ended at a prompt that was
    too long.
    """

    curves: dict[str, Curve]
    gain: Estimate | None
    problems: int
    shown: int
    cut_short: int


def refinement_of(rounds: Sequence[Record], problems: int, shown: int) -> Refinement:
    """Return the figures of at least one method."""
    curves = {}
    for name in dict.fromkeys(record["method"] for record in rounds):
        by_task: dict[str, list[Record]] = {}
        for record in rounds:
            if record["method"] == name:
                by_task.setdefault(record["task_id"], []).append(record)
        curves[name] = _curve(by_task)
    first, *others = curves.values()
    cut_short = sum(records[0]["cut_short"] for records in first.by_task.values())
    return Refinement(
        curves, _gain(first, others[0]) if others else None, problems, shown, cut_short
    )


def _curve(by_task: dict[str, list[Record]]) -> Curve:
    answers = list(by_task.values())
    last = [records[-1] for records in answers]
    count = max(map(len, answers))
    at = [[records[min(n, len(records) - 1)] for records in answers] for n in range(count)]
    spends = sorted({r["tokens"] for records in answers for r in records})
    kinds = sorted({r["bug"] for records in at for r in records if r["bug"]})
    return Curve(
        by_task,
        [_pass_at_1(records) for records in at],
        [(t, _share_by(answers, t)) for t in spends],
        {name: sum(r[name] for r in last) / len(last) for name in COSTS},
        Counter((records[0]["status"], records[-1]["status"]) for records in answers),
        {kind: [(n, sum(r["bug"] == kind for r in at[n])) for n in range(count)] for kind in kinds},
    )


def _pass_at_1(records: Sequence[Record]) -> Estimate:
    found = estimate([(1, int(record["passed"])) for record in records], 1)
    assert found is not None
    return found


def _share_by(answers: Sequence[Sequence[Record]], tokens: int) -> float:
    """Return the share of problems whose last answer within so many tokens passes."""
    latest = [[r["passed"] for r in records if r["tokens"] <= tokens][-1:] for records in answers]
    return sum(sum(one) for one in latest) / len(answers)


def _gain(one: Curve, other: Curve) -> Estimate | None:
    """Return the mean difference in passing, paired by problem, with its bootstrap interval."""
    shared = one.by_task.keys() & other.by_task.keys()
    ends = [[c.by_task[name][-1]["passed"] for c in (one, other)] for name in sorted(shared)]
    # From -1..1 to a share of 2, which is what `estimate` draws from.
    found = estimate([(2, 1 + mine - plain) for mine, plain in ends], 1)
    if found is None:
        return None
    return Estimate(2 * found.value - 1, 2 * found.low - 1, 2 * found.high - 1, found.of)


def samples(rounds: Sequence[Record], method: str) -> str:
    """Return a method's last answers as lines of a file of samples."""
    last = {r["task_id"]: r["solution"] for r in rounds if r["method"] == method}
    lines = [{"task_id": task_id, "solution": solution} for task_id, solution in last.items()]
    return "".join(json.dumps(line) + "\n" for line in lines)


def cells(found: Refinement) -> list[list[str]]:
    """Return the table as text: a header, then a line for each method."""
    costs = ("tokens a problem", "read", "runs")
    lines = [["method", "problems", "first pass@1", "pass@1 (95%)", *costs]]
    for name, curve in found.curves.items():
        first, last = curve.by_round[0], curve.by_round[-1]
        interval = figure(last)
        spent = (f"{curve.costs[cost]:,.1f}" for cost in COSTS)
        lines.append([name, str(last.of), f"{first.value:.1%}", interval, *spent])
    return lines


def gain_text(found: Refinement) -> str:
    """Return the difference to resampling in words, "" without one."""
    gain = found.gain
    if gain is None:
        return ""
    points, low, high = (100 * x for x in (gain.value, gain.low, gain.high))
    return f"{points:+.1f} points against resampling (95%: {low:+.1f} to {high:+.1f})"


def to_table(found: Refinement) -> Table:
    """Return the table for a terminal."""
    return table_of(cells(found), gain_text(found) or None)


def to_markdown(found: Refinement) -> str:
    """Return the table in Markdown."""
    return f"{markdown_of(cells(found))}\n{gain_text(found)}\n"


def to_json(found: Refinement) -> str:
    """Return the figures as JSON."""
    curves = {
        name: {
            "problems": len(curve.by_task),
            "by_round": [asdict(one) for one in curve.by_round],
            "by_tokens": curve.by_tokens,
            "costs": curve.costs,
            "transitions": [[*pair, count] for pair, count in curve.transitions.items()],
            "bugs": curve.bugs,
        }
        for name, curve in found.curves.items()
    }
    gain = found.gain and asdict(found.gain)
    facts = {"problems": found.problems, "show_tests": found.shown, "cut_short": found.cut_short}
    return json.dumps({"gain": gain, **facts, "methods": curves}, indent=1) + "\n"
