"""The account of memory: against measured peaks of whole steps, and for two runs that must fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.small_runs import constant_problems
from helpers.small_runs import run as run_small
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from stepcoder.config import load_config
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.policy import hidden_states, prepare, recompute_layers
from stepcoder.plan.__main__ import main
from stepcoder.plan.account import Account, account_of
from stepcoder.plan.alive import Alive
from stepcoder.plan.simulate import Network, measured_in, parts, seconds
from stepcoder.plan.simulate import main as simulate

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
    *("prompt.max_prompt_tokens=96", "rollout.max_new_tokens=32", "rollout.tasks_per_step=6"),
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
    ],
    ids=["bfloat16 with critic", "float32 with a head"],
)
def test_the_account_is_within_a_tenth_of_the_peak_of_a_process(
    model: Path, options: list[str]
) -> None:
    measured, planned = peaks(model, *options)
    assert planned == pytest.approx(measured, rel=0.1)


def test_the_account_is_within_a_tenth_of_the_peak_of_each_of_two_processes(model: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    measured, planned = peaks(model, "dtype=bfloat16", launcher=launcher)
    assert planned == pytest.approx(measured, rel=0.1)


def peaks(model: Path, *options: str, launcher: Sequence[str] = ()) -> tuple[int, int]:
    """What a process takes at most, measured and planned."""
    program = ["-m", "helpers.measured_step", str(model)]
    command = [sys.executable, *launcher, *program, *STEP, *options]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        command,
        env={
            **{**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            "MALLOC_MMAP_THRESHOLD_": "131072",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    return max(figures["measured"].values()), max(figures["planned"].values())


def test_layers_that_are_computed_again_keep_less() -> None:
    """Counted, not planned: the tensors of a real forward and backward pass on this CPU."""
    torch.manual_seed(0)
    shape = {**LLAMA, "vocab_size": 64, "hidden_size": 64, "intermediate_size": 256}
    model = prepare(AutoModelForCausalLM.from_config(LlamaConfig(**shape)), torch.device("cpu"))
    batch = pack([Row([1] * 50, [2] * 50, [0.0] * 50, [True] * 50, 0.0)] * 4)

    def peak_and_kept() -> tuple[int, int]:
        model.zero_grad(set_to_none=True)
        alive = Alive()
        with alive:
            states = hidden_states(model, batch)
            kept = alive.now
            states.sum().backward()
        return alive.peak, kept

    peak, kept = peak_and_kept()
    recompute_layers(model)
    smaller_peak, smaller_kept = peak_and_kept()
    assert smaller_kept < kept / 8
    assert smaller_peak < peak / 3


def account(shape: dict, *options: str, memory: float) -> Account:
    config = load_config(None, ["model.path=x", "device=cuda", *options])
    return account_of(config, Qwen2Config(**shape), memory=memory)


def test_a_full_fine_tune_of_1_5b_with_a_critic_fits_80_gb() -> None:
    found = account(QWEN_1_5B, "model.checkpointing=true", memory=80e9)
    weights = 1_543_714_304
    assert found.always["policy: weights"] == 2 * weights
    assert found.always["policy: float32 masters"] == 4 * weights
    assert found.always["policy: optimizer's state"] == 8 * weights
    assert found.always["critic: weights"] == 2 * weights + 2 * 1537
    assert found.always["reference"] == found.always["engine: weights"] == 2 * weights
    assert found.update["gradients"] == 8 * weights + 4 * 1537
    # What each layer gets (T, H) is kept in bfloat16, and little else.
    assert 28 <= found.update["kept for the backward pass"] / (16384 * 1536 * 2) < 40
    assert found.generate["KV cache, 64 x 2048 tokens"] == 64 * 2048 * 28 * 2 * 2 * 128 * 2
    assert 60 * GIB < found.peak < 80e9


def test_lora_of_7b_fits_one_h200() -> None:
    found = account(QWEN_7B, "model.lora_rank=16", "model.checkpointing=true", memory=141e9)
    assert found.always["policy: weights"] == pytest.approx(2 * 7_615_616_512, rel=0.02)
    assert sum(found.always.values()) < 20 * GIB  # one set of the base for all models
    assert found.peak < 141e9 / 4


def test_the_command_prints_the_account_and_what_makes_it_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LlamaConfig(**{**LLAMA, "num_hidden_layers": 2}).save_pretrained(tmp_path)
    run = [str(tmp_path), "device=cpu", "ppo.tokens_per_microbatch=8192"]
    run += ["prompt.max_prompt_tokens=256", "rollout.max_new_tokens=256"]
    assert main(run) == 0
    table = capsys.readouterr().out
    assert "policy: float32 masters" in table
    assert "update" in table.splitlines()[-1]
    assert main([*run, "--memory", "0.7"]) == 1
    said = capsys.readouterr().out
    assert "does not fit 0.7 GB" in said
    assert "with model.checkpointing=true: " in said.splitlines()[-1]
    assert main([*run, "model.checkpointing=true", "--memory", "0.7"]) == 0
    assert main([*run, "--memory", "0.001"]) == 1
    assert "take a smaller model" in capsys.readouterr().out


def test_what_is_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path), "ppo.minibatches=0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "no config.json that loads" in lines[0]
    assert "ppo.minibatches" in lines[1]


def test_a_step_is_simulated_from_a_recorded_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = constant_problems(tmp_path / "constants.jsonl")
    assert run_small(tmp_path / "run", f"data.path={problems}", "sft.steps=0", "steps=4") == 0
    seen = measured_in(tmp_path / "run")
    config = load_config(tmp_path / "run" / "config.yaml", [])
    network = Network(weights=1e6, layers=9, bandwidth=1e8, latency=1e-3, token_s=0.5)
    alone = parts(replace(seen, longest=0.0), config, network, 1, 1, 1)
    assert alone["generate"] == seen.generate > 0
    assert alone["train"] == pytest.approx(seen.train + seen.rest)
    assert alone["sync"] == 0
    # Two trainers: half the work each, and nine passes of 2 MB at 0.1 GB/s by ten meetings of 1 ms.
    small = replace(seen, train=4.0, rest=0.0, tokens=100.0, longest=8.0, judge=12.0)
    both = parts(small, config, network, 2, 3, 2)
    rounds = config.ppo.epochs * config.ppo.minibatches
    assert both["train"] == pytest.approx(2.0 + rounds * 9 * (0.02 + 0.01))
    assert both["generate"] == 8 * 0.5  # the longest completion alone
    assert both["judge"] == 0  # four seconds each, hidden behind it
    assert seconds(both, 1) == pytest.approx(max(4.0, both["train"]) + 0.04)
    options = ["--weights", "0.001", "--layers", "2"]
    capsys.readouterr()
    assert simulate([str(tmp_path / "run"), *options]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        *("1", "8", "64", "512")
    ]
    assert simulate([str(tmp_path), *options]) == 2
    assert "is no folder of a run" in capsys.readouterr().err
