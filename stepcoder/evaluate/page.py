"""The page of an evaluation: pass@k, charts and the first failure of each problem.

Takes an Evaluation and the settings, gives a self-contained HTML page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepcoder.evaluate.passk import Estimate
from stepcoder.evaluate.results import Evaluation, cells
from stepcoder.report.charts import VERDICTS, Chart, Figure
from stepcoder.report.html import page

FAILURES_SHOWN = 200
BINS = 10  # of the problems by share of passing programs


def render(title: str, result: Evaluation, settings: Mapping[str, Any]) -> str:
    """Return the page; failures come in the order of how few programs pass."""
    row = result.rows[0]
    failed = [problem for problem in result.problems if problem["first_failure"]]
    return page(
        "evaluate.html",
        title,
        f"{row.problems:,} problems, {row.samples:,} programs",
        charts(result),
        result=result,
        cards=[
            (f"pass@{k}", f"{e.value:.1%}", f"95%: {100 * e.low:.1f} to {100 * e.high:.1f}")
            for k, e in row.pass_at.items()
        ],
        table=cells(result),
        failed=sorted(failed, key=lambda problem: problem["passed"] / problem["samples"]),
        shown=FAILURES_SHOWN,
        settings=settings,
    )


def charts(result: Evaluation) -> list[Chart]:
    """Return the charts; one without data has no figure."""
    return [
        Chart("pass-at-k", _pass_at_k(result)),
        Chart("groups", _groups(result)),
        Chart("verdicts", _verdicts(result)),
        Chart("problems", _shares(result)),
    ]


def _pass_at_k(result: Evaluation) -> Figure:
    found = result.rows[0].pass_at
    trace = _estimates([str(k) for k in found], list(found.values()))
    layout = {"x": {"title": "k"}, "y": {"format": ".0%", "range": [0, 1.03]}, "hover": ".1%"}
    return {"data": [{**trace, "type": "line", "color": "line", "size": 4}], "layout": layout}


def _groups(result: Evaluation) -> Figure:
    k = result.ks[0]
    rows = [row for row in result.rows[1:] if k in row.pass_at]
    if not rows:
        return {}
    names = [row.group.partition(" ")[2] for row in rows]
    trace = _estimates(names, [row.pass_at[k] for row in rows])
    layout = {"y": {"format": ".0%", "range": [0, 1.03]}, "hover": ".1%"}
    return {"data": [{**trace, "type": "bar", "color": "pale"}], "layout": layout}


def _estimates(names: Sequence[str], estimates: Sequence[Estimate]) -> Figure:
    """Return a trace of estimates with their intervals."""
    return {
        "x": names,
        "y": [e.value for e in estimates],
        "low": [e.low for e in estimates],
        "high": [e.high for e in estimates],
    }


def _verdicts(result: Evaluation) -> Figure:
    counts = result.rows[0].statuses
    names = [name for name in VERDICTS if name in counts]
    trace = {
        "type": "bar",
        "x": names,
        "y": [counts[name] for name in names],
        "labels": [f"{counts[name] / sum(counts.values()):.1%}" for name in names],
        "color": names,
    }
    return {"data": [trace], "layout": {"y": {"format": ",d"}, "unit": " programs"}}


def _shares(result: Evaluation) -> Figure:
    most = max((p["samples"] for p in result.problems), default=0)
    if most < 2:
        return {}
    bins = min(most, BINS)
    counts = [0] * (bins + 1)
    for problem in result.problems:
        counts[round(bins * problem["passed"] / problem["samples"])] += 1
    names = [f"{place / bins:.0%}" for place in range(bins + 1)]
    layout = {
        "x": {"title": "share of programs that pass"},
        "y": {"format": ",d"},
        "unit": " problems",
    }
    return {
        "data": [{"type": "bar", "x": names, "y": counts, "color": "line"}],
        "layout": layout,
    }
