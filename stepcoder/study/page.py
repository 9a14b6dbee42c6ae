"""A study on one self-contained page, and as CSV: tables with intervals, learning curves, seeds.

Takes a plan and its results, gives study.html, runs.csv, curves.csv and differences.csv.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stepcoder.journal import replace_file
from stepcoder.report.charts import INK, QUIET, Chart, Figure, figure_layout
from stepcoder.report.page import chart_section, document
from stepcoder.report.progress import clock
from stepcoder.study.plan import Plan
from stepcoder.study.results import (
    MEASURES,
    Difference,
    MeanInterval,
    RunResult,
    at_tokens,
    differences,
    mean_interval,
)

PAGE = "study.html"
COLORS = ("#2563c9", "#d97d26", "#2f9468", "#b1458a", "#7a5fd0", "#a08a2c", "#4a9fb5", "#8b929d")
GRID_POINTS = 9  # of the mean learning curves


def write_page(plan: Plan, found: Sequence[RunResult], folder: Path) -> Path:
    """Write the page and the CSV files of what is done so far; returns the page's path."""
    replace_file(folder / "runs.csv", runs_csv(found))
    replace_file(folder / "curves.csv", curves_csv(found))
    replace_file(folder / "differences.csv", differences_csv(plan, found))
    replace_file(folder / PAGE, page(plan, found, folder.resolve().name))
    return folder / PAGE


def page(plan: Plan, found: Sequence[RunResult], name: str) -> str:
    """Return the page."""
    total = len(plan.seeds) * len(plan.variants)
    seeds = sorted({r.seed for r in found})
    subtitle = (
        f"{len(plan.variants)} variants, {len(seeds)} of {len(plan.seeds)} seeds, "
        f"{len(found)} of {total} runs · {sum(r.tokens for r in found):,} tokens generated in "
        f"{clock(sum(r.wall_s for r in found))} of runs"
    )
    drawn = charts(plan, found) if found else []
    body = [
        f"<header><h1>{escape(name)}</h1><p>{escape(subtitle)}</p></header>",
        f"<style>{STYLE}</style>",
        _differences_table(plan, found),
        _variants_table(plan, found),
        f"<section><h2>Plots</h2>{chart_section(drawn)}</section>" if drawn else "",
        "" if found else '<p class="empty">No run has come to its end yet.</p>',
        _plan(plan),
    ]
    return document(name, "".join(body), drawn)


def charts(plan: Plan, found: Sequence[RunResult]) -> list[Chart]:
    """Return the plots."""
    each = "Thin lines are single seeds, thick ones their means."
    return [
        Chart(
            "differences",
            f"{plan.against} minus the others: test pass@1",
            "Dots are seeds; the bar is the mean's 95% interval. Across 0: no difference seen.",
            forest(differences(plan, found, "test_end")),
        ),
        Chart("curves", "Learning curves", f"Validation pass@1 by tokens. {each}", curves(found)),
        Chart(
            "ends",
            "Test pass@1 at the end, seed by seed",
            "A line joins the runs of one seed, which have the same start.",
            ends(plan, found),
        ),
        Chart(
            "gains",
            "Gain over the start",
            "Test pass@1 at the end less that of the seed's start; mean and 95% interval.",
            gains(plan, found),
        ),
    ]


def forest(pairs: Sequence[Difference]) -> Figure:
    """Return the differences: seeds as dots, means with their intervals."""
    data: list[Figure] = []
    names = [pair.minus for pair in pairs]
    for pair in pairs:
        values = list(pair.by_seed.values())
        data.append(
            _points(values, [pair.minus] * len(values), "#b9cdf0", 9)
            | {"text": [f"seed {seed}" for seed in pair.by_seed]}
        )
    means = [pair.interval for pair in pairs]
    bars = {"type": "data", "array": [_finite(m.half_width) for m in means], "thickness": 2.5}
    data.append(
        _points([m.mean for m in means], names, COLORS[0], 12)
        | {"error_x": bars | {"color": COLORS[0], "width": 7}}
    )
    zero = {"color": INK, "width": 1, "dash": "dot"}
    line: Figure = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    figure = figure_layout(hovermode="closest", shapes=[line | {"line": zero}])
    figure["margin"] |= {"l": 110}
    figure["xaxis"] |= {"tickformat": "+.0%", "zeroline": False, "showgrid": True}
    figure["xaxis"]["title"]["text"] = "difference in pass@1"
    figure["yaxis"] |= {"autorange": "reversed", "type": "category"}
    return {"data": data, "layout": figure}


