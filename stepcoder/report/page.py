"""python -m stepcoder.report RUN_DIR: everything a run left behind, on one self-contained page.

Takes a run folder (see `rundir`), writes its report.html: key figures, plots, sample rollouts and
the configuration. The page opens from disk and never uses the network: its scripts are inside it,
and its content security policy forbids everything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml
from plotly.offline.offline import get_plotlyjs

from stepcoder.command import Parser, exit_status, say
from stepcoder.errors import RunError
from stepcoder.journal import replace_file
from stepcoder.report.charts import Chart, Record, charts, evaluations, series_of
from stepcoder.report.progress import clock
from stepcoder.report.run_dir import CONFIG, read_records, read_samples
from stepcoder.report.samples import Sample, to_html

REPORT = "report.html"
SAMPLES_SHOWN = 4  # of the newest step, and half as many of the first
SHARE_OF_ENDS = 0.1  # "first" and "last" are means over this share of the steps


def write_report(run: Path) -> Path:
    """Write the report of a run folder and return its path.

    Raises:
        RunError: the folder holds no run, or a broken metrics.jsonl.
    """
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} holds no run ({CONFIG} is missing)")
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) or {}
    page = render(run.resolve().name, config, read_records(run), read_samples(run))
    replace_file(run / REPORT, page)
    return run / REPORT


def render(
    name: str,
    config: Mapping[str, Any],
    records: Sequence[Record],
    samples: Sequence[Sequence[Sample]],
) -> str:
    """Return the page. `samples` holds the samples of each step that has some, in order."""
    drawn = charts(records)
    body = [
        f"<header><h1>{escape(name)}</h1><p>{escape(_subtitle(config, records))}</p></header>",
        _figures(records),
        chart_section(drawn) if drawn else '<p class="empty">No step has been logged yet.</p>',
        _samples(samples),
        _configuration(config),
    ]
    return document(name, "".join(body), drawn)


def document(title: str, body: str, drawn: Sequence[Chart]) -> str:
    """Return a self-contained page: `body` is HTML, which has a place for each of the charts."""
    data = json.dumps({chart.name: chart.figure for chart in drawn}).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><title>{escape(title)} · StepCoder</title>\n'
        f"<style>{STYLE}</style></head>\n<body><main>{body}</main>\n"
        f"<script>{_plotly()}</script>\n<script>const FIGURES = {data};\n{SCRIPT}</script>\n"
        "</body></html>\n"
    )


def chart_section(drawn: Sequence[Chart]) -> str:
    """Return the places of charts, with their titles and notes."""
    return f'<section class="charts">{"".join(map(_chart, drawn))}</section>'


def _plotly() -> str:
    """Return plotly's JavaScript, which comes with the Python package."""
    source: str = get_plotlyjs()  # type: ignore[no-untyped-call]
    return source


