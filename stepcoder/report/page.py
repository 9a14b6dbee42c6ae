"""The report of a run: `write_report`.

Takes a run folder (see `run_dir`), writes its report.html: key figures, charts, sample rollouts and
the configuration, on one self-contained page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from stepcoder.errors import RunError
from stepcoder.journal import Record, replace_file
from stepcoder.report.charts import charts, evaluations, series_of
from stepcoder.report.html import page
from stepcoder.report.progress import TRIES, clock
from stepcoder.report.run_dir import CONFIG, read_records, read_rollout_samples, sample_files
from stepcoder.report.samples import to_html

REPORT = "report.html"
STEPS_SHOWN = 8  # in the viewer of rollouts: the first, the newest, and some between
ROLLOUTS_SIZE = 150_000  # characters of HTML that the viewer's rollouts take together
NAMED = 10  # rows of each list of what is slow
SHARE_OF_ENDS = 0.1  # "first" and "last" are means over this share of the steps


def write_report(run: Path, name: str = REPORT, reload_s: int = 0) -> Path:
    """Write the report of a run folder as a file of it, and return its path.

    With `reload_s` the browser loads the page anew every so many seconds.

    Raises:
        RunError: the folder holds no run, or a broken metrics.jsonl.
    """
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} holds no run ({CONFIG} is missing)")
    config = read_config(run)
    records = read_records(run)
    sections = {"run": {k: v for k, v in config.items() if not isinstance(v, dict)}}
    sections |= {key: value for key, value in config.items() if isinstance(value, dict)}
    text = page(
        "report.html",
        run.resolve().name,
        _subtitle(config, records),
        charts(records),
        cards=_key_figures(records),
        lists=_slow_and_stuck(records),
        sections=sections,
        reload_s=reload_s,
        written=time.strftime("%H:%M:%S"),
        **_rollouts(run),
    )
    replace_file(run / name, text)
    return run / name


def read_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run as plain data: an older one may have other options."""
    return yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) or {}


def _subtitle(config: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Return the model, the problems, the progress, and how pass@1 is measured."""
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


def _key_figures(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Return title, value and note of each key figure: how it started, how it is now."""
    rl = [record for record in records if record["phase"] == "rl"]
    cards = []
    for title, part in (("Held-out pass@1", "eval"), ("Test pass@1", "test")):
        points = [value for _, value in evaluations(records, part)]
        if points:
            cards.append(_before_after(title, points[0], points[-1]))
    for title, key in (("Training pass rate", "pass_rate"), ("Reward", "reward_mean")):
        values = [value for _, value in series_of(rl, key)]
        if values:
            count = max(1, round(len(values) * SHARE_OF_ENDS))
            first, last = sum(values[:count]) / count, sum(values[-count:]) / count
            cards.append(_before_after(title, first, last, percent=key == "pass_rate"))
    shares = [_share_at_0(record["stages"]) for record in rl if record.get("stages")]
    if shares:
        cards.append(_before_after("Problems at stage 0", shares[0], shares[-1]))
    masked = [value for _, value in series_of(rl, "masked_share")]
    if masked:
        mean = sum(masked) / len(masked)
        cards.append(("Tokens masked by FGO", f"{mean:.0%}", "of the responses, mean"))
    seconds = sum(sum((record.get("time") or {}).values()) for record in records)
    if seconds:
        rollouts = sum(record.get("rollouts") or 0 for record in rl)
        tokens = sum(record.get("tokens") or 0 for record in rl)
        cards.append(("Time", clock(seconds), f"{rollouts:,} rollouts, {_short(tokens)} tokens"))
    return cards


def _slow_and_stuck(records: Sequence[Record]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return title, note and rows (task_id, what of it) of what took longest or never passes."""
    lists = []
    for key, title, unit in (
        ("generate", "Longest completions", "tokens"),
        ("judge", "Slowest to judge", "s"),
    ):
        worst: dict[str, tuple[float, str, int]] = {}
        for record in records:
            for task_id, value, end in (record.get("slowest") or {}).get(key, []):
                worst[task_id] = max(worst.get(task_id, (-1, "", 0)), (value, end, record["step"]))
        first = sorted(worst.items(), key=lambda item: item[1][0], reverse=True)[:NAMED]
        rows = [(name, f"{value:,g} {unit}, {end}, step {n}") for name, (value, end, n) in first]
        lists.append((title, "Of all steps, each problem once.", rows))
    stuck: Record = next(
        (r["never_passed"] for r in reversed(records) if r.get("never_passed")), {}
    )
    rows = [(task_id, f"{tries} attempts") for task_id, tries in stuck.get("most_tried", [])]
    note = (
        f"{stuck.get('problems', 0):,} problems, in {TRIES} attempts or more, whatever was given."
    )
    lists.append(("Never passed", note, rows))
    return [entry for entry in lists if entry[2]]


def _short(count: int) -> str:
    """Return a count in short: 950, 21k, 2.6M."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f}M"
    return f"{count / 1e3:.0f}k" if count >= 10_000 else f"{count:,}"


def _share_at_0(stages: Mapping[str, int]) -> float:
    return stages.get("0", 0) / max(sum(stages.values()), 1)


def _before_after(
    title: str, first: float, last: float, percent: bool = True
) -> tuple[str, str, str]:
    if percent:
        change = f"{100 * (last - first):+.1f} points"
        return title, f"{last:.1%}", f"from {first:.1%} ({change})"
    return title, f"{last:+.2f}", f"from {first:+.2f} ({last - first:+.2f})"


def _rollouts(run: Path) -> dict[str, Any]:
    """Return the viewer's rollouts as HTML, step by step, and of how many steps they are.

    Each step's first rollout comes before any step's second one, the newest step's before others',
    as long as there is room.
    """
    files, apart = sample_files(run), STEPS_SHOWN - 1
    places = {round(i * (len(files) - 1) / apart) for i in range(STEPS_SHOWN)} if files else set()
    steps = [step for step in read_rollout_samples([files[i] for i in sorted(places)]) if step]
    ranks = [
        (rank, step is not steps[-1], place)
        for place, step in enumerate(steps)
        for rank in range(len(step))
    ]
    shown: dict[tuple[int, int], Markup] = {}
    for rank, _, place in sorted(ranks):
        article = to_html(steps[place][rank], rank + 1)
        if shown and sum(map(len, shown.values())) + len(article) > ROLLOUTS_SIZE:
            break
        shown[place, rank] = article
    return {
        "samples": [shown[place] for place in sorted(shown)],
        "steps_shown": len({step for step, _ in shown}),
        "steps_sampled": len(files),
    }
