"""The files of examples/: each runs as its first lines say."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.small_runs import SMALL, constant_problems, run
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stepcoder.evaluate.__main__ import main as evaluate
from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import load_state, newest_checkpoint

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
QUICK = ["sft.steps=2", "steps=1", "eval.every=1", "checkpoint.every=1"]


def options_in(name: str, command: str = "stepcoder.train") -> list[str]:
    """The arguments of the command in the first lines of an example."""
    [line] = re.findall(rf"^ +python -m {command} (.+)$", (EXAMPLES / name).read_text(), re.M)
    return shlex.split(line)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_every_file():
    listed = re.findall(r"^\| \[(\S+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(
        p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".sh")
    )


@pytest.mark.parametrize("name", ["own_reward.py", "own_recipe.py"])
def test_what_a_run_takes_from_a_file_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    problems = constant_problems(tmp_path / "constants.jsonl")
    given = [f"data.path={problems}", *QUICK, "sft.steps=60", "sft.share=1.0"]
    given += ["ppo.critic_warmup_steps=0", *options_in(name)]
    assert run(tmp_path / "run", *given) == 0
    state = load_state(newest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert any((state["reference"][key] != value).any() for key, value in state["policy"].items())
    assert (state["critic"] is None) == (name == "own_recipe.py")


def test_the_loaders_problems_train_and_their_solutions_pass(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run(tmp_path / "run", *QUICK, *options_in("own_loader.py")) == 0
    assert read_records(tmp_path / "run")[-1]["eval"]["problems"] == 1
    asked = options_in("own_loader.py", "stepcoder.evaluate")
    assert evaluate([*asked[:-1], str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "100.0" in capsys.readouterr().out


def test_the_judges_verdicts(tmp_path):
    found = load("judge_a_file.py").main(tmp_path)
    assert found[:2] == ["accepted", "wrong answer"]
    assert "accepted" not in found[2:]


@pytest.mark.filterwarnings("ignore")  # of TRL and accelerate
def test_trl_trains_with_our_reward_and_our_head(tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="TRL is not installed (pip install .[dev])")
    from helpers.tokenizers_built import single_bytes

    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=single_bytes([]), eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "max_position_embeddings": 128}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    example = load("trl_grpo.py")
    arguments = [str(tmp_path), str(tmp_path / "out"), "--steps", "1", "--tokens", "6"]
    figures = example.main(arguments)
    assert -1.0 <= figures["reward"] <= -0.3  # random letters: none is right, all had a verdict
    assert figures["entropy"] == pytest.approx(torch.tensor(len(tokenizer)).log().item(), abs=0.1)

    # The head's numbers are those of TRL's own.
    captured = []
    ours = example.GRPO._get_per_token_logps_and_entropies
    theirs = example.trl.GRPOTrainer._get_per_token_logps_and_entropies

    def both(self, model, *inputs, **options):
        with torch.no_grad():
            captured.append((ours(self, model, *inputs, **options)[0],
                             theirs(self, model, *inputs, **options)[0], inputs[1]))  # fmt: skip
        return ours(self, model, *inputs, **options)

    monkeypatch.setattr(example.GRPO, "_get_per_token_logps_and_entropies", both)
    example.main(arguments)
    for mine, trls, mask in captured:
        kept = mask[:, -mine.shape[1] :].bool()
        assert mine[kept] == pytest.approx(trls[kept], abs=1e-5)


def test_the_second_stage_starts_from_the_firsts_policy_and_critic(tmp_path):
    problems = constant_problems(tmp_path / "constants.jsonl")
    more = [*SMALL, *QUICK, f"data.path={problems}", "ppo.critic_lr=1e-2", "sft.share=1.0"]
    more += ["ppo.critic_warmup_steps=0"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(EXAMPLES / "two_stages.sh"), str(tmp_path), *more, "steps=1"],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (newest_checkpoint(tmp_path / n / "checkpoints") for n in ("first", "second"))
    head = load_file(first / "critic" / "value_head.safetensors")["weight"]
    start = newest_checkpoint_before_training(second)
    assert torch.equal(head, load_state(first)["critic"]["head.weight"])
    assert torch.equal(start["critic"]["head.weight"], head)
    assert torch.equal(
        start["policy"]["model.norm.weight"], load_state(first)["policy"]["model.norm.weight"]
    )
    assert not torch.equal(
        load_state(second)["critic"]["head.weight"], head
    )  # it went on from there


def newest_checkpoint_before_training(checkpoint: Path) -> dict:
    """The state at step 0 of the run of a checkpoint."""
    return load_state(checkpoint.with_name("rl-000000"))
