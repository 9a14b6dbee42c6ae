"""A study on one self-contained page, and as CSV: tables with intervals, learning curves, seeds.

Takes a plan and its results, gives study.html, runs.csv, curves.csv and differences.csv.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from stepcoder.journal import csv_text, replace_file
from stepcoder.report import html
from stepcoder.report.charts import Chart, Figure
from stepcoder.report.progress import clock
from stepcoder.study import results
from stepcoder.study.plan import Options, Plan
from stepcoder.study.results import (
    MEASURES,
    Difference,
    MeanInterval,
    RunResult,
    best_trial,
    mean_interval,
    trial_results,
)

PAGE = "study.html"
GRID_POINTS = 9  # of the mean learning curves
REACHED = ("test_start", "test_end", "validation_end", "steps", "tokens")  # of the variants' table
RUN_COLUMNS = (
    *("variant", "seed", "steps", "tokens", "wall_s"),
    *("test_start", "test_end", "validation_end", "validation_mean"),
)


def write_page(plan: Plan, found: Sequence[RunResult], folder: Path) -> Path:
    """Write the page and the CSV files of what is done so far; returns the page's path."""
    replace_file(folder / "runs.csv", runs_csv(found))
    replace_file(folder / "curves.csv", curves_csv(found))
    replace_file(folder / "differences.csv", differences_csv(plan, found))
    tried = trial_results(plan, folder)
    if tried:
        replace_file(folder / "trials.csv", trials_csv(plan, tried))
    replace_file(folder / PAGE, page(plan, found, tried, folder.resolve().name))
    return folder / PAGE


def page(
    plan: Plan, found: Sequence[RunResult], tried: Mapping[str, Sequence[RunResult]], name: str
) -> str:
    """Return the page."""
    total = len(plan.seeds) * len(plan.variants)
    seeds = sorted({r.seed for r in found})
    columns = [{p.minus: p for p in results.differences(plan, found, m)} for m in MEASURES]
    return html.page(
        "study.html",
        name,
        f"{len(plan.variants)} variants, {len(seeds)} of {len(plan.seeds)} seeds, "
        f"{len(found)} of {total} runs · {sum(r.tokens for r in found):,} tokens generated in "
        f"{clock(sum(r.wall_s for r in found))} of runs",
        charts(plan, found) if found else [],
        plan=plan,
        measures=list(MEASURES.values()),
        pairs={other: [column[other] for column in columns] for other in columns[0]},
        variants={
            variant: {reached: _mean(runs, reached) for reached in REACHED}
            for variant, runs in _by_variant(plan, found).items()
        },
        trials={variant: (runs, best_trial(runs)) for variant, runs in tried.items()},
        settings=[_said(setting) for setting in plan.trials.settings] if plan.trials else [],
        parts={"all runs": plan.base, "starts": plan.start, "compared runs": plan.options}
        | dict(plan.variants),
    )


def charts(plan: Plan, found: Sequence[RunResult]) -> list[Chart]:
    """Return the charts."""
    return [
        Chart("differences", forest(results.differences(plan, found, "test_end"))),
        Chart("curves", curves(plan, found)),
        Chart("ends", ends(plan, found)),
        Chart("gains", gains(plan, found)),
    ]


def forest(pairs: Sequence[Difference]) -> Figure:
    """Return the differences: seeds as dots, means with their intervals."""
    seeds: list[Figure] = [
        {
            "type": "dots",
            "x": [pair.minus] * len(pair.by_seed),
            "y": list(pair.by_seed.values()),
            "points": [f"seed {seed}" for seed in pair.by_seed],
            "color": "pale",
            "size": 4.5,
        }
        for pair in pairs
    ]
    means = _means([pair.minus for pair in pairs], [pair.interval for pair in pairs])
    means |= {"type": "dots", "name": "mean", "color": "line", "size": 6}
    axis = {"title": "difference in pass@1", "format": "+.0%"}
    layout = {"y": axis, "hover": "+.1%", "sideways": True, "shapes": [{"y0": 0}]}
    return {"data": [*seeds, means], "layout": layout}


