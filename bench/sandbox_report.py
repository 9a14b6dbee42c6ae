"""From the JSON of bench/test_sandbox.py to RESULTS.md and plots: bench/sandbox_report.py JSON.

Adds a section to the top of bench/RESULTS.md and writes PNGs beside the JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from report import MARK, RESULTS

COMMAND = "python -m pytest bench/test_sandbox.py --benchmark-json=bench/results/sandbox.json"


def main() -> None:
    """Write the section and the plots of one results file."""
    path = Path(sys.argv[1])
    data = json.loads(path.read_text())
    rows = [entry["extra_info"] for entry in data["benchmarks"]]
    by_figure: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], []).append(row)
    python = rows[0]["python"]
    load = f"{min(r['load'] for r in rows):.1f} to {max(r['load'] for r in rows):.1f}"
    lines = [
        f"## {path.stem} ({data['datetime'][:10]})",
        "",
        f"2-core x86-64 virtual machine, Python {python}, load average {load}, with",
        "",
        f"    {COMMAND}",
        "",
        "A run is one process that loads `f` and checks one value; ours with all layers of isolation",
        "and executed lines.",
        "",
        "| runs a second | concurrency 1 | concurrency 2 |",
        "|---|---|---|",
    ]
    runs: dict[str, dict[int, float]] = {}
    for row in by_figure.get("runs", []):
        runs.setdefault(row["provider"], {})[row["concurrency"]] = row["runs_per_s"]
    ordered = sorted(runs, key=lambda name: -max(runs[name].values()))
    for name in ordered:
        shown = [f"{runs[name][c]:.0f}" if c in runs[name] else "" for c in (1, 2)]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", "| other figures | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _figures(by_figure)]
    for name, plot in (("runs", _plot_runs), ("coverage", _plot_coverage)):
        if name in by_figure:
            image = path.with_name(f"{path.stem}_{name}.png")
            plot(by_figure[name], image)
            lines += ["", f"![{name}](results/{image.name})"]
    before, after = RESULTS.read_text().split(MARK)
    RESULTS.write_text(before + MARK + "\n" + "\n".join(lines) + "\n" + after)


def _figures(by_figure: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    found = []
    for row in by_figure.get("latency", []):
        found.append(
            (
                f"latency, {row['program']}",
                f"p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms",
            )
        )
    for row in by_figure.get("memory", []):
        found.append(("memory of a worker (proportional share)", f"{row['worker_mib']:.1f} MiB"))
    for row in by_figure.get("queue", []):
        text = f"{row['many_per_s']:.0f}/s, {row['few_per_s']:.0f}/s with 8 in flight"
        found.append(("10,000 programs queued at once", text))
    for row in by_figure.get("start", []):
        found.append(("interpreter start to first verdict", f"{row['first_verdict_s']:.2f} s"))
    for row in by_figure.get("coverage", []):
        text = f"{row['slowdown']:.2f}x (geometric mean of 5 programs)"
        found.append((f"executed lines, {row['provider']}", text))
    return found


def _plot_runs(rows: list[dict[str, Any]], path: Path) -> None:
    names = sorted(
        {r["provider"] for r in rows},
        key=lambda n: max(r["runs_per_s"] for r in rows if r["provider"] == n),
    )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.6 * len(names)))
    for place, concurrency in ((-0.2, 1), (0.2, 2)):
        found = {r["provider"]: r["runs_per_s"] for r in rows if r["concurrency"] == concurrency}
        at = [i + place for i, name in enumerate(names) if name in found]
        values = [found[name] for name in names if name in found]
        bars = axes.barh(at, values, 0.38, label=f"concurrency {concurrency}")
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("runs a second, trivial function")
    axes.legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot_coverage(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        each = json.loads(row["each"])
        at = [i + place * width for i in range(len(each))]
        axes.bar(at, list(each.values()), width, label=row["provider"])
        axes.set_xticks([i + 0.4 - width / 2 for i in range(len(each))], list(each))
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("times the plain CPU time")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
