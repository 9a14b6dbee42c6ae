"""The charts of a run's report, as data; the template of the page has their titles and notes.

Takes the records of a run (schema: `run_dir`), gives Charts; a series that the run does not have
gives no chart. A figure is plain JSON data, which templates/charts.js draws:

    data    a list of traces: `type` ("line", "area", "bar" or "dots"), `x` (steps, or names), `y`,
            `name`, and `color`, a name in templates/style.css (or one for each point); and where
            needed `base` (where bars begin), `low` and `high` (intervals), `labels` (drawn at the
            end of bars), `points` (names of the single points), `width`, `size`, `plain` (no
            dots), `faint`
    layout  `x` and `y`: `title` and `format` of the axes, and for y the `range`, or `zero` where it
            begins at 0; `sideways` (y runs to the right), `stacked`, `legend`; `closest` (the
            pointer shows one point instead of all at its x), `hover` and `unit` (how it shows a
            value); `shapes`, which are lines across at `y0`; `annotations`, which are texts at `y`:
            those with an `x` to the right of the plot, the others in it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepcoder.journal import Record

Figure = dict[str, Any]
Series = list[tuple[int, float]]  # step, value

VERDICTS = (
    *("accepted", "wrong answer", "runtime error", "compile error", "cpu time limit"),
    *("wall time limit", "memory limit", "output limit", "security violation"),
    *("infrastructure error", "not run"),
)
SMOOTH_FROM = 20  # series of fewer steps are drawn as they are
POINTS_SHOWN = 500  # of longer series every second point is drawn, or every third, ...


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of a page: the name of its place in the template, and what is drawn there."""

    name: str
    figure: Figure


def charts(records: Sequence[Record]) -> list[Chart]:
    """Return the charts that the records have numbers for, in the order of the page."""
    rl = [record for record in records if record["phase"] == "rl"]
    sft = [record for record in records if record["phase"] == "sft"]
    cached = series_of(rl, "prefix_cache_hit_rate")
    if not any(rate for _, rate in cached):
        cached = []  # the engine has no prefix cache

    def lines(key: str, form: str, **axis: Any) -> Figure:
        return line(series_of(rl, key), form, **axis)

    found = [
        Chart("held-out", held_out(records)),
        Chart("reward", lines("reward_mean", ".2f")),
        Chart("pass-rate", lines("pass_rate", ".0%", zero=True)),
        Chart("stages", stack(parts_of(rl, "stages"), stage_color, "area", "stage ")),
        Chart("masked", lines("masked_share", ".0%", zero=True)),
        Chart("verdicts", stack(parts_of(rl, "verdicts"), lambda name, _: name)),
        Chart("bugs", stack(parts_of(rl, "bugs"), part_color)),
        Chart("kl", lines("kl", ".3f")),
        Chart("entropy", lines("entropy", ".2f", zero=True)),
        Chart("clip-fraction", lines("clip_fraction", ".1%", zero=True)),
        Chart("explained-variance", lines("explained_variance", ".2f", range=[-1, 1.05])),
        Chart("time", stack(parts_of(rl, "time"), part_color)),
        Chart("timeline", timeline(rl)),
        Chart("hidden-judge", lines("hidden_judge_share", ".0%", range=[0, 1.05])),
        Chart("engine-kl", lines("engine_kl", ".1e")),
        Chart("prefix-cache", line(cached, ".0%", range=[0, 1.05])),
        Chart("speed", lines("tokens_per_s", ",.0f", zero=True)),
        Chart("loss", line(series_of(sft, "loss"), ".2f")),
    ]
    return [chart for chart in found if chart.figure]


def stage_color(_: str, index: int) -> str:
    """Return the color of a stage: from 5 on they share one."""
    return f"stage-{min(index, 5)}"


def part_color(_: str, index: int) -> str:
    """Return the color of a part of the loop."""
    return f"part-{index % 6}"


def series_of(records: Sequence[Record], key: str) -> Series:
    """Return a number by step; steps that have none are left out."""
    return [(record["step"], record[key]) for record in records if record.get(key) is not None]


def parts_of(records: Sequence[Record], key: str) -> dict[str, Series]:
    """Return the numbers of a mapping by part and step; a part that a step lacks is 0 there."""
    having = [record for record in records if record.get(key)]
    names = list(dict.fromkeys(name for record in having for name in record[key]))
    if key == "stages":  # all of them, so that a stage has its color in every run
        names = [str(stage) for stage in range(max(map(int, names), default=-1) + 1)]
    if key == "verdicts":
        names.sort(key=lambda name: VERDICTS.index(name) if name in VERDICTS else 99)
    return {name: [(r["step"], r[key].get(name) or 0) for r in having] for name in names}


