"""The report's charts: each a title, a sentence that says how to read it, and a plotly figure.

Takes the records of a run (schema: `rundir`), gives Charts as plain JSON data; a series that the
run does not have gives no chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Figure = dict[str, Any]
Series = list[tuple[int, float]]  # step, value

INK, QUIET, GRID, LINE, PALE = "#1f2733", "#5d6675", "#e8ebf0", "#2563c9", "#b9cdf0"
# Stage 0, where the policy writes the whole program, is the darkest.
STAGES = ("#1d4f91", "#3f7cc4", "#78a8dc", "#a9c9ea", "#cfe0f3", "#e6eef8")
PARTS = ("#5b8fd9", "#e5a04e", "#5fb08d", "#bd7aa4", "#9a8fdc", "#a3a9b3")
VERDICTS = {
    "accepted": "#3a9e74",
    "wrong answer": "#f0c04f",
    "runtime error": "#e5853a",
    "compile error": "#c8453f",
    "cpu time limit": "#7d6fd0",
    "wall time limit": "#a79be3",
    "memory limit": "#b1548a",
    "output limit": "#d79cc0",
    "security violation": "#4a4f59",
    "infrastructure error": "#9aa1ab",
    "not run": "#cfd3d9",
}
SMOOTH_FROM = 20  # series of fewer steps are drawn as they are
MARKERS_UP_TO = 30  # series of more steps have no dots


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of the page."""

    name: str
    title: str
    note: str
    figure: Figure


def charts(records: Sequence[Record]) -> list[Chart]:
    """Return the charts that the records have numbers for, in the order of the page."""
    rl = [record for record in records if record["phase"] == "rl"]
    sft = [record for record in records if record["phase"] == "sft"]

    def stacked(key: str, colors: Callable[[str, int], str], **forms: Any) -> Figure:
        return stack(parts_of(rl, key), colors, **forms)

    def lines(key: str, form: str, **layout: Any) -> Figure:
        return line(series_of(rl, key), form, **layout)

    found = [
        Chart(
            "held-out",
            "Held-out pass@1",
            "Share of held-out problems whose program, from the description alone, passes every "
            "test. The dashed line is where RL started.",
            held_out(records),
        ),
        Chart(
            "reward",
            "Reward",
            "Mean over the rollouts of a step, before it is scaled.",
            lines("reward_mean", ".2f"),
        ),
        Chart(
            "pass-rate",
            "Training pass rate",
            "Share of rollouts that pass every test, with each problem's part of the solution "
            "given. It falls when stages move on.",
            lines("pass_rate", ".0%", yaxis={"rangemode": "tozero"}),
        ),
        Chart(
            "stages",
            "Curriculum stages",
            "Problems at each stage. At 0 the policy writes all of it; higher stages give more.",
            stacked("stages", lambda _, i: STAGES[min(i, 5)], area=True, word="stage "),
        ),
        Chart(
            "masked",
            "Masked share",
            "Share of response tokens that the policy loss leaves out: no test ran their line.",
            lines("masked_share", ".0%", yaxis={"rangemode": "tozero"}),
        ),
        Chart(
            "verdicts",
            "Verdicts",
            "How the rollouts of each step ended.",
            stacked("verdicts", lambda name, _: VERDICTS.get(name, "#cfd3d9")),
        ),
        Chart(
            "kl",
            "KL to the reference",
            "Nats a token between the policy and where RL started.",
            lines("kl", ".3f"),
        ),
        Chart(
            "entropy",
            "Entropy",
            "Nats a token; near zero, the policy no longer explores.",
            lines("entropy", ".2f", yaxis={"rangemode": "tozero"}),
        ),
        Chart(
            "clip-fraction",
            "Clip fraction",
            "Share of trained tokens whose probability ratio was clipped.",
            lines("clip_fraction", ".1%", yaxis={"rangemode": "tozero"}),
        ),
        Chart(
            "explained-variance",
            "Explained variance",
            "How much of the returns the critic predicts; 1 is all, 0 is none.",
            lines("explained_variance", ".2f", yaxis={"range": [-1, 1.05]}),
        ),
        Chart(
            "time",
            "Time of a step",
            "Seconds in each part of the loop, added up.",
            stacked("time", lambda _, i: PARTS[i % len(PARTS)]),
        ),
        Chart(
            "timeline",
            "Time line of the last steps",
            "What ran when. Judging beside generation costs nothing; with rollout.ahead generation "
            "runs beside the update before it.",
            timeline(rl),
        ),
        Chart(
            "hidden-judge",
            "Hidden judging",
            "Share of the judge's time that the loop did not wait for.",
            lines("hidden_judge_share", ".0%", yaxis={"range": [0, 1.05]}),
        ),
        Chart(
            "engine-kl",
            "Engine mismatch",
            "Nats a token between the log-probabilities of engine and trainer, which importance "
            "weights correct.",
            lines("engine_kl", ".1e"),
        ),
        Chart(
            "prefix-cache",
            "Shared prompts",
            "Share of the prompt tokens that the engine had in its cache already.",
            lines("prefix_cache_hit_rate", ".0%", yaxis={"range": [0, 1.05]})
            if any(record.get("prefix_cache_hit_rate") for record in rl)
            else {},
        ),
        Chart(
            "speed",
            "Tokens a second",
            "Tokens of completions by the time of the whole step.",
            lines("tokens_per_s", ",.0f", yaxis={"rangemode": "tozero"}),
        ),
        Chart(
            "loss",
            "Supervised loss",
            "Nats a solution token in the phase before RL.",
            line(series_of(sft, "loss"), ".2f"),
        ),
    ]
    return [chart for chart in found if chart.figure]


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
        names.sort(key=lambda name: list(VERDICTS).index(name) if name in VERDICTS else 99)
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
    if not points:
        return {}
    figure = line(points, ".1%", smooth=False, yaxis={"rangemode": "tozero"})
    (first_step, start), (last_step, end) = points[0], points[-1]
    if first_step != last_step:
        dash = {"color": "#8b929d", "width": 1.5, "dash": "dash"}
        figure["layout"]["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": start, "y1": start}
            | {"line": dash}
        ]
        figure["layout"]["annotations"].append(
            {
                "xref": "paper",
                "x": 1,
                "y": start,
                "text": f"start {start:.1%}",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "top" if end >= start > 0.1 else "bottom",
                "font": {"color": QUIET},
            }
        )
    return figure


