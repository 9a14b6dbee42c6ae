"""The account of memory: against measured peaks of whole steps, and for two runs that must fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from stepcoder.models.embedded import train_tokenizer

ROOT = Path(__file__).parents[1]
GIB = 1 << 30
LLAMA = {
    **{"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True},
}
QWEN_1_5B = {
    **{"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960},
    **{"num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
    **{"tie_word_embeddings": True, "max_position_embeddings": 32768},
}
QWEN_7B = {
    **{"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944},
    **{"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
    **{"tie_word_embeddings": False, "max_position_embeddings": 32768},
}
STEP = [
    *("prompt.max_prompt_tokens=96", "rollout.max_new_tokens=48", "rollout.tasks_per_step=6"),
    *("rollout.samples_per_task=4", "rollout.group_size=24", "ppo.minibatches=2"),
    "ppo.tokens_per_microbatch=1152",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of 29 million random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA)).save_pretrained(folder)
    train_tokenizer(["a"], 260).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["dtype=bfloat16"],
        ["dtype=float32", "model.critic=head"],
        ["dtype=float32", "model.checkpointing=true", "ppo.kl_beta=0", "recipe=grpo"],
    ],
    ids=["bfloat16 with critic", "float32 with a head", "recomputed without reference"],
)
def test_the_account_is_within_a_tenth_of_the_peak_of_a_process(
    model: Path, options: list[str]
) -> None:
    command = [sys.executable, "-m", "helpers.measured_step", str(model), *STEP, *options]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    measured, planned = (max(figures[kind].values()) for kind in ("measured", "planned"))
    assert planned == pytest.approx(measured, rel=0.1), figures