def evaluations(records: Sequence[Record], part: str = "eval") -> Series:
    """Return held-out pass@1 by RL step; the last supervised evaluation stands for step 0.

    `part` is "eval" for the validation problems, "test" for the test problems.
    """
    found: dict[int, float] = {}
    for record in records:
        value = (record.get(part) or {}).get("pass@1")
        if value is not None:
            found[record["step"] if record["phase"] == "rl" else 0] = value
    return sorted(found.items())


def held_out(records: Sequence[Record]) -> Figure:
    """Return pass@1 over the steps, with the start marked."""
    points = evaluations(records)
    figure = line(points, ".1%", smooth=False, zero=True)
    if len(points) > 1:
        start, end = points[0][1], points[-1][1]
        figure["layout"]["shapes"] = [{"y0": start}]
        figure["layout"]["annotations"].append(
            {"y": start, "text": f"start {start:.1%}", "below": end >= start > 0.1}
        )
    return figure


def line(points: Series, form: str, smooth: bool = True, **axis: Any) -> Figure:
    """Return one line, with its running mean if it is long, labeled with its last value."""
    if not points:
        return {}
    steps, values = [step for step, _ in points], [value for _, value in points]
    shown: list[float] = values
    data: list[Figure] = []
    if smooth and len(values) >= SMOOTH_FROM:
        shown = running_mean(values, reach=max(2, len(values) // 30))
        data.append({"y": values, "color": "pale", "width": 1.2, "name": "each step"})
    data.append({"y": shown, "color": "line", "name": "running mean" if data else "value"})
    end = {"x": steps[-1], "y": shown[-1], "text": f"<b>{shown[-1]:{form}}</b>"}
    return {
        "data": [
            {**trace, "type": "line", "x": thinned(steps), "y": thinned(trace["y"])}
            for trace in data
        ],
        "layout": {
            "x": {"title": "step"},
            "y": {"format": form, **axis},
            "annotations": [end],
        },
    }


def stack(
    parts: Mapping[str, Series],
    colors: Callable[[str, int], str],
    kind: str = "bar",
    prefix: str = "",
) -> Figure:
    """Return parts on top of each other, as bars or areas (with few steps always as bars)."""
    if not parts:
        return {}
    data = [
        {
            "type": kind if len(points) >= 3 else "bar",
            "x": thinned([step for step, _ in points]),
            "y": thinned([value for _, value in points]),
            "name": prefix + name,
            "color": colors(name, i),
        }
        for i, (name, points) in enumerate(parts.items())
    ]
    layout = {"x": {"title": "step"}, "y": {"zero": True}, "stacked": True, "legend": True}
    return {"data": data, "layout": layout}


def timeline(records: Sequence[Record], last: int = 3) -> Figure:
    """Return what ran when in the last steps, a row for each part of the loop."""
    having = [record for record in records if record.get("timeline")]
    if not having:
        return {}
    chosen = having[-1:]
    for record in reversed(having[-last:-1]):
        # After a resume the clock starts again: earlier steps have no place on its line.
        if record["timeline"][0][1] <= chosen[0]["timeline"][0][1]:
            chosen.insert(0, record)
    origin = min(start for record in chosen for _, start, _ in record["timeline"])
    spans: dict[str, list[tuple[int, float, float]]] = {}
    for record in chosen:
        for part, start, end in record["timeline"]:
            spans.setdefault(part, []).append((record["step"], start - origin, end - start))
    data = [
        {
            "type": "bar",
            "x": [name] * len(mine),
            "base": [start for _, start, _ in mine],
            "y": [seconds for _, _, seconds in mine],
            "points": [f"step {step}" for step, _, _ in mine],
            "name": name,
            "color": part_color(name, i),
        }
        for i, (name, mine) in enumerate(spans.items())
    ]
    layout = {"y": {"title": "seconds"}, "hover": ".2f", "unit": " s"}
    return {"data": data, "layout": {**layout, "sideways": True, "closest": True}}


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and up to `reach` neighbors on either side."""
    return [
        sum(inside) / len(inside)
        for i in range(len(values))
        if (inside := values[max(0, i - reach) : i + reach + 1])
    ]


def thinned(values: Sequence[Any]) -> list[Any]:
    """Return at most POINTS_SHOWN of the values, evenly spaced, with the last one."""
    every = -(-len(values) // POINTS_SHOWN) or 1
    return list(values[::-1][::every][::-1])
