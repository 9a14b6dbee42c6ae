"""The page of a cleaning: key figures, charts and every dropped problem with its reason.

Takes the decisions and the settings, gives a self-contained HTML page. It holds no times, so that
the same input gives the same page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepcoder.journal import Record
from stepcoder.report.charts import Chart, Figure
from stepcoder.report.html import page

SHOWN = 400  # of the dropped problems, and of the repaired ones
MOST_TESTS, MOST_CONDITIONALS = 16, 20  # problems with more share the last bar
TENTHS = [f"{low}-{low + 9}%" for low in range(0, 100, 10)] + ["100%"]


def render(lines: Sequence[Record], settings: Mapping[str, Any]) -> str:
    """Return the page."""
    kept, unverified = _verified(lines), _unverified(lines)
    said = f", {unverified:,} more have no solution to verify" if unverified else ""
    return page(
        "clean.html",
        f"Cleaning of {Path(settings['problems']).name}",
        f"{len(lines):,} records, of which {len(kept):,} are kept{said}",
        charts(lines, kept),
        counts=key_figures(lines),
        listed={
            title: [line for line in lines if line["decision"] == title.lower()]
            for title in ("Dropped", "Repaired")
        },
        shown=SHOWN,
        settings=settings,
    )


def key_figures(lines: Sequence[Record]) -> Record:
    """Return how many records there are of each kind, and sums over the kept problems."""
    kept = _verified(lines)
    names = ("tests", "generated_tests", "coverage_before", "coverage")
    mutants = Counter[str]()
    for line in kept:
        mutants.update(line["mutants"])
    return {
        "records": len(lines),
        "kept": len(kept),
        "unverified": _unverified(lines),
        "repaired": sum(line["decision"] == "repaired" for line in kept),
        "with_curriculum": sum(line["stages"] > 1 for line in kept),
        "mutants": mutants,
        **{name: sum(line[name] for line in kept) for name in names},
    }


def charts(lines: Sequence[Record], kept: Sequence[Record]) -> list[Chart]:
    """Return the charts; one without data has no figure."""
    dropped = Counter(line["reason"] for line in lines if line["decision"] == "dropped")
    repairs = Counter(name for line in kept for name in line["repairs"])
    tidied = Counter(name for line in kept for name in line["tidied"])
    decisions = Counter(line["decision"] for line in lines)
    repair_colors = dict.fromkeys(repairs, "repaired") | dict.fromkeys(tidied, "other")
    before = [_tenth(line["coverage_before"]) for line in kept]
    given = [_count(line["tests"] - line["generated_tests"]) for line in kept]
    counts = [*map(str, range(1, MOST_TESTS)), f"{MOST_TESTS}+"]
    stages = Counter(sorted(line["stages"] for line in kept))
    conditionals = sorted(min(line["conditionals"], MOST_CONDITIONALS) for line in kept)
    return [
        Chart("decisions", _ranked(decisions, {name: name for name in decisions})),
        Chart("reasons", _ranked(dropped, dict.fromkeys(dropped, "dropped"))),
        Chart("repairs", _ranked(repairs + tidied, repair_colors)),
        Chart("checkers", _ranked(Counter(line["checker"] for line in kept), {})),
        Chart("coverage", _histogram(TENTHS, before, [_tenth(line["coverage"]) for line in kept])),
        Chart("tests", _histogram(counts, given, [_count(line["tests"]) for line in kept])),
        Chart("stages", _counted(stages)),
        Chart("conditionals", _counted(Counter(conditionals))),
    ]


def _verified(lines: Sequence[Record]) -> list[Record]:
    """Return the problems whose solutions passed."""
    return [line for line in lines if line["decision"] in ("kept", "repaired")]


def _unverified(lines: Sequence[Record]) -> int:
    return sum(line["decision"] == "unverified" for line in lines)


def _tenth(share: float) -> str:
    return TENTHS[min(int(share * 10 + 1e-9), 9)] if share < 1 else "100%"


def _count(tests: int) -> str:
    return str(tests) if tests < MOST_TESTS else f"{MOST_TESTS}+"


def _bars(names: Sequence[str], counts: Sequence[int], **more: Any) -> Figure:
    return {"type": "bar", "x": list(names), "y": list(counts), "color": "line", **more}


def _figure(traces: Sequence[Figure], **layout: Any) -> Figure:
    return {"data": traces, "layout": {"y": {"format": ",d"}, "unit": " problems", **layout}}


def _ranked(counts: Mapping[str, int], colors: Mapping[str, str]) -> Figure:
    """Return horizontal bars, the longest on top."""
    ranked = sorted(counts.items(), key=lambda item: item[::-1], reverse=True)
    return _counted(dict(ranked), [colors.get(name, "line") for name, _ in ranked], sideways=True)


def _counted(counts: Mapping[Any, int], color: Any = "line", **layout: Any) -> Figure:
    """Return a bar for each name or number, with its count at the end."""
    labels = [f"{count:,}" for count in counts.values()]
    bars = _bars([str(name) for name in counts], [*counts.values()], labels=labels, color=color)
    return _figure([bars], **layout) if counts else {}


def _histogram(names: Sequence[str], before: Sequence[str], after: Sequence[str]) -> Figure:
    """Return two bars for each bin."""
    old = _bars(names, [before.count(x) for x in names], name="before", color="pale")
    new = _bars(names, [after.count(x) for x in names], name="after")
    return _figure([old, new]) if after else {}
