"""The page of an evaluation: pass@k, charts and the first failure of each problem.

Takes an Evaluation and the settings, gives a self-contained HTML page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stepcoder.evaluate.passk import Estimate
from stepcoder.evaluate.results import Evaluation, cells
from stepcoder.report.charts import VERDICTS, Chart, Figure
from stepcoder.report.html import page
from stepcoder.taxonomy import KINDS, UNDECIDED

FAILURES_SHOWN = 200
BINS = 10  # of the problems by share of passing programs


def render(title: str, result: Evaluation, settings: Mapping[str, Any]) -> str:
    """Return the page; failures come in the order of how few programs pass."""
    everything = result.groups["all"]
    failed = [problem for problem in result.problems if problem["first_failure"]]
    return page(
        "evaluate.html",
        title,
        f"{everything['problems']:,} problems, {everything['samples']:,} programs",
        charts(result),
        result=result,
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
        Chart("bugs", _bugs(result)),
        Chart("problems", _shares(result)),
    ]


def _pass_at_k(result: Evaluation) -> Figure:
    found = {str(k): result.groups["all"][f"pass@{k}"] for k in result.ks}
    figure = _estimates(found, type="line", color="line", size=4)
    figure["layout"]["x"] = {"title": "k"}
    return figure


def _groups(result: Evaluation) -> Figure:
    key = f"pass@{result.ks[0]}"
    _, *groups = result.groups.items()
    found = {name.partition(" ")[2]: group[key] for name, group in groups if key in group}
    return _estimates(found, type="bar", color="pale") if found else {}


def _estimates(found: Mapping[str, Estimate], **look: Any) -> Figure:
    """Return estimates with their intervals, by name."""
    trace = {
        "x": list(found),
        "y": [e.value for e in found.values()],
        "low": [e.low for e in found.values()],
        "high": [e.high for e in found.values()],
        **look,
    }
    layout = {"y": {"format": ".0%", "range": [0, 1.03]}, "hover": ".1%"}
    return {"data": [trace], "layout": layout}


def _verdicts(result: Evaluation) -> Figure:
    counts = result.groups["all"]["statuses"]
    names = [name for name in VERDICTS if name in counts]
    labels = [f"{counts[name] / counts.total():.1%}" for name in names]
    return _bars(names, [counts[name] for name in names], "programs", labels=labels, color=names)


def _bugs(result: Evaluation) -> Figure:
    counts = result.groups["all"]["bugs"]
    names = [name for name in (*KINDS, UNDECIDED) if name in counts]
    labels = [f"{counts[name] / counts.total():.1%}" for name in names]
    values = [counts[name] for name in names]
    figure = _bars(names, values, "programs", labels=labels, color="pale")
    figure["layout"]["sideways"] = True
    return figure if names else {}


def _shares(result: Evaluation) -> Figure:
    bins = min(max((p["samples"] for p in result.problems), default=0), BINS)
    if bins < 2:
        return {}
    counts = Counter(round(bins * p["passed"] / p["samples"]) for p in result.problems)
    names = [f"{place / bins:.0%}" for place in range(bins + 1)]
    figure = _bars(names, [counts[place] for place in range(bins + 1)], "problems", color="line")
    figure["layout"]["x"] = {"title": "share of programs that pass"}
    return figure


def _bars(names: Sequence[str], counts: Sequence[int], unit: str, **look: Any) -> Figure:
    """Return bars of counts of something."""
    trace = {"type": "bar", "x": names, "y": counts, **look}
    return {"data": [trace], "layout": {"y": {"format": ",d"}, "unit": f" {unit}"}}
