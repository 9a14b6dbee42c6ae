"""Options that no preset sets: a run shows what each one does."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import pvariance
from typing import Any

import pytest
import torch
from helpers.small_runs import constant_problems, run
from safetensors.torch import load_file

from stepcoder.config import load_config
from stepcoder.errors import RunError
from stepcoder.method.rewards import REWARDS
from stepcoder.report.run_dir import read_records, read_rollout_samples, sample_files
from stepcoder.run.checkpoint import load_state, newest_checkpoint
from stepcoder.run.open_run import open_judge
from stepcoder.sandbox import Status

ONE_STEP = ["steps=1", "eval.every=1", "ppo.critic_warmup_steps=0", "ppo.minibatches=1"]


def problems(path: Path, *bodies: str, checker: str | None = None) -> Path:
    """Problems that all read the same and pass if they return 3; each body is a solution."""
    tests: dict[str, Any] = {"kind": "call", "inputs": [[[1]]], "outputs": [3]}
    if checker is not None:
        tests["checker"] = {"kind": "custom", "source": checker}
    records = [
        {
            "task_id": f"{path.stem}/{number}",
            "prompt": "Give a number.",
            "starter_code": "def f(x):\n",
            "canonical_solution": f"def f(x):\n{body}",
            "entry_point": "f",
            "tests": tests,
            "split": "train",
        }
        for number, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A policy whose programs pass, fail or do not compile: the options of a run from it."""
    folder = tmp_path_factory.mktemp("start")
    bodies = [f"    y = 3\n    return {end}\n" for end in ("3", "4", ")")]
    given = f"data.path={problems(folder / 'mixed.jsonl', *bodies * 2)}"
    assert run(folder / "run", given, "sft.steps=60", "sft.share=1.0", "steps=0") == 0
    model = f"model.path={folder / 'run' / 'start'}"
    return [given, model, "dtype=float32", "sft.steps=0", "sft.share=1.0"]


def step(folder: Path, start: list[str], *overrides: str) -> dict[str, Any]:
    """The record of one step of RL from the shared start."""
    assert run(folder, *start, *ONE_STEP, "rollout.samples_per_task=8", *overrides) == 0
    return read_records(folder)[-1]


def stages(folder: Path) -> set[int]:
    """The stages of a run's samples."""
    return {
        sample.stage for samples in read_rollout_samples(sample_files(folder)) for sample in samples
    }


def test_problems_held_out_come_from_a_file_of_their_own(tmp_path, start):
    held_out = constant_problems(tmp_path / "held_out.jsonl", (1, 2, 3))
    text = held_out.read_text().replace("Give a number.", "Give another.")
    held_out.write_text(text.replace("constant/", "held/"))
    options = ["steps=0", "eval.limit=null"]
    assert run(tmp_path / "one", *start, *options) == 0
    assert run(tmp_path / "two", *start, *options, f"data.validation_path={held_out}") == 0
    assert read_records(tmp_path / "one")[0]["eval"] == {}
    assert read_records(tmp_path / "two")[0]["eval"]["problems"] == 3


def test_scopes_count_comprehensions_too_and_full_prompts_give_none_of_them(tmp_path, start):
    body = "    a = [i for i in x]\n    b = [i for i in a]\n    return 3\n"
    given = f"data.path={problems(tmp_path / 'comprehensions.jsonl', *[body] * 4)}"
    record = step(tmp_path / "branches", start, given)
    assert record["stages"] == {"0": 4}

    step(tmp_path / "all", start, given, "curriculum.scopes=all")
    assert stages(tmp_path / "all") == {1}
    options = ["curriculum.scopes=all", "curriculum.full_prompt_share=1"]
    record = step(tmp_path / "full", start, given, *options)
    assert stages(tmp_path / "full") == {0}
    assert record["stages"] == {"1": 4}


def test_compile_errors_train_from_their_line_on_and_the_loss_is_a_mean_of_what_is_named(
    tmp_path, start
):
    whole = step(tmp_path / "all", start, "fgo.compile_error=all")
    part = step(tmp_path / "from_error", start, "fgo.compile_error=from_error")
    assert whole["verdicts"] == part["verdicts"]
    assert whole["verdicts"]["compile error"] > 0
    assert whole["masked_share"] == 0
    assert part["masked_share"] > 0

    options = ["fgo.compile_error=from_error", "fgo.normalizer=response"]
    diluted = step(tmp_path / "response", start, *options)
    share = 1 - part["masked_share"]
    assert diluted["policy_loss"] == pytest.approx(part["policy_loss"] * share, rel=1e-4)