def curves(found: Sequence[RunResult]) -> Figure:
    """Return every run's curve, and the means over seeds on a common grid of tokens."""
    data: list[Figure] = []
    for i, (variant, runs) in enumerate(_by_variant(found).items()):
        color = COLORS[i % len(COLORS)]
        for run in runs:
            x, y = zip(*run.curve, strict=True)
            data.append(_line(x, y, color, 1, variant) | {"opacity": 0.3, "showlegend": False})
        end = min(run.curve[-1][0] for run in runs)
        grid = [end * j / (GRID_POINTS - 1) for j in range(GRID_POINTS)]
        values = [[at_tokens(run.curve, tokens) for run in runs] for tokens in grid]
        means = [sum(v for v in at if v is not None) / len(at) for at in values]
        data.append(_line(grid, means, color, 3, variant))
    figure = figure_layout(hovermode="closest", showlegend=True)
    figure["xaxis"]["title"]["text"] = "tokens generated"
    figure["xaxis"] |= {"tickformat": "~s"}
    figure["yaxis"] |= {"tickformat": ".0%"}
    return {"data": data, "layout": figure}


def ends(plan: Plan, found: Sequence[RunResult]) -> Figure:
    """Return the runs' ends by variant, joined by seed."""
    data = []
    for i, seed in enumerate(plan.seeds):
        runs = {r.variant: r.test_end for r in found if r.seed == seed}
        names = [v for v in plan.variants if v in runs]
        trace = _line(names, [runs[v] for v in names], COLORS[i % len(COLORS)], 1.5, f"seed {seed}")
        data.append(trace | {"mode": "lines+markers", "marker": {"size": 8}})
    figure = figure_layout(hovermode="closest", showlegend=True)
    figure["xaxis"] |= {"title": {"text": ""}, "type": "category"}
    figure["yaxis"] |= {"tickformat": ".0%"}
    return {"data": data, "layout": figure}


def gains(plan: Plan, found: Sequence[RunResult]) -> Figure:
    """Return the gains over the start as bars."""
    grouped = _by_variant(found)
    means = {v: mean_interval([r.test_end - r.test_start for r in grouped[v]]) for v in grouped}
    names = [v for v in plan.variants if v in means]
    bars = {"type": "data", "array": [_finite(means[v].half_width) for v in names], "color": INK}
    colors = [COLORS[i % len(COLORS)] for i in range(len(names))]
    trace = {"type": "bar", "x": names, "y": [means[v].mean for v in names], "error_y": bars}
    trace |= {"marker": {"color": colors}, "hovertemplate": "%{x}: %{y:+.1%}<extra></extra>"}
    figure = figure_layout(hovermode="closest", bargap=0.45)
    figure["xaxis"] |= {"title": {"text": ""}, "type": "category"}
    figure["yaxis"] |= {"tickformat": "+.0%"}
    return {"data": [trace], "layout": figure}


def runs_csv(found: Sequence[RunResult]) -> str:
    """Return a row for each run."""
    head = ("variant", "seed", "steps", "tokens", "wall_s", "test_start", "test_end")
    rows = (
        (
            *(r.variant, r.seed, r.steps, r.tokens, round(r.wall_s, 1)),
            *(r.test_start, r.test_end, r.validation_end, r.validation_mean),
        )
        for r in found
    )
    return _csv((*head, "validation_end", "validation_mean"), rows)


def curves_csv(found: Sequence[RunResult]) -> str:
    """Return a row for each point of each learning curve."""
    head = ("variant", "seed", "tokens", "validation")
    return _csv(head, ((r.variant, r.seed, *point) for r in found for point in r.curve))


