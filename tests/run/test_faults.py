"""Processes of torchrun that are killed or stopped in the middle of a run (docs/faults.md)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers.finished_runs import states_equal, untimed
from helpers.processes import children_of, environment_of
from helpers.small_runs import SMALL, constant_problems

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
STEPS = ("sft.steps=1", "steps=5", "checkpoint.every=1", "eval.every=2", "checkpoint.keep=9")


def started(*command: str | Path) -> subprocess.Popen[str]:
    """Two processes that train."""
    return subprocess.Popen(
        [*TORCHRUN, "-m", "stepcoder.train", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def strike(process: subprocess.Popen[str], step: int, rank: int, number: int) -> str:
    """Send one of the processes a signal once a step is done; what is said until the end."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"rl {step}/"):
            break
    pids = {environment_of(p).get("RANK"): p for p in children_of(process.pid)}
    os.kill(pids[str(rank)], number)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    return error


def test_killed_and_stopped_processes_cost_nothing_but_time(tmp_path: Path) -> None:
    problems = constant_problems(tmp_path / "constants.jsonl")
    options = (*SMALL, *STEPS, f"data.path={problems}", "device=cpu")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    _, error = started(*options, f"run_dir={whole}").communicate(timeout=300)
    command: tuple[str | Path, ...] = (*options, f"run_dir={folder}")
    ends = "hangs or is out of reach; --resume goes on from the newest checkpoint"
    for step, rank, number in [(1, 1, signal.SIGKILL), (3, 0, signal.SIGSTOP)]:
        error = strike(started(*command), step, rank, number)
        [line] = [line for line in error.splitlines() if "stepcoder.train: " in line]
        assert f"process {rank} (pid " in line
        assert line.endswith(ends)
        assert "stepcoder/train.py" not in error  # no traceback of ours
        command = ("--resume", folder)
    _, error = started(*command).communicate(timeout=300)
    assert states_equal(folder, whole) == []
    assert untimed(folder) == untimed(whole)