def curves(plan: Plan, found: Sequence[RunResult]) -> Figure:
    """Return every run's curve, and the means over seeds on a common grid of tokens."""
    data: list[Figure] = []
    for i, (variant, runs) in enumerate(_by_variant(plan, found).items()):
        look = {"type": "line", "plain": True, "name": variant, "color": _color(i)}
        for run in runs:
            x, y = zip(*run.curve, strict=True)
            points = [f"{variant}, seed {run.seed}"] * len(x)
            data.append({**look, "x": x, "y": y, "points": points, "width": 1, "faint": True})
        end = min(run.curve[-1][0] for run in runs)
        grid = [end * j / (GRID_POINTS - 1) for j in range(GRID_POINTS)]
        values = [[results.at_tokens(run.curve, tokens) for run in runs] for tokens in grid]
        means = [fmean(v for v in at if v is not None) for at in values]
        names = [f"{variant}, mean"] * len(grid)
        data.append({**look, "x": grid, "y": means, "points": names, "width": 3})
    axes = {"x": {"title": "tokens generated", "format": "compact"}, "y": {"format": ".0%"}}
    return {"data": data, "layout": {**axes, "hover": ".1%", "closest": True, "legend": True}}


def ends(plan: Plan, found: Sequence[RunResult]) -> Figure:
    """Return the runs' ends by variant, joined by seed."""
    data: list[Figure] = []
    for i, seed in enumerate(plan.seeds):
        runs = {r.variant: r.test_end for r in found if r.seed == seed}
        names = [v for v in plan.variants if v in runs]
        values = [runs[v] for v in names]
        look = {"type": "line", "color": _color(i), "width": 1.5, "size": 4}
        data.append({**look, "x": names, "y": values, "name": f"seed {seed}"})
    return {"data": data, "layout": {"y": {"format": ".0%"}, "hover": ".1%", "legend": True}}


def gains(plan: Plan, found: Sequence[RunResult]) -> Figure:
    """Return the gains over the start as bars."""
    grouped = _by_variant(plan, found)
    means = [mean_interval([r.test_end - r.test_start for r in runs]) for runs in grouped.values()]
    colors = [_color(i) for i in range(len(grouped))]
    trace = _means(list(grouped), means) | {"type": "bar", "color": colors}
    return {"data": [trace], "layout": {"y": {"format": "+.0%"}, "hover": "+.1%"}}


def _means(names: Sequence[str], means: Sequence[MeanInterval]) -> Figure:
    """Return a trace of means with their intervals."""
    return {
        "x": names,
        "y": [m.mean for m in means],
        "low": [_finite(m.low) for m in means],
        "high": [_finite(m.high) for m in means],
    }


def _color(index: int) -> str:
    return f"variant-{index % 8}"


def runs_csv(found: Sequence[RunResult]) -> str:
    """Return a row for each run."""
    rounded = (replace(run, wall_s=round(run.wall_s, 1)) for run in found)
    return csv_text(RUN_COLUMNS, map(attrgetter(*RUN_COLUMNS), rounded))


def curves_csv(found: Sequence[RunResult]) -> str:
    """Return a row for each point of each learning curve."""
    head = ("variant", "seed", "tokens", "validation")
    return csv_text(head, ((r.variant, r.seed, *point) for r in found for point in r.curve))


def differences_csv(plan: Plan, found: Sequence[RunResult]) -> str:
    """Return a row for each measure and pair of variants."""
    rows = []
    for measure in MEASURES:
        for pair in results.differences(plan, found, measure):
            mean = pair.interval
            figures = (mean.count, mean.mean, _finite(mean.low), _finite(mean.high))
            rows.append((pair.measure, pair.variant, pair.minus, *figures))
    return csv_text(("measure", "variant", "minus", "seeds", "mean", "low", "high"), rows)


def trials_csv(plan: Plan, tried: Mapping[str, Sequence[RunResult]]) -> str:
    """Return a row for each trial."""
    settings = plan.trials.settings if plan.trials else ()
    rows = [
        (variant, _said(setting), run.validation_end, run.validation_mean, i == best_trial(runs))
        for variant, runs in tried.items()
        for i, (setting, run) in enumerate(zip(settings, runs, strict=True))
    ]
    return csv_text(("variant", "setting", "validation_end", "validation_mean", "is_best"), rows)


def _said(setting: Options) -> str:
    """Return a setting of the trials as it is written on a command line."""
    return " ".join(f"{name}={value}" for name, value in setting.items())


def _mean(runs: Sequence[RunResult], measure: str) -> MeanInterval:
    return mean_interval([getattr(run, measure) for run in runs])


def _by_variant(plan: Plan, found: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return the runs of each variant that has some, in the plan's order."""
    runs = {variant: [run for run in found if run.variant == variant] for variant in plan.variants}
    return {variant: mine for variant, mine in runs.items() if mine}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
