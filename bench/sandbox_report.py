"""The figures of bench/test_sandbox.py as a table and plots: bench/sandbox_report.py JSON.

Run as a program it adds a section to the top of bench/RESULTS.md and draws the plots again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

Rows = list[dict[str, Any]]

COMMAND = "pytest bench/test_sandbox.py"
RUNS_GOAL, HUMANEVAL_GOAL, SETS_GOAL_S = 2000, 560, 4.0
STDIN_GOAL_MS, COVERAGE_GOAL, START_GOAL_S = 7.0, 1.15, 0.3


def table(rows: Rows) -> list[str]:
    """Return the lines of one table: figure, goal, measured, and ours against the named peer."""
    lines = [
        "| figure | goal | measured | peer | its figure | ratio |",
        "|---|---|---|---|---|---|",
    ]
    parts = (_runs, _latency, _sets, _coverage, _start, _others)
    lines += [f"| {' | '.join(cells)} |" for part in parts for cells in part(rows)]
    return lines


def _of(rows: Rows, figure: str) -> Rows:
    return [row for row in rows if row["figure"] == figure]


def _better(good: bool, text: str) -> str:
    return text if good else f"**missed**: {text}"


def _runs(rows: Rows) -> list[list[str]]:
    found = []
    for concurrency in (2, 1):
        rates = {r["who"]: r["per_s"] for r in _of(rows, "runs") if r["concurrency"] == concurrency}
        ours = rates.pop("ours", None)
        if ours is None:
            continue
        goal = f"{RUNS_GOAL}/s" if concurrency == 2 else ""
        shown = _better(not goal or ours >= RUNS_GOAL, f"{ours:.0f}/s")
        name = f"trivial function, {concurrency} at a time"
        peers = sorted(rates, key=lambda who: -rates[who]) or [""]
        for peer in peers:
            cells = [peer, f"{rates[peer]:.0f}/s", f"{ours / rates[peer]:.1f}x"] if peer else []
            found.append([name, goal, shown, *(cells or ["", "", ""])])
            name = goal = shown = ""
    return found


def _latency(rows: Rows) -> list[list[str]]:
    found = []
    for row in _of(rows, "latency"):
        cuts = row["percentiles_ms"]
        p50, p99 = cuts[49], cuts[98]
        stdin = "stdin" in row["name"]
        shown = _better(not stdin or p50 <= STDIN_GOAL_MS, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        goal = f"{STDIN_GOAL_MS:.0f} ms" if stdin else ""
        found.append([f"latency, {row['name']}", goal, shown, "", "", ""])
    return found


def _sets(rows: Rows) -> list[list[str]]:
    found = []
    for row in _of(rows, "sets"):
        seconds, count = row["seconds"], row["programs"]
        whole = "+" in row["name"]
        good = seconds <= SETS_GOAL_S if whole else count / seconds >= HUMANEVAL_GOAL
        good = good and row["passed"] == count
        goal = f"under {SETS_GOAL_S:.0f} s, all" if whole else f"{HUMANEVAL_GOAL}/s"
        text = f"{seconds:.2f} s, {count / seconds:.0f}/s, {row['passed']} of {count} accepted"
        name = f"{row['name']}, canonical, all tests"
        found.append([name, goal, _better(good, text), "", "", ""])
    return found


def _coverage(rows: Rows) -> list[list[str]]:
    found = []
    for python in sorted({row["python"] for row in _of(rows, "coverage")}):
        means = {
            row["who"]: geometric_mean(row["each"].values())
            for row in _of(rows, "coverage")
            if row["python"] == python
        }
        ours = means.pop("ours")
        name, goal = f"executed lines, Python {python}", f"{COVERAGE_GOAL}x"
        shown = _better(ours <= COVERAGE_GOAL, f"{ours:.2f}x")
        for peer, mean in sorted(means.items()) or [("", 0.0)]:
            cells = [peer, f"{mean:.2f}x", f"{ours / mean:.2f}"] if peer else ["", "", ""]
            found.append([name, goal, shown, *cells])
            name = goal = shown = ""
    return found


def _start(rows: Rows) -> list[list[str]]:
    times = {row["who"]: row["seconds"] for row in _of(rows, "start")}
    if "ours" not in times:
        return []
    ours = times.pop("ours")
    shown = _better(ours <= START_GOAL_S, f"{ours:.2f} s")
    cells = [[who, f"{s:.2f} s", f"{ours / s:.1f}"] for who, s in times.items()]
    return [["import + first verdict", f"{START_GOAL_S} s", shown, *cells[0]]]


def _others(rows: Rows) -> list[list[str]]:
    found = []
    for row in _of(rows, "memory"):
        text = f"{row['pss_mib']:.1f} MiB ({row['private_mib']:.1f} its own)"
        found.append(["memory of a worker (PSS)", "", text, "", "", ""])
    for row in _of(rows, "queue"):
        name = f"{row['programs']} programs queued"
        text = f"{row['many_per_s']:.0f}/s, {row['memory_mib']:.0f} MiB"
        few = [f"{row['few_per_s']:.0f}/s", f"{row['many_per_s'] / row['few_per_s']:.2f}"]
        found.append([name, "flat", text, "ours, 8 in flight", *few])
    return found


def plots(rows: Rows, path: Path) -> list[Path]:
    """Draw what there is beside the results file and return the images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    each: dict[str, Callable[[Rows, Any], None]] = {
        "runs": _plot_runs,
        "latency": _plot_latency,
        "coverage": _plot_coverage,
    }
    for figure, draw in each.items():
        chosen = _of(rows, figure)
        if not chosen:
            continue
        canvas, axes = pyplot.subplots(figsize=(8, 4.5))
        draw(chosen, axes)
        canvas.tight_layout()
        drawn.append(path.with_name(f"{path.stem}_{figure}.png"))
        canvas.savefig(drawn[-1], dpi=120)
        pyplot.close(canvas)
    return drawn


