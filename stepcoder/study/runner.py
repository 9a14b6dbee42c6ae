"""Runs a plan: each run is a process of its own, and up to `jobs` of them run at a time.

A run is done when its folder holds `done`. One that was begun is continued by `--resume`, so the
study itself may be killed at any time: its runs are killed with it, and the next call goes on from
their checkpoints.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stepcoder.config import to_yaml
from stepcoder.errors import RunError
from stepcoder.journal import locked
from stepcoder.report.run_dir import CONFIG, read_records
from stepcoder.study.plan import DONE, Plan, StudyRun, is_done
from stepcoder.study.results import setting_of

POLL_S = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def run_plan(plan: Plan, folder: Path, report: Callable[[list[str]], None]) -> None:
    """Run what is left of a plan.

    Args:
        plan: which runs, and how many at a time.
        folder: of the study; each run makes its own folder in it.
        report: is called every POLL_S seconds with a line for each process that runs.

    Raises:
        RunError: a run failed, or another study runs in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"{folder}: another study is at work in it; wait, or give another --out"):
        left = [run for run in plan.runs if not is_done(folder, run)]
        running: dict[StudyRun, subprocess.Popen[bytes]] = {}
        try:
            while left or running:
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    _finish(folder, run, running.pop(run).returncode)
                for run in list(left):
                    ready = all(is_done(folder, before) for before in plan.needs(run))
                    if ready and len(running) < plan.jobs:
                        left.remove(run)
                        running[run] = _begin(plan, folder, run)
                report([_line(folder, run) for run in running])
                if running:
                    time.sleep(POLL_S)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _begin(plan: Plan, folder: Path, run: StudyRun) -> subprocess.Popen[bytes]:
    """Start a run, or continue it where its folder already holds one."""
    config, own = plan.config(run, folder, setting_of(plan, run, folder)), folder / run.name
    command = [sys.executable, "-m", "stepcoder.train"]
    if (own / CONFIG).is_file():
        command += ["--resume", str(own)]
    else:
        given = folder / "configs" / f"{run.name}.yaml"
        given.parent.mkdir(parents=True, exist_ok=True)
        given.write_text(to_yaml(config), encoding="utf-8")
        command += ["--config", str(given)]
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    # Torch's OpenMP threads would spin on the cores of the other runs.
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)} if config.threads else None
    with (logs / f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_die_with_parent,  # this process has no other threads
        )


def _die_with_parent() -> None:
    """Let the kernel kill this child when the study ends, even by kill -9."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _finish(folder: Path, run: StudyRun, status: int) -> None:
    """Mark a run as done. Raises RunError if it failed."""
    if status != 0:
        log = folder / "logs" / f"{run.name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {status}"
        raise RunError(f"{run.name} failed: {reason} (all of it: {log})")
    (folder / run.name / DONE).touch()


def _line(folder: Path, run: StudyRun) -> str:
    """Return a line that says which step a run is at."""
    records = read_records(folder / run.name)
    where = f"{records[-1]['phase']} step {records[-1]['step']}" if records else "starting"
    return f"{run.name}: {where}"