def line(points: Series, form: str, smooth: bool = True, **layout: Any) -> Figure:
    """Return one line, with its running mean if it is long, labeled with its last value."""
    if not points:
        return {}
    x, y = [step for step, _ in points], [value for _, value in points]
    shown, data = y, []
    if smooth and len(y) >= SMOOTH_FROM:
        shown = running_mean(y, reach=max(2, len(y) // 30))
        data.append(_trace(x, y, PALE, 1.2, form, "each step"))
    data.append(_trace(x, shown, LINE, 2.5, form, "running mean" if data else "value"))
    end = {
        "x": x[-1],
        "y": shown[-1],
        "text": f"<b>{shown[-1]:{form}}</b>",
        "showarrow": False,
        "xanchor": "left",
        "xshift": 6,
        "font": {"color": LINE},
    }
    axis = {"tickformat": form, **layout.pop("yaxis", {})}
    return {"data": data, "layout": figure_layout(x[-1], yaxis=axis, annotations=[end], **layout)}


def stack(
    parts: Mapping[str, Series],
    colors: Callable[[str, int], str],
    area: bool = False,
    word: str = "",
) -> Figure:
    """Return parts on top of each other: as areas, or as bars (always if there are few steps)."""
    steps = max((len(points) for points in parts.values()), default=0)
    if not steps:
        return {}
    data = []
    for i, (name, points) in enumerate(parts.items()):
        x, y = [step for step, _ in points], [value for _, value in points]
        trace: Figure = {"x": x, "y": y, "name": word + name}
        if area and steps >= 3:
            edge = {"width": 0.5, "color": "#ffffff"}
            trace |= {"type": "scatter", "mode": "lines", "stackgroup": "all", "line": edge}
            trace |= {"fillcolor": colors(name, i)}
        else:
            trace |= {"type": "bar", "marker": {"color": colors(name, i), "line": {"width": 0}}}
        data.append(trace)
    layout = figure_layout(
        max(points[-1][0] for points in parts.values()),
        yaxis={"rangemode": "tozero"},
        barmode="stack",
        bargap=0.3 if steps < 40 else 0,
        showlegend=True,
    )
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
    spans = [(record["step"], *span) for record in chosen for span in record["timeline"]]
    names = list(dict.fromkeys(part for _, part, _, _ in spans))
    data = []
    for i, name in enumerate(names):
        mine = [(step, start, end) for step, part, start, end in spans if part == name]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "y": [name] * len(mine),
                "base": [start - origin for _, start, _ in mine],
                "x": [end - start for _, start, end in mine],
                "text": [f"step {step}" for step, _, _ in mine],
                "textposition": "none",
                "hovertemplate": "%{text}: %{x:.2f} s",
                "name": name,
                "marker": {"color": PARTS[i % len(PARTS)], "line": {"width": 0}},
            }
        )
    layout = figure_layout(0, yaxis={"autorange": "reversed"}, bargap=0.25, hovermode="closest")
    layout["margin"] |= {"l": 70}
    layout["barmode"] = "overlay"
    layout["xaxis"] = {"title": {"text": "seconds", "standoff": 4}, "gridcolor": GRID}
    return {"data": data, "layout": layout}


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and up to `reach` neighbors on either side."""
    return [
        sum(inside) / len(inside)
        for i in range(len(values))
        if (inside := values[max(0, i - reach) : i + reach + 1])
    ]


def _trace(
    x: Sequence[int], y: Sequence[float], color: str, width: float, form: str, name: str
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > MARKERS_UP_TO else "lines+markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"color": color, "width": width},
        "marker": {"color": color, "size": 6},
        "hovertemplate": f"%{{y:{form}}}",
    }


def figure_layout(last_step: int | None = None, **more: Any) -> Figure:
    """Return the look of a figure; `last_step` is where an axis of steps ends."""
    quiet: Figure = {"zerolinecolor": "#c9ced6", "gridcolor": GRID, "tickfont": {"color": QUIET}}
    steps: Figure = {"showgrid": False, "zeroline": False, "tickformat": ",d"}
    steps |= {"title": {"text": "step", "font": {"color": QUIET}, "standoff": 4}}
    if last_step is not None and last_step <= 12:  # no ticks between the steps
        steps["dtick"] = 1
    return {
        "height": 250,
        "margin": {"l": 46, "r": 58, "t": 10, "b": 40},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        **more,
        "xaxis": {**quiet, **steps},
        "yaxis": {**quiet, **more.get("yaxis", {})},
    }
