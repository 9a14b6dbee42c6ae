"""Several processes, as torchrun starts them, train as one does; here they share a CPU by gloo."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import SMALL, constant_problems, run

from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import load_state, newest_state

TESTS = Path(__file__).parents[1]
STEPS = ("sft.steps=2", "steps=4", "checkpoint.every=2", "checkpoint.keep=9", "eval.every=2")
ADAMW = ("sft.optimizer=adamw", "ppo.optimizer=adamw")  # Muon rounds to bfloat16 on its way


def started(count: int, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [*launcher, f"--nproc-per-node={count}", *map(str, command)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def torchrun(count: int, *command: str | Path) -> tuple[str, str]:
    """Return what processes that succeed say on stdout and stderr."""
    process = started(count, *command)
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-5000:]
    return out, error


def train(count: int, folder: Path, *overrides: str) -> tuple[str, str]:
    return torchrun(count, "-m", "stepcoder.train", f"run_dir={folder}", *SMALL, *overrides)


# Updates


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What 1, 2 and 4 processes end with, by number and kind."""
    folder = tmp_path_factory.mktemp("updates")
    for count in (1, 2, 4):
        kinds = [kind for kind in BOUNDS if count < 4 or kind.endswith("-value")]
        torchrun(count, TESTS / "helpers" / "sharded_updates.py", folder / f"{count}.pt", *kinds)
    return {count: torch.load(folder / f"{count}.pt") for count in (1, 2, 4)}


# Of figures, and of weights of size 0.4. In bfloat16 a weight may be rounded to the next number;
# Muon's iteration is in bfloat16, and what it gets differs in the last bit of float32. Adapters are
# float32, beside weights in bfloat16 too, and an outcome critic's probabilities.
BOUNDS = {
    "float64-adamw-value": (1e-12, 1e-12),
    "float64-adamw-outcome": (1e-6, 1e-12),
    "float32-adamw-value": (2e-6, 1e-5),
    "float32-adamw-lora": (2e-6, 1e-5),
    "float32-adamw-compiled": (2e-6, 1e-5),
    "float32-muon-value": (2e-4, 2e-4),
    "bfloat16-adamw-value": (0.03, 0.02),
    "bfloat16-adamw-lora": (0.03, 0.02),
}


@pytest.mark.parametrize(
    ("count", "kind"),
    [(2, kind) for kind in BOUNDS] + [(4, kind) for kind in BOUNDS if kind.endswith("-value")],
)
def test_processes_together_do_the_updates_of_one(found, count, kind):
    alone, together = found[1][kind], found[count][kind]
    figure_bound, weight_bound = BOUNDS[kind]
    assert alone["figures"][1]["policy_grad_norm"] > 0.1
    for ours, theirs in zip(alone["figures"], together["figures"], strict=True):
        assert theirs == pytest.approx(ours, abs=figure_bound)
    for name, weights in alone["weights"].items():
        for key, weight in weights.items():
            same = together["weights"][name][key]
            assert same.dtype == weight.dtype
            torch.testing.assert_close(same, weight, rtol=0, atol=weight_bound)


def test_what_all_have_is_not_sent_and_who_fails_alone_says_so_at_once():
    process = started(2, TESTS / "helpers" / "meetings.py")
    _, error = process.communicate(timeout=25)  # the first would wait for the second for hours
    assert process.returncode != 0
    assert error.count("RunError: only the second fails") == 1
    assert "[rank0]" not in error


# Runs


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.path={constant_problems(tmp_path_factory.mktemp('problems') / 'numbers.jsonl')}"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, problems: str) -> Path:
    """A run of two processes; checkpoints are of RL's steps 2 and 4."""
    folder = tmp_path_factory.mktemp("two") / "run"
    out, _ = train(2, folder, *STEPS, *ADAMW, problems)
    assert out.count("rl 4/4") == 1  # the first process alone shows and writes
    return folder


