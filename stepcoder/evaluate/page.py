"""The page of an evaluation: figures, plots and the tests that failed, self-contained.

Takes an Evaluation and the settings, gives HTML in the manner of a run's report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from plotly.offline.offline import get_plotlyjs

from stepcoder.evaluate.results import Evaluation, cells
from stepcoder.journal import Record
from stepcoder.report.charts import GRID, INK, LINE, PALE, QUIET, VERDICTS, Chart, Figure
from stepcoder.report.page import SCRIPT, STYLE

FAILURES_SHOWN = 200


def render(title: str, result: Evaluation, settings: Mapping[str, Any]) -> str:
    """Return the page."""
    drawn = [chart for chart in charts(result) if chart.figure]
    data = json.dumps({chart.name: chart.figure for chart in drawn}).replace("</", "<\\/")
    row = result.rows[0]
    cards = "".join(
        f"<div><h2>pass@{k}</h2><b>{e.value:.1%}</b>"
        f"<p>95%: {100 * e.low:.1f} to {100 * e.high:.1f}</p></div>"
        for k, e in row.pass_at.items()
    )
    figures = "".join(
        f"<figure><h2>{escape(c.title)}</h2><p>{escape(c.note)}</p>"
        f'<div class="plot" id="{c.name}"></div></figure>'
        for c in drawn
    )
    plotly: str = get_plotlyjs()  # type: ignore[no-untyped-call]
    subtitle = f"{row.problems:,} problems, {row.samples:,} programs"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><title>{escape(title)} · StepCoder</title>\n'
        f"<style>{STYLE}{MORE}</style></head>\n<body><main>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"
        f'<section class="figures">{cards}</section>'
        f'<section class="charts">{figures}</section>{_table(result)}{_failures(result)}'
        f"{_settings(settings)}</main>\n"
        f"<script>{plotly}</script>\n<script>const FIGURES = {data};\n{SCRIPT}</script>\n"
        "</body></html>\n"
    )


MORE = """
.wide th { width: auto; } .wide td { text-align: right; } .wide { width: auto; }
.wide th, .wide td { padding-right: 28px; white-space: nowrap; }
.failure { margin-top: 0; } .failure summary { font-size: 14px; font-weight: 500; }
.failure pre { font: 12px/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def charts(result: Evaluation) -> list[Chart]:
    """Return the plots."""
    return [
        Chart(
            "pass-at-k",
            "pass@k",
            "Chance that one of k programs passes every test, with its 95% interval over problems.",
            _pass_at_k(result),
        ),
        Chart(
            "groups",
            f"pass@{result.ks[0]} by group",
            "Where the problems come in several difficulties or splits.",
            _groups(result),
        ),
        Chart(
            "verdicts",
            "Verdicts",
            "How the programs ended.",
            _bars(result.rows[0].statuses, "programs"),
        ),
        Chart(
            "problems",
            "Problems by share of passing programs",
            "Problems at the left were never solved, those at the right always.",
            _shares(result),
        ),
    ]


def _pass_at_k(result: Evaluation) -> Figure:
    found = result.rows[0].pass_at
    values = list(found.values())
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [str(k) for k in found],
        "y": [e.value for e in values],
        "line": {"color": LINE, "width": 2.5},
        "marker": {"color": LINE, "size": 8},
        "error_y": _error(values),
        "hovertemplate": "%{y:.1%}",
    }
    axis = {"tickformat": ".0%", "range": [0, 1.03]}
    return {"data": [trace], "layout": _layout("k", axis)}


def _error(values: list[Any]) -> Figure:
    return {
        "type": "data",
        "symmetric": False,
        "array": [e.high - e.value for e in values],
        "arrayminus": [e.value - e.low for e in values],
        "color": QUIET,
        "thickness": 1.2,
    }


def _groups(result: Evaluation) -> Figure:
    k = result.ks[0]
    rows = [row for row in result.rows[1:] if k in row.pass_at]
    if not rows:
        return {}
    values = [row.pass_at[k] for row in rows]
    trace = {
        "type": "bar",
        "x": [row.group.partition(" ")[2] for row in rows],
        "y": [e.value for e in values],
        "marker": {"color": PALE},
        "error_y": _error(values),
        "hovertemplate": "%{y:.1%}",
    }
    return {"data": [trace], "layout": _layout("", {"tickformat": ".0%", "range": [0, 1.03]})}


def _bars(counts: Mapping[str, int], title: str) -> Figure:
    names = [name for name in VERDICTS if name in counts]
    trace = {
        "type": "bar",
        "x": names,
        "y": [counts[name] for name in names],
        "text": [f"{counts[name] / sum(counts.values()):.1%}" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [VERDICTS[name] for name in names]},
        "hovertemplate": "%{y:,} " + title,
    }
    return {"data": [trace], "layout": _layout("", {"rangemode": "tozero"})}


def _shares(result: Evaluation) -> Figure:
    most = max((p["samples"] for p in result.problems), default=0)
    if most < 2:
        return {}
    bins = min(most, 10)
    counts = [0] * (bins + 1)
    for problem in result.problems:
        counts[round(bins * problem["passed"] / problem["samples"])] += 1
    trace = {
        "type": "bar",
        "x": [f"{place / bins:.0%}" for place in range(bins + 1)],
        "y": counts,
        "marker": {"color": LINE},
        "hovertemplate": "%{y:,} problems",
    }
    layout = _layout("share of programs that pass", {"rangemode": "tozero"})
    return {"data": [trace], "layout": layout}


def _layout(title: str, yaxis: Figure) -> Figure:
    quiet: Figure = {"gridcolor": GRID, "tickfont": {"color": QUIET}, "zeroline": False}
    label = {"title": {"text": title, "font": {"color": QUIET}, "standoff": 4}}
    return {
        "height": 250,
        "margin": {"l": 46, "r": 20, "t": 22, "b": 44},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "xaxis": {"type": "category", "showgrid": False, "tickfont": {"color": QUIET}, **label},
        "yaxis": {**quiet, **yaxis},
    }


def _table(result: Evaluation) -> str:
    header, *lines = cells(result)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(line[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:])
        + "</tr>"
        for line in lines
    )
    return f'<section><h2>Table</h2><table class="wide"><tr>{head}</tr>{body}</table></section>'


def _failures(result: Evaluation) -> str:
    """Return the first failure of each problem that has one, hardest problems first."""
    failed = [p for p in result.problems if p["first_failure"]]
    if not failed:
        return ""
    failed.sort(key=lambda p: p["passed"] / p["samples"])
    shown = "".join(map(_failure, failed[:FAILURES_SHOWN]))
    more = f" (the first {FAILURES_SHOWN} of {len(failed):,})" if failed[FAILURES_SHOWN:] else ""
    return f"<section><h2>First failures{more}</h2>{shown}</section>"


def _failure(problem: Record) -> str:
    record = problem["first_failure"]
    test = record.get("failing_test") or {}
    lines = [f"sample {record['sample']}: {record['status']}: {record['message']}"]
    lines += [f"{name}: {value}" for name, value in test.items() if value not in (None, "")]
    title = f"{problem['task_id']}: {problem['passed']} of {problem['samples']} pass"
    return (
        f'<details class="failure"><summary>{escape(title)} · {escape(record["status"])}</summary>'
        f"<pre>{escape(chr(10).join(lines))}</pre><pre>{escape(record['program'])}</pre></details>"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(json.dumps(value))}</td></tr>"
        for key, value in settings.items()
    )
    return f"<details><summary>Settings</summary><table>{rows}</table></details>"