def differences_csv(plan: Plan, found: Sequence[RunResult]) -> str:
    """Return a row for each measure and pair of variants."""
    head = ("measure", "variant", "minus", "seeds", "mean", "low", "high")

    def row(pair: Difference) -> Sequence[Any]:
        mean = pair.interval
        return (
            *(pair.measure, pair.variant, pair.minus, mean.count),
            *(mean.mean, _finite(mean.low), _finite(mean.high)),
        )

    return _csv(head, (row(p) for measure in MEASURES for p in differences(plan, found, measure)))


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def _differences_table(plan: Plan, found: Sequence[RunResult]) -> str:
    """Return the paired differences: a row for each pair, a column for each measure."""
    columns = {m: {p.minus: p for p in differences(plan, found, m)} for m in MEASURES}
    others = list(columns["test_end"])
    if not others:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for title in MEASURES.values())
    rows = [
        f"<tr><th>{escape(plan.against)} − {escape(other)}</th>"
        + "".join(_difference(columns[m][other]) for m in MEASURES)
        + "</tr>"
        for other in others
    ]
    return (
        "<section><h2>Paired differences</h2><p>In points, mean over seeds with its 95% interval "
        "(Student's t); within a seed both runs have the same start, problems and budget of "
        "tokens. <b>Bold</b>: the interval leaves out 0. Several pairs are looked at, so one bold "
        f'cell in twenty is chance.</p><table class="study"><tr><th></th>{head}</tr>'
        f"{''.join(rows)}</table></section>"
    )


def _plan(plan: Plan) -> str:
    """Return the options of the runs, folded away."""
    parts = {"all runs": plan.base, "starts": plan.start, "compared runs": plan.options}
    parts |= plan.variants
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>"
        f"{escape(', '.join(f'{k}={v}' for k, v in options.items())) or 'as they are'}</td></tr>"
        for name, options in parts.items()
    )
    return f'<details><summary>Options</summary><table class="study">{rows}</table></details>'


def _difference(pair: Difference) -> str:
    mean = pair.interval
    apart = mean.low > 0 or mean.high < 0
    text = f"{100 * mean.mean:+.1f} {_bounds(mean)}"
    wins = sum(value > 0 for value in pair.by_seed.values())
    note = f"<small>above 0 in {wins} of {mean.count} seeds</small>"
    return f"<td>{f'<b>{text}</b>' if apart else text}<br>{note}</td>"


def _bounds(mean: MeanInterval) -> str:
    if math.isinf(mean.half_width):
        return "[one seed]"
    return f"[{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]"


def _variants_table(plan: Plan, found: Sequence[RunResult]) -> str:
    """Return what each variant reached."""
    grouped = _by_variant(found)
    rows = []
    for variant in plan.variants:
        runs = grouped.get(variant, [])
        if not runs:
            continue
        start, end = (
            mean_interval([getattr(r, m) for r in runs]) for m in ("test_start", "test_end")
        )
        held = mean_interval([r.validation_end for r in runs])
        steps = sum(r.steps for r in runs) / len(runs)
        tokens = sum(r.tokens for r in runs) / len(runs)
        rows.append(
            f"<tr><th>{escape(variant)}</th><td>{len(runs)}</td><td>{start.mean:.1%}</td>"
            f"<td>{end.mean:.1%} {_spread(end)}</td><td>{held.mean:.1%} {_spread(held)}</td>"
            f"<td>{steps:.1f}</td><td>{tokens:,.0f}</td></tr>"
        )
    if not rows:
        return ""
    titles = ["", "seeds", "test at the start", "test at the end", "validation at the end"]
    head = "".join(f"<th>{title}</th>" for title in (*titles, "steps", "tokens"))
    return (
        "<section><h2>Variants</h2><p>Means over seeds; ± is half of the 95% interval.</p>"
        f'<table class="study"><tr>{head}</tr>{"".join(rows)}</table></section>'
    )


def _spread(mean: MeanInterval) -> str:
    return "" if math.isinf(mean.half_width) else f"± {100 * mean.half_width:.1f}"


def _by_variant(found: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    grouped: dict[str, list[RunResult]] = {}
    for one in found:
        grouped.setdefault(one.variant, []).append(one)
    return grouped


def _line(x: Sequence[Any], y: Sequence[Any], color: str, width: float, name: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"color": color, "width": width},
        "hovertemplate": "%{y:.1%}",
    }


def _points(x: Sequence[float], y: Sequence[str], color: str, size: int) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "marker": {"color": color, "size": size},
        "hovertemplate": "%{text} %{x:+.1%}<extra></extra>",
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


STYLE = f"""
table.study {{ width: auto; margin: 12px 0 0; }}
table.study th, table.study td {{ padding: 7px 28px 7px 0; width: auto; font-size: 14px; }}
table.study td {{ font-family: inherit; font-variant-numeric: tabular-nums; }}
table.study tr:first-child th {{ color: {QUIET}; border-top: 0; }}
table.study tr th:first-child {{ color: {INK}; font-weight: 600; }}
table.study small {{ color: {QUIET}; }}
section > p {{ max-width: 820px; color: {QUIET}; margin: 4px 0; }}
"""
