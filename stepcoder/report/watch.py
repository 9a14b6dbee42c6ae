"""Follows a run while it trains: its page is written again as it goes on, with a line each time.

Takes a run folder, writes its live.html, which a browser loads anew by itself until the run ends.
The run's own report.html is left to the run: two processes would overwrite each other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepcoder.journal import Record, is_locked
from stepcoder.report.charts import evaluations
from stepcoder.report.page import read_config, write_report
from stepcoder.report.progress import PHASES
from stepcoder.report.run_dir import CONFIG, METRICS, read_records, sample_files

LIVE = "live.html"
RELOAD_S = 10  # between two looks of the browser
POLL_S = 1.0  # between two looks at the folder
SHARE = 0.05  # of the time, at most, goes into writing: the run needs the processor


def watch(run: Path, say: Callable[[str], None]) -> None:
    """Write the page after every step, until no process trains in the folder.

    A folder that does not hold a run yet is waited for, and nothing is written there.

    Raises:
        RunError, OSError: the folder cannot be read or written.
    """
    seen: Any = None
    waits = begun = False
    try:
        while True:
            try:
                (run / CONFIG).stat()  # before that a run may be about to take its lock
                trains = is_locked(run)  # asked first: what is read then is the last there was
                state = [(file, file.stat().st_mtime_ns) for file in _files(run)]
                if state == seen and trains:
                    time.sleep(POLL_S)
                    continue
                start = time.monotonic()
                write_report(run, LIVE, RELOAD_S if trains else 0)
                begun = True
                if state != seen:
                    say(_line(run))
            except FileNotFoundError:  # not there yet, or taken away again: it failed to start
                if not waits:
                    say(f"{run} holds no run yet; waiting for it")
                waits, seen = True, None
                time.sleep(POLL_S)
                continue
            if not trains:
                say(f"no process trains in {run}{_advice(run)}")
                return
            seen = state
            time.sleep(max(POLL_S, (time.monotonic() - start) / SHARE))
    except KeyboardInterrupt:
        if begun:
            write_report(run, LIVE)  # it stands still from now on
        raise


def _files(run: Path) -> list[Path]:
    metrics = run / METRICS
    return [run / CONFIG, *([metrics] if metrics.exists() else []), *sample_files(run)]


def _line(run: Path) -> str:
    """Return the time, how far the run is and how it does, and the page."""
    config, records = read_config(run), read_records(run)
    parts = [time.strftime("%H:%M:%S"), *_progress(config, records), str(run / LIVE)]
    return "  ".join(parts)


def _progress(config: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    if not records:
        return ["no step yet"]
    last = records[-1]
    steps = (config if last["phase"] == "rl" else config.get("sft") or {}).get("steps", "?")
    parts = [f"{PHASES[last['phase']]} step {last['step']} of {steps}"]
    for key, form in (
        ("loss", "loss {:.3f}"),
        ("reward_mean", "reward {:+.2f}"),
        ("pass_rate", "pass {:.1%}"),
    ):
        if last.get(key) is not None:
            parts.append(form.format(last[key]))
    if points := evaluations(records):
        parts.append(f"held-out {points[-1][1]:.1%} (at step {points[-1][0]})")
    return parts


def _advice(run: Path) -> str:
    """Return how a run goes on that stopped before its last step, which tests the policy."""
    records = read_records(run)
    if records and records[-1]["step"] and "test" in records[-1]:
        return ""
    return f"; to go on: python -m stepcoder.train --resume {run}"
