"""What a session on a GPU runs, at tiny shapes on the CPU: time there is too short for mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_every_command_runs_and_every_operation_leaves_a_row(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.pop("STEPCODER_KERNELS", None)
    result = subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu_session.sh"), str(tmp_path), "--dry"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    log = (tmp_path / "session.log").read_text()
    assert result.returncode == 0, result.stdout + result.stderr + log[-4000:]
    steps = [line for line in result.stdout.splitlines() if ": exit " in line]
    assert len(steps) == 8, result.stdout
    failed = [line for line in steps if ": exit 0 " not in line]
    # Without a GPU pytest selects no test of the attention's: it exits with 5, or 0 where it skips.
    assert [line for line in failed if not line.startswith("attention: exit 5")] == [], log[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    ours = {row["operation"] for row in rows if row["provider"] == "ours"}
    assert ours == {"logprob", "ppo_head", "gae", "gae_with_statistics", "ppo_loss", "update"}
    tuned = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    assert {row["kernel"] for row in tuned} >= {"lm_head_tiles", "logits_gradient", "gae"}
    assert all(isinstance(row["ms"], float) for row in tuned), tuned
    assert len(list(tmp_path.iterdir())) <= 8