def state_of(folder: Path, step: int = 4) -> dict[str, Any]:
    state = load_state(folder / "checkpoints" / f"rl-{step:06d}")
    state.pop("parts", None)  # sums of files
    return state


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}.{key}")
    else:
        yield path, value


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Of all weights; whatever else a state holds must be there too, moments and all."""
    assert [path for path, _ in leaves(ours)] == [path for path, _ in leaves(theirs)]
    pairs = [(v, dict(leaves(theirs))[p]) for p, v in leaves(ours) if p.startswith(".policy.")]
    return max((a - b).abs().max().item() for a, b in pairs)


def test_rollouts_curriculum_and_rewards_are_those_of_one_process(tmp_path, two, problems):
    assert run(tmp_path / "one", *STEPS, *ADAMW, problems) == 0
    one, both = (read_records(folder) for folder in (tmp_path / "one", two))
    assert [r["phase"] for r in both] == [r["phase"] for r in one]
    for ours, theirs in zip(one, both, strict=True):
        for name in ("reward_mean", "stages", "verdicts", "tokens_total", "eval", "test"):
            assert theirs.get(name) == ours.get(name)
        for name in ("loss", "policy_loss", "value_loss", "kl", "entropy", "policy_grad_norm"):
            assert theirs.get(name) == pytest.approx(ours.get(name), abs=1e-4)
    assert largest_difference(state_of(tmp_path / "one"), state_of(two)) < 1e-4
    assert sorted(p.name for p in two.iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
    # A checkpoint of one process resumes on two.
    shutil.rmtree(tmp_path / "one" / "checkpoints" / "rl-000004")
    torchrun(2, "-m", "stepcoder.train", "--resume", tmp_path / "one")
    assert largest_difference(state_of(tmp_path / "one"), state_of(two)) < 1e-4


def test_a_recipe_with_further_models_learns_what_one_process_does(tmp_path, problems):
    options = ("recipe=coderl", "sft.steps=1", "steps=2", "eval.every=2", *ADAMW, problems)
    assert run(tmp_path / "one", *options) == 0
    train(2, tmp_path / "two", *options)
    one, both = (read_records(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(one, both, strict=True):
        for name in ("reward_mean", "verdicts", "tokens_total"):
            assert theirs.get(name) == ours.get(name)
        for name in ("policy_loss", "value_loss", "imitation_loss"):
            assert theirs.get(name) == pytest.approx(ours.get(name), abs=1e-4)


def test_each_process_writes_its_part_and_a_damaged_one_is_not_taken(tmp_path, two):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two / "checkpoints", folder)
    newest = folder / "rl-000004"
    sizes = {path.name: path.stat().st_size for path in (newest / "parts").glob("__*")}
    assert len(sizes) == 2
    assert max(sizes.values()) < 1.3 * min(sizes.values())
    empty = torch.load(newest / "state.pt", weights_only=True)["policy"]
    assert all(weight.is_meta for weight in empty.values())  # none is there twice
    notes: list[str] = []

    def step() -> int:
        return newest_state(folder, notes.append)["step"]

    assert (step(), notes) == (4, [])
    for name in [*sizes, ".metadata"]:
        file = newest / "parts" / name
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert step() == 2
        file.unlink()
        assert step() == 2
        file.write_bytes(data)
    assert notes == [f"{folder}: rl-000004 damaged; going on from rl-000002"] * 6


@pytest.mark.parametrize("count", [2, 1, 4])
def test_a_checkpoint_resumes_on_any_number_of_processes(tmp_path, two, count):
    half = tmp_path / "half"
    shutil.copytree(two, half)
    shutil.rmtree(half / "checkpoints" / "rl-000004")
    torchrun(count, "-m", "stepcoder.train", "--resume", half)
    whole, resumed = state_of(two), state_of(half)
    if count == 2:
        pairs = zip(leaves(whole), leaves(resumed), strict=True)
        for (path, ours), (_, theirs) in pairs:
            same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
            assert same, path
    else:
        assert largest_difference(whole, resumed) < 1e-4


def test_a_signal_saves_and_stops_all_of_them(tmp_path, problems):
    folder = tmp_path / "run"
    options = (f"run_dir={folder}", *SMALL, "steps=1000", "sft.steps=0", problems)
    process = started(2, "-m", "stepcoder.train", *options)
    deadline = time.monotonic() + 300
    while process.poll() is None and not (
        (folder / "metrics.jsonl").exists() and len(read_records(folder)) > 2
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert error.count("stopped at step") == 1
    assert "saved; continue with --resume" in error
    last = read_records(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"rl-{last:06d}" / "state.pt").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model.lora_rank=2",), "model.lora_rank: the embedded model"),  # told by the first
        (("data.path=nowhere.jsonl",), '"nowhere.jsonl" does not exist'),  # found by all
    ],
)
def test_what_cannot_be_is_one_line_of_one_process(tmp_path, options, message):
    process = started(2, "-m", "stepcoder.train", f"run_dir={tmp_path / 'run'}", *SMALL, *options)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert error.count(message) == 1
    assert "stepcoder/train.py" not in error  # no traceback of ours
