"""Live progress of a run: a few lines that update in place, or one plain line a step.

Takes the records that the run logs (schema: `run_dir`). On a terminal it draws with rich and lets
everything else that is printed scroll by above; anywhere else each step is one line.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from itertools import cycle
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stepcoder.config import Config

PHASES = {"sft": "supervised", "rl": "RL"}
COLORS = ("blue", "yellow", "green", "magenta", "cyan", "white")
TREND = "▁▂▃▄▅▆▇█"
TREND_STEPS = 32
LABEL_WIDTH = 10
SPEED_STEPS = 20  # the time left is judged by so many last steps
TRIES = 3  # attempts without a pass from which on a problem is named
NAMED = 3  # such problems in a line


class Progress:
    """Shows how a run is going while the `with` block lasts."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        """Show on `console`, by default stdout."""
        self._console = console or Console()
        self._steps = {"sft": config.sft.steps, "rl": config.steps}
        self._phase, self._step = "", 0
        self._figures: dict[str, Any] = {}
        self._evaluations: dict[str, list[tuple[int, float]]] = {"eval": [], "test": []}
        self._rewards: deque[float] = deque(maxlen=TREND_STEPS)
        self._durations: deque[float] = deque(maxlen=SPEED_STEPS)
        self._last_update = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to draw, if this is a terminal."""
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen and the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take in the record of a step (`phase` is "rl" if absent) and show it."""
        phase = str(metrics.get("phase", "rl"))
        now = time.monotonic()
        if phase != self._phase:
            self._durations.clear()
        elif step > self._step:
            self._durations.append((now - self._last_update) / (step - self._step))
        self._phase, self._step, self._last_update = phase, step, now
        self._figures = dict(metrics)
        for part, points in self._evaluations.items():
            if "pass@1" in metrics.get(part, {}):
                points.append((step, metrics[part]["pass@1"]))
        if metrics.get("reward_mean") is not None:
            self._rewards.append(metrics["reward_mean"])
        if self._live is None:
            self.note("  ".join(part for part in self._plain() if part))
        if "eval" in metrics and (remark := remark_of(metrics)):
            self.note(remark)

    def note(self, message: str) -> None:
        """Print a line that stays, above what is drawn."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """Return what the terminal shows now."""
        if not self._phase:
            return Text("starting ...", style="dim")
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", no_wrap=True, min_width=LABEL_WIDTH)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        rows.add_row(PHASES[self._phase], self._headline())
        figures = Text("   ").join([Text(part) for part in self._scores() if part])
        if self._rewards:
            figures.append("   " + trend(list(self._rewards)), style=COLORS[0])
        if figures:
            rows.add_row("scores", figures)
        for name, unit in (("stages", ""), ("time", " (s)")):
            parts = self._figures.get(name)
            if parts:
                rows.add_row(name + unit, bar(parts, self._console.width - LABEL_WIDTH - 2))
        return rows

    def _headline(self) -> RenderableType:
        total = self._steps[self._phase]
        row = Table.grid(padding=(0, 2))
        speed = [self._figure("tokens_per_s", "{:,.0f} tokens/s"), self._left()]
        row.add_row(
            f"step {self._step}/{total}",
            ProgressBar(total=max(total, 1), completed=self._step, width=30),
            *(part for part in speed if part),
        )
        return row

    def _plain(self) -> list[str]:
        """Return the parts of the line that a log shows."""
        figures = self._figures
        stages, seconds = figures.get("stages", {}), figures.get("time", {})
        split = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        return [
            f"{self._phase} {self._step}/{self._steps[self._phase]}",
            *self._scores(),
            "stages " + " ".join(f"{k}:{v}" for k, v in stages.items()) if stages else "",
            self._figure("tokens_per_s", "{:,.0f} tokens/s"),
            f"{sum(seconds.values()):.1f} s ({split})" if seconds else "",
            self._left(),
        ]

    def _scores(self) -> list[str]:
        """Return the figures of the step and the newest evaluation, the most important first."""
        scores = [self._figure("loss", "loss {:.3f}")]
        scores += [self._figure("reward_mean", "reward {:+.2f}")]
        scores += [self._figure("pass_rate", "pass {:.1%}")]
        for name, part in (("held-out", "eval"), ("test", "test")):
            points = self._evaluations[part]
            if points and (part == "eval" or "test" in self._figures):
                (first_step, first), (last_step, last) = points[0], points[-1]
                origin = f", {first:.1%} at {first_step}" if last_step != first_step else ""
                scores.append(f"{name} {last:.1%} (at step {last_step}{origin})")
        return [
            *scores,
            self._figure("masked_share", "masked {:.0%}"),
            self._figure("kl", "kl {:.3f}"),
        ]

    def _figure(self, name: str, form: str) -> str:
        value = self._figures.get(name)
        return "" if value is None else form.format(value)

    def _left(self) -> str:
        """Return the time that the phase still takes, at the speed of the last steps."""
        left = self._steps[self._phase] - self._step
        if not self._durations or left <= 0:
            return ""
        return f"{clock(left * sum(self._durations) / len(self._durations))} left"


def remark_of(record: Mapping[str, Any]) -> str:
    """Return what took longest in a step and what never passes, in a line; empty if unknown."""
    slowest, stuck = record.get("slowest") or {}, record.get("never_passed") or {}
    parts = [
        f"slowest to {what}: {task_id} ({value:g} {unit}, {end})"
        for what, unit in (("judge", "s"), ("generate", "tokens"))
        for task_id, value, end in slowest.get(what, [])[:1]
    ]
    if stuck.get("problems"):
        names = [f"{task_id} ({tries})" for task_id, tries in stuck["most_tried"][:NAMED]]
        more = [f"{stuck['problems'] - NAMED} more"] if stuck["problems"] > NAMED else []
        parts.append(f"never passed in {TRIES} attempts or more: {', '.join([*names, *more])}")
    return "   " + ";  ".join(parts) if parts else ""


def clock(seconds: float) -> str:
    """Return a duration as minutes:seconds, or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def trend(values: list[float]) -> str:
    """Return values as a line of small bars between their least and their greatest."""
    low, span = min(values), max(max(values) - min(values), 1e-9)
    top = len(TREND) - 1
    return "".join(TREND[round((value - low) / span * top)] for value in values)


def bar(parts: Mapping[str, float], width: int) -> Text:
    """Return shares of a whole as one bar and a legend in the same colors, in `width` cells."""
    legend = Text()
    for (name, value), color in zip(parts.items(), cycle(COLORS), strict=False):
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        legend.append(f"  {name}", style=color).append(f" {shown}")
    cells = max(8, min(40, width - len(legend)))
    whole, reached, text = sum(parts.values()), 0.0, Text()
    for value, color in zip(parts.values(), cycle(COLORS), strict=False):
        begin, reached = reached, reached + value
        if whole:
            length = round(reached / whole * cells) - round(begin / whole * cells)
            text.append("█" * length, style=color)
    return text.append_text(legend)
