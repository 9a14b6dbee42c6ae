"""The page of a cleaning: figures, plots and every dropped problem with its reason.

Takes the decisions and the settings, gives HTML in the manner of a run's report. It holds no times,
so that the same input gives the same page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stepcoder.report.charts import GRID, INK, LINE, PALE, QUIET, Chart, Figure
from stepcoder.report.page import chart_section, document

SHOWN = 400  # of the dropped problems, and of the repaired ones
DECISIONS = {"kept": "#3a9e74", "repaired": "#f0c04f", "dropped": "#c8453f"}

Record = dict[str, Any]


def render(lines: Sequence[Record], settings: Mapping[str, Any]) -> str:
    """Return the page."""
    kept = [line for line in lines if line["decision"] != "dropped"]
    drawn = [chart for chart in charts(lines, kept) if chart.figure]
    title = f"Cleaning of {Path(settings['problems']).name}"
    body = [
        f"<style>{MORE}</style><header><h1>{escape(title)}</h1>"
        f"<p>{len(lines):,} records, of which {len(kept):,} are kept</p></header>",
        _figures(lines, kept),
        chart_section(drawn),
        _listed("Dropped", [line for line in lines if line["decision"] == "dropped"]),
        _listed("Repaired", [line for line in lines if line["decision"] == "repaired"]),
        _settings(settings),
    ]
    return document(title, "".join(body), drawn)


MORE = """
.listed th { width: 16em; overflow-wrap: anywhere; } .listed td { white-space: pre-wrap; }
.listed td:nth-child(2) { width: 12em; color: #a8541a; }
"""


def _figures(lines: Sequence[Record], kept: Sequence[Record]) -> str:
    repaired = sum(line["decision"] == "repaired" for line in kept)
    cards = [
        _card("Kept", f"{len(kept):,}", f"{len(kept) / max(len(lines), 1):.1%} of {len(lines):,}"),
        _card("Repaired", f"{repaired:,}", "of the kept ones"),
        _card("Dropped", f"{len(lines) - len(kept):,}", "each with a reason, below"),
    ]
    if kept:
        count = len(kept)
        tests = sum(line["tests"] for line in kept) / count
        given = tests - sum(line["generated_tests"] for line in kept) / count
        before = sum(line["coverage_before"] for line in kept) / count
        after = sum(line["coverage"] for line in kept) / count
        curricula = sum(line["stages"] > 1 for line in kept) / count
        cards += [
            _card("Tests a problem", f"{tests:.1f}", f"from {given:.1f}"),
            _card("Coverage of the solutions", f"{after:.1%}", f"from {before:.1%}, mean"),
            _card("With a curriculum", f"{curricula:.0%}", "two or more stages"),
        ]
        run, first, last = (
            sum(line["mutants"][name] for line in kept)
            for name in ("run", "failed_before", "failed")
        )
        if run:
            note = f"from {first / run:.1%}, of {run:,} that got new tests"
            cards.append(_card("Mutants that fail", f"{last / run:.1%}", note))
    return f'<section class="figures">{"".join(cards)}</section>'


def _card(title: str, value: str, note: str) -> str:
    return f"<div><h2>{escape(title)}</h2><b>{escape(value)}</b><p>{escape(note)}</p></div>"


def charts(lines: Sequence[Record], kept: Sequence[Record]) -> list[Chart]:
    """Return the plots; one without data has no figure."""
    dropped = Counter(line["reason"] for line in lines if line["decision"] == "dropped")
    repairs = Counter(name for line in kept for name in line["repairs"])
    tidied = Counter(name for line in kept for name in line["tidied"])
    return [
        Chart(
            "decisions",
            "Decisions",
            "What became of the records.",
            _bars(Counter(line["decision"] for line in lines), DECISIONS),
        ),
        Chart(
            "reasons",
            "Dropped, by reason",
            "The first reason that holds. docs/clean.md explains each.",
            _bars(dropped, dict.fromkeys(dropped, DECISIONS["dropped"])),
        ),
        Chart(
            "repairs",
            "Repaired or tidied",
            "Repairs (yellow) let a problem pass that had failed; tidying (gray) changed "
            "its layout only.",
            _bars(
                repairs + tidied,
                dict.fromkeys(repairs, DECISIONS["repaired"]) | dict.fromkeys(tidied, "#cfd3d9"),
            ),
        ),
        Chart(
            "checkers",
            "Answers",
            "How an answer must be compared. A statement that accepts any of several is dropped.",
            _bars(Counter(line["checker"] for line in kept), {}),
        ),
        Chart(
            "coverage",
            "Coverage of the solutions",
            "Share of a solution's statements that some test runs: by the given tests (pale), and "
            "with the generated ones.",
            _two(
                [_tenth(line["coverage_before"]) for line in kept],
                [_tenth(line["coverage"]) for line in kept],
                _TENTHS,
            ),
        ),
        Chart(
            "tests",
            "Tests a problem",
            "As given (pale), and with the generated ones.",
            _two(
                [_count(line["tests"] - line["generated_tests"]) for line in kept],
                [_count(line["tests"]) for line in kept],
                [*map(str, range(1, _MANY)), f"{_MANY}+"],
            ),
        ),
        Chart(
            "stages",
            "Stages of the curriculum",
            "n = ceil(sqrt(E)) for E conditional statements; one stage is ordinary RL.",
            _bars(_numbered(Counter(line["stages"] for line in kept)), {}, ordered=True),
        ),
        Chart(
            "conditionals",
            "Conditional statements",
            "E: each if, elif, for, while, try and match of a solution, after its starter code.",
            _bars(
                _numbered(Counter(min(line["conditionals"], 20) for line in kept)), {}, ordered=True
            ),
        ),
    ]


_TENTHS = [f"{low}-{low + 9}%" for low in range(0, 100, 10)] + ["100%"]
_MANY = 16


def _tenth(share: float) -> str:
    return _TENTHS[min(int(share * 10 + 1e-9), 9)] if share < 1 else "100%"


def _count(tests: int) -> str:
    return str(tests) if tests < _MANY else f"{_MANY}+"


def _numbered(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}


def _bars(counts: Mapping[str, int], colors: Mapping[str, str], ordered: bool = False) -> Figure:
    """Return bars, lying where their names are words."""
    if not counts:
        return {}
    names = list(counts) if ordered else sorted(counts, key=lambda name: (counts[name], name))
    values = [counts[name] for name in names]
    trace: Figure = {
        "type": "bar",
        "x": names if ordered else values,
        "y": values if ordered else names,
        "orientation": "v" if ordered else "h",
        "text": [f"{value:,}" for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [colors.get(name, LINE) for name in names]},
        "hovertemplate": "%{text} problems<extra></extra>",
    }
    return {"data": [trace], "layout": _layout(lying=not ordered)}


def _two(before: Sequence[str], after: Sequence[str], names: Sequence[str]) -> Figure:
    if not after:
        return {}
    data = [
        {
            "type": "bar",
            "name": name,
            "x": list(names),
            "y": [values.count(x) for x in names],
            "marker": {"color": color},
            "hovertemplate": "%{y:,} problems",
        }
        for name, values, color in (("before", before, PALE), ("after", after, LINE))
    ]
    return {"data": data, "layout": _layout(lying=False)}


def _layout(*, lying: bool) -> Figure:
    words: Figure = {"type": "category", "showgrid": False, "tickfont": {"color": QUIET}}
    numbers: Figure = {"gridcolor": GRID, "tickfont": {"color": QUIET}, "zeroline": False}
    if lying:
        words |= {"automargin": True, "ticksuffix": " "}
    return {
        "height": 250,
        "margin": {"l": 46, "r": 48, "t": 22, "b": 44},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "bargap": 0.25,
        "xaxis": numbers if lying else words,
        "yaxis": words if lying else numbers,
    }


def _listed(title: str, lines: Sequence[Record]) -> str:
    """Return a table of problems with what was decided on each."""
    if not lines:
        return ""
    rows = "".join(
        f"<tr><th>{escape(line['task_id'])}</th>"
        f"<td>{escape(line.get('reason') or ', '.join(line['repairs']))}</td>"
        f"<td>{escape(line.get('detail', ''))}</td></tr>"
        for line in lines[:SHOWN]
    )
    more = f" (the first {SHOWN} of {len(lines):,})" if lines[SHOWN:] else ""
    return f'<section><h2>{title}{more}</h2><table class="listed">{rows}</table></section>'


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(json.dumps(value))}</td></tr>"
        for key, value in settings.items()
    )
    return f"<details><summary>Settings</summary><table>{rows}</table></details>"
