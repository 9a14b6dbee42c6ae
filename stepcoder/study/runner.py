"""Runs a plan: each run is a process of its own, and up to `jobs` of them run at a time.

A run is done when its folder holds `done`. One that was begun is continued by `--resume`, so the
study itself may be killed at any time: its runs are killed with it, and the next call goes on from
their checkpoints.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepcoder.config import to_yaml
from stepcoder.errors import RunError
from stepcoder.report.run_dir import CONFIG, read_records
from stepcoder.study.plan import Plan, StudyRun

DONE = "done"
POLL_S = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass
class Running:
    """A process of a run."""

    run: StudyRun
    process: subprocess.Popen[bytes]


def run_plan(plan: Plan, folder: Path, report: Callable[[list[str]], None]) -> None:
    """Run what is left of a plan.

    Args:
        plan: which runs, and how many at a time.
        folder: of the study; each run makes its own folder in it.
        report: is called every POLL_S seconds with a line for each process that runs.

    Raises:
        RunError: a run failed, or another study runs in the folder.
    """
    with _alone(folder):
        left = [run for run in plan.runs if not is_done(folder, run)]
        running: list[Running] = []
        try:
            while left or running:
                for one in [r for r in running if r.process.poll() is not None]:
                    running.remove(one)
                    _finish(folder, one)
                for run in list(left):
                    ready = run.needs is None or is_done(folder, run.needs)
                    if ready and len(running) < plan.jobs:
                        left.remove(run)
                        running.append(_begin(plan, folder, run))
                report([_line(folder, one) for one in running])
                if running:
                    time.sleep(POLL_S)
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.wait()


def is_done(folder: Path, run: StudyRun) -> bool:
    """Return whether a run is done."""
    return (folder / run.name / DONE).exists()


def _begin(plan: Plan, folder: Path, run: StudyRun) -> Running:
    """Start a run, or continue it where its folder already holds one."""
    config, own = plan.config(run, folder), folder / run.name
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
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_die_with_parent,  # this process has no other threads
        )
    return Running(run, process)


def _die_with_parent() -> None:
    """Let the kernel kill this child when the study ends, even by kill -9."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _finish(folder: Path, one: Running) -> None:
    """Mark a run as done. Raises RunError if it failed."""
    log = folder / "logs" / f"{one.run.name}.log"
    if one.process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {one.process.returncode}"
        raise RunError(f"{one.run.name} failed: {reason} (all of it: {log})")
    (folder / one.run.name / DONE).touch()


def _line(folder: Path, one: Running) -> str:
    """Return a line that says which step a run is at."""
    records = read_records(folder / one.run.name)
    where = f"{records[-1]['phase']} step {records[-1]['step']}" if records else "starting"
    return f"{one.run.name}: {where}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder, so that no second study starts the same runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder}: another study is at work in it; wait, or give another --out"
            ) from None
        yield
