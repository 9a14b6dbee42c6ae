"""The page of a refinement. Takes its figures and settings, gives a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcoder.refine.results import Curve, Refinement, cells, gain_text
from stepcoder.report.charts import VERDICTS, Chart, Figure, part_color, stack, thinned
from stepcoder.report.html import page


def render(title: str, found: Refinement, settings: Mapping[str, Any]) -> str:
    """Return the page."""
    name, curve = next(iter(found.curves.items()))
    bugs = stack(curve.bugs, part_color)
    if bugs:
        bugs["layout"]["x"]["title"] = "round"
    return page(
        "refine.html",
        title,
        f"{found.problems:,} problems, of which {found.shown:,} show a test",
        [
            Chart("by-tokens", _by_tokens(found)),
            Chart("by-round", _by_round(found)),
            Chart("bugs", bugs),
        ],
        method=name,
        found=found,
        gain=gain_text(found),
        table=cells(found),
        transitions={name: _transitions(curve) for name, curve in found.curves.items()},
        settings=settings,
    )


def _by_tokens(found: Refinement) -> Figure:
    data = [
        {
            "type": "line",
            "plain": True,
            "x": thinned([tokens for tokens, _ in curve.by_tokens]),
            "y": thinned([share for _, share in curve.by_tokens]),
            "name": name,
            "color": f"variant-{i}",
        }
        for i, (name, curve) in enumerate(found.curves.items())
    ]
    layout = {"x": {"title": "tokens a problem"}, "y": {"format": ".0%", "zero": True}}
    return {"data": data, "layout": {**layout, "legend": True, "hover": ".1%"}}


def _by_round(found: Refinement) -> Figure:
    data = [
        {
            "type": "line",
            "x": list(range(len(curve.by_round))),
            "y": [one.value for one in curve.by_round],
            "low": [one.low for one in curve.by_round],
            "high": [one.high for one in curve.by_round],
            "name": name,
            "color": f"variant-{i}",
            "size": 4,
        }
        for i, (name, curve) in enumerate(found.curves.items())
    ]
    layout = {"x": {"title": "round"}, "y": {"format": ".0%", "zero": True}}
    return {"data": data, "layout": {**layout, "legend": True, "hover": ".1%"}}


def _transitions(curve: Curve) -> list[list[str]]:
    """Return a table: a row for each first outcome, a column for each last one."""
    seen = {status for pair in curve.transitions for status in pair}
    statuses = [status for status in VERDICTS if status in seen]
    rows = [
        [first, *(f"{curve.transitions[first, last]:,}" for last in statuses)] for first in statuses
    ]
    return [["first \\ last", *statuses], *rows]