def _plot_runs(rows: Rows, axes: Any) -> None:
    best = {row["who"]: 0.0 for row in rows}
    for row in rows:
        best[row["who"]] = max(best[row["who"]], row["per_s"])
    names = sorted(best, key=lambda who: best[who])
    for place, concurrency in ((-0.2, 1), (0.2, 2)):
        found = {r["who"]: r["per_s"] for r in rows if r["concurrency"] == concurrency}
        at = [i + place for i, name in enumerate(names) if name in found]
        values = [found[name] for name in names if name in found]
        bars = axes.barh(at, values, 0.38, label=f"{concurrency} at a time")
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.axvline(RUNS_GOAL, color="black", linewidth=0.8, linestyle=":", label="goal, 2 at a time")
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.1)
    axes.set_xlabel("runs of a trivial function a second")
    axes.legend(fontsize="small", loc="lower right")


def _plot_latency(rows: Rows, axes: Any) -> None:
    for row in rows:
        cuts = row["percentiles_ms"]
        axes.plot(cuts, range(1, 100), label=f"{row['name']} (p50 {cuts[49]:.1f} ms)")
    axes.axvline(STDIN_GOAL_MS, color="black", linewidth=0.8, linestyle=":", label="goal, 10 tests")
    axes.set_xscale("log")
    axes.set_xlabel("ms from call to verdict, one program at a time")
    axes.set_ylabel("percent of runs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _plot_coverage(rows: Rows, axes: Any) -> None:
    """Bars of the means, a dot for each program."""
    tools = list(dict.fromkeys(row["who"] for row in rows))
    pythons = list(dict.fromkeys(row["python"] for row in rows))
    width = 0.8 / len(tools)
    for place, tool in enumerate(tools):
        mine = {row["python"]: row["each"].values() for row in rows if row["who"] == tool}
        at = [i + place * width for i, python in enumerate(pythons) if python in mine]
        bars = axes.bar(at, [geometric_mean(v) for v in mine.values()], width * 0.9, label=tool)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
        for x, values in zip(at, mine.values(), strict=True):
            axes.plot([x] * len(values), list(values), "k.", markersize=4, alpha=0.6)
    axes.set_xticks(
        [i + 0.4 - width / 2 for i in range(len(pythons))], [f"Python {p}" for p in pythons]
    )
    axes.set_yscale("log")
    axes.set_ylim(0.7, 30)
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axhline(COVERAGE_GOAL, color="black", linewidth=0.8, linestyle=":", label="goal")
    axes.set_ylabel("times the plain CPU time")
    axes.legend(fontsize="small", ncols=4, loc="upper center")


def main() -> None:
    """Write the section and the plots of one results file."""
    from report import MARK, RESULTS

    path = Path(sys.argv[1])
    data = json.loads(path.read_text())
    lines = [
        f"## {path.stem}",
        "",
        f"{data['machine']} virtual machine, Linux {data['kernel'].split('-')[0]}, "
        f"Python {data['python']}, load average before {data['load_before']:.1f}, with",
        "",
        f"    {COMMAND}",
        "",
        "A run is one process that loads `f` and checks one value; ours with all layers of",
        "isolation and executed lines, the peers' without lines.",
        "",
        *table(data["rows"]),
    ]
    for image in plots(data["rows"], path):
        lines += ["", f"![{image.stem}](results/{image.name})"]
    before, after = RESULTS.read_text().split(MARK)
    RESULTS.write_text(before + MARK + "\n" + "\n".join(lines) + "\n" + after)


if __name__ == "__main__":
    main()