def test_weight_decay_of_the_supervised_phase_shrinks_the_weights(tmp_path, start):
    given = start[0]
    options = [given, "sft.steps=1", "sft.lr=1e-3", "sft.share=1.0", "steps=0"]
    assert run(tmp_path / "none", *options, "sft.weight_decay=0") == 0
    assert run(tmp_path / "much", *options, "sft.weight_decay=500") == 0
    none, much = (
        load_file(tmp_path / name / "start" / "model.safetensors") for name in ("none", "much")
    )
    for name, weights in none.items():
        assert 0.4 < much[name].norm() / weights.norm() < 0.6, name


def test_the_entropy_bonus_is_in_the_loss(tmp_path, start):
    without = step(tmp_path / "without", start, "recipe=ppo")
    with_it = step(tmp_path / "with", start, "recipe=ppo", "ppo.entropy_bonus=0.5")
    expected = without["policy_loss"] - 0.5 * without["entropy"]
    assert with_it["policy_loss"] == pytest.approx(expected, rel=1e-4)
    assert without["entropy"] > 0.1


def test_a_rate_that_moves_nothing_is_said_once(tmp_path, start, capfd):
    for rate in ("1e-9", "1e-2"):
        options = ("steps=9", "ppo.minibatches=1", "eval.every=9", "ppo.critic_warmup_steps=0")
        step(tmp_path / rate, start, *options, f"ppo.policy_lr={rate}")
        told = [line for line in capfd.readouterr().out.splitlines() if "hardly learns" in line]
        assert len(told) == (rate == "1e-9")
        if told:
            assert told[0].startswith("after 8 steps the policy is ")
            assert told[0].endswith("raise ppo.policy_lr (1e-09)")


def test_scaled_rewards_have_a_deviation_of_one(tmp_path, start):
    plain = step(tmp_path / "plain", start, "ppo.scale_rewards=false")
    scaled = step(tmp_path / "scaled", start, "ppo.scale_rewards=true")
    counts = scaled["verdicts"].items()
    variance = pvariance([REWARDS[Status(name)] for name, count in counts for _ in range(count)])
    assert variance < 0.7
    # The fresh critic's values are near 0: its loss is about half the mean square of the rewards.
    assert scaled["value_loss"] == pytest.approx(plain["value_loss"] / variance, rel=0.15)


def test_a_critic_of_its_own_starts_from_its_folder(tmp_path, start):
    given = start[0]
    other = ["seed=1", "sft.steps=1", "sft.share=1.0", "steps=0"]
    assert run(tmp_path / "other", given, *other) == 0
    folder = tmp_path / "other" / "start"
    assert run(tmp_path / "run", *start, "steps=0", f"model.critic_path={folder}") == 0
    critic = load_state(newest_checkpoint(tmp_path / "run" / "checkpoints"))["critic"]
    weights = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(critic["backbone.embed_tokens.weight"], weights)


def test_a_run_goes_on_over_the_share_of_sandbox_failures_that_is_allowed(tmp_path, start, capfd):
    bodies = ["    return 3\n", "    return 4\n"]
    check = "def check(input, expected, got):\n    raise OSError('disk full')\n"
    sound = problems(tmp_path / "sound.jsonl", *bodies)
    broken = problems(tmp_path / "broken.jsonl", *bodies, checker=check)
    half = tmp_path / "half.jsonl"
    half.write_text(sound.read_text() + broken.read_text())
    given = [f"data.path={half}"]
    record = step(tmp_path / "on", start, *given, "rollout.max_infrastructure_errors=0.5")
    assert 2 <= record["infrastructure_errors"] <= 16
    stopped = [*start, *ONE_STEP, "rollout.samples_per_task=8", *given]
    assert run(tmp_path / "stopped", *stopped) == 2
    assert "rollout.max_infrastructure_errors" in capfd.readouterr().err


def test_a_library_that_is_not_installed_is_one_line() -> None:
    config = load_config(None, ["sandbox.libraries=[absent]"])
    with pytest.raises(RunError, match=r"^sandbox\.libraries: 'absent' is not installed; pip inst"):
        open_judge(config, print)
