"""Runs a plan: every run a process of its own, so many at a time, whatever was done before kept.

A run is done when its folder holds `done`. One that was begun is continued by `--resume`, so the
study itself may be killed at any time: its runs die with it, and the next call goes on from their
checkpoints.
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
LOOK_EVERY_S = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass
class Running:
    """A process of a run."""

    run: StudyRun
    process: subprocess.Popen[bytes]
    begun: float


def run_plan(plan: Plan, folder: Path, report: Callable[[list[str]], None]) -> None:
    """Do all runs of a plan that are not done.

    Args:
        plan: of the study.
        folder: of the study; a folder for each run is made in it.
        report: is called about once a second and after every run, with a line for each process.

    Raises:
        RunError: a run failed, or another process is at work in the folder.
    """
    with _alone(folder):
        left = [run for run in plan.runs if not is_done(folder, run)]
        at_work: list[Running] = []
        try:
            while left or at_work:
                for one in [r for r in at_work if r.process.poll() is not None]:
                    at_work.remove(one)
                    _finish(folder, one)
                for run in list(left):
                    ready = run.needs is None or is_done(folder, run.needs)
                    if ready and len(at_work) < plan.jobs:
                        left.remove(run)
                        at_work.append(_begin(plan, folder, run))
                report([_line(folder, one) for one in at_work])
                if at_work:
                    time.sleep(LOOK_EVERY_S)
        finally:
            for one in at_work:
                one.process.terminate()
            for one in at_work:
                one.process.wait()


def is_done(folder: Path, run: StudyRun) -> bool:
    """Whether a run has come to its end."""
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
    return Running(run, process, time.monotonic())


def _die_with_parent() -> None:
    """Have the kernel end this child when the study is gone, be it by kill -9."""
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
    """Return where a process stands."""
    records = read_records(folder / one.run.name)
    where = f"{records[-1]['phase']} step {records[-1]['step']}" if records else "starting"
    return f"{one.run.name}: {where}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two studies in one folder would share its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder}: another study is at work in it; wait, or give another --out"
            ) from None
        yield