def _subtitle(config: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Return what was trained on what, how far it is, and how pass@1 is measured."""
    model = (config.get("model") or {}).get("path") or "small embedded model"
    data = (config.get("data") or {}).get("path") or "embedded"
    problems = "our own problems" if data == "embedded" else data
    steps = max((r["step"] for r in records if r["phase"] == "rl"), default=0)
    temperature = (config.get("eval") or {}).get("temperature", 0)
    decoding = f"programs sampled at temperature {temperature:g}" if temperature else "greedy"
    return (
        f"{model} on {problems} · RL step {steps} of {config.get('steps', '?')} · "
        f"seed {config.get('seed', '?')} · pass@1: {decoding}"
    )


def _figures(records: Sequence[Record]) -> str:
    """Return the key figures: how it started, how it is now."""
    rl = [record for record in records if record["phase"] == "rl"]
    cards = []
    for title, part in (("Held-out pass@1", "eval"), ("Test pass@1", "test")):
        points = [value for _, value in evaluations(records, part)]
        if points:
            cards.append(_before_after(title, points[0], points[-1], points=True))
    for title, key in (("Training pass rate", "pass_rate"), ("Reward", "reward_mean")):
        values = [value for _, value in series_of(rl, key)]
        if values:
            count = max(1, round(len(values) * SHARE_OF_ENDS))
            first, last = sum(values[:count]) / count, sum(values[-count:]) / count
            cards.append(_before_after(title, first, last, points=key == "pass_rate"))
    shares = [_share_at_0(record["stages"]) for record in rl if record.get("stages")]
    if shares:
        title = "Problems at stage 0"
        cards.append(_before_after(title, shares[0], shares[-1], points=True))
    masked = [value for _, value in series_of(rl, "masked_share")]
    if masked:
        mean = sum(masked) / len(masked)
        cards.append(_card("Tokens masked by FGO", f"{mean:.0%}", "of the responses, mean"))
    seconds = sum(sum((record.get("time") or {}).values()) for record in records)
    if seconds:
        rollouts = sum(record.get("rollouts") or 0 for record in rl)
        tokens = sum(record.get("tokens") or 0 for record in rl)
        cards.append(
            _card("Time", clock(seconds), f"{rollouts:,} rollouts, {_short(tokens)} tokens")
        )
    return f'<section class="figures">{"".join(cards)}</section>' if cards else ""


def _short(count: int) -> str:
    """Return a count as a person says it: 950, 21k, 2.6M."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f}M"
    return f"{count / 1e3:.0f}k" if count >= 10_000 else f"{count:,}"


def _share_at_0(stages: Mapping[str, int]) -> float:
    return stages.get("0", 0) / max(sum(stages.values()), 1)


def _before_after(title: str, first: float, last: float, points: bool) -> str:
    """Return a card of two values; `points` shows shares as percentages."""
    if points:
        shown, change = f"{last:.1%}", f"{100 * (last - first):+.1f} points"
        start = f"{first:.1%}"
    else:
        shown, start, change = f"{last:+.2f}", f"{first:+.2f}", f"{last - first:+.2f}"
    return _card(title, shown, f"from {start} ({change})")


def _card(title: str, value: str, note: str) -> str:
    return f"<div><h2>{escape(title)}</h2><b>{escape(value)}</b><p>{escape(note)}</p></div>"


def _chart(chart: Chart) -> str:
    return (
        f"<figure><h2>{escape(chart.title)}</h2><p>{escape(chart.note)}</p>"
        f'<div class="plot" id="{chart.name}"></div></figure>'
    )


def _samples(samples: Sequence[Sequence[Sample]]) -> str:
    """Return the newest step's samples, then some of the first step's, to compare."""
    filled = [step for step in samples if step]
    if not filled:
        return ""
    shown = [filled[-1][:SAMPLES_SHOWN]]
    if len(filled) > 1:
        shown.append(filled[0][: SAMPLES_SHOWN // 2])
    groups = [
        f'<h3 class="step">Step {group[0].step}</h3>'
        f'<div class="samples">{"".join(map(to_html, group))}</div>'
        for group in shown
    ]
    return (
        '<section><h2>Sample rollouts</h2><p class="legend"><span class="key given">given</span>'
        '<span class="key ran">ran in a test</span>'
        '<span class="key skipped">did not run: FGO masks it</span>'
        '<span class="key">unmarked: no line ran, or after the code</span></p>'
        f"{''.join(groups)}</section>"
    )


def _configuration(config: Mapping[str, Any]) -> str:
    sections = {"run": {k: v for k, v in config.items() if not isinstance(v, dict)}}
    sections |= {key: value for key, value in config.items() if isinstance(value, dict)}
    tables = []
    for title, values in sections.items():
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(json.dumps(value))}</td></tr>"
            for key, value in values.items()
        )
        tables.append(f"<table><caption>{escape(title)}</caption>{rows}</table>")
    return (
        "<details><summary>Configuration</summary>"
        f'<div class="configuration">{"".join(tables)}</div></details>'
    )


SCRIPT = """
const drawn = Object.entries(FIGURES).map(([name, figure]) =>
  Plotly.newPlot(name, figure.data, figure.layout, {displayModeBar: false, responsive: true}));
Promise.all(drawn).then(() => { document.body.dataset.drawn = drawn.length; });
"""

STYLE = """
:root { --ink: #1f2733; --quiet: #5d6675; --rule: #e1e5eb; --paper: #fff;
  --ran: #e3f3e9; --ran-edge: #3a9e74; --skipped: #fbeceb; --skipped-edge: #d9a5a1;
  --mono: ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 32px clamp(16px, 4vw, 48px) 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
header > p { margin: 4px 0 0; color: var(--quiet); overflow-wrap: anywhere; }
section > h2 { font-size: 20px; margin: 48px 0 4px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr));
  gap: 20px 32px; margin: 28px 0 36px; padding: 20px 0; border: solid var(--rule);
  border-width: 1px 0; }
.figures h2 { font-size: 13px; font-weight: 500; color: var(--quiet); margin: 0; }
.figures b { font-size: 30px; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.figures p { margin: 0; font-size: 13px; color: var(--quiet); }
.charts { display: grid; gap: 36px 48px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure h2 { font-size: 16px; margin: 0; }
figure p { margin: 0 0 6px; font-size: 13px; line-height: 1.4; color: var(--quiet);
  min-height: 2.8em; }
.plot { height: 250px; }
.legend { margin: 0 0 8px; font-size: 13px; display: flex; flex-wrap: wrap; gap: 6px 18px; }
.key { padding: 1px 10px; border-left: 3px solid transparent; }
.key.given { color: var(--quiet); font-style: italic; border-color: #c3c9d2; }
.ran { background: var(--ran); border-color: var(--ran-edge); }
.skipped { background: var(--skipped); border-color: var(--skipped-edge); }
.line.outside { color: #8b929d; }
h3.step { font-size: 14px; margin: 20px 0 8px; color: var(--quiet); font-weight: 600; }
.samples { display: grid; gap: 24px 32px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); }
.sample { min-width: 0; border: 1px solid var(--rule); border-radius: 8px; overflow: hidden; }
.sample header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px;
  padding: 12px 16px 0; font-size: 13px; color: var(--quiet); }
.sample h3 { font-size: 15px; margin: 0; color: var(--ink); overflow-wrap: anywhere; }
.status { font-weight: 600; color: #a8541a; }
.status.accepted, .tests .accepted b { color: #237a55; }
.status.compile-error, .tests .compile-error b { color: #b3332c; }
.description { padding: 0 16px; margin: 6px 0 10px; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 9em; overflow-y: auto; }
.program { font: 13px/1.55 var(--mono); overflow-x: auto; border: solid var(--rule);
  border-width: 1px 0; }
.line { display: flex; border-left: 3px solid transparent; min-width: max-content; }
.line i { flex: none; width: 3.2em; padding-right: 1em; text-align: right; color: #9aa1ab;
  font-style: normal; user-select: none; }
.line code { font: inherit; white-space: pre; padding-right: 16px; }
.line.given { background: none; border-color: #c3c9d2; }
.line.given.ran { border-color: var(--ran-edge); }
.line .given { color: #78818e; font-style: italic; }
.tests { margin: 10px 0; padding: 0 16px; list-style: none; font-size: 13px;
  overflow-wrap: anywhere; }
.tests b { color: #a8541a; font-weight: 600; }
details { margin-top: 48px; border-top: 1px solid var(--rule); padding-top: 16px; }
summary { font-size: 20px; font-weight: 700; cursor: pointer; }
.configuration { columns: 340px auto; column-gap: 40px; margin-top: 12px; }
table { border-collapse: collapse; width: 100%; margin-bottom: 20px; break-inside: avoid;
  font-size: 13px; }
caption { text-align: left; font-weight: 650; padding: 4px 0; }
th, td { text-align: left; padding: 3px 8px 3px 0; border-top: 1px solid var(--rule);
  vertical-align: top; }
th { font-weight: 400; color: var(--quiet); width: 50%; }
td { font-family: var(--mono); font-size: 12px; overflow-wrap: anywhere; }
.empty { color: var(--quiet); }
@media print { details { display: none; } figure, .sample { break-inside: avoid; } }
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of the run folder that is named on the command line, and say where."""
    parser = Parser("stepcoder.report", "Write RUN_DIR/report.html.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the folder of a run")
    folder = parser.parse_args(argv).run

    def work() -> int:
        say(str(write_report(folder)), sys.stdout)
        return 0

    return exit_status(work, "stepcoder.report", resumable=False)
