"""A whole GRPO step on a CPU against TRL's: generate, score against the reference, update.

`pytest bench/test_step.py -s`: both trainers do the same work in one run, with the same weights and
prompts: 16 prompts x 4 completions of 128 tokens by a Llama of 19 million weights (a vocabulary of
49,152, as that of SmolLM2), whose rewards are made up. Checkpointing of activations is off in TRL.
The row has the fastest of `STEPS` steps after the first, and the CPU time of that step.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback

from stepcoder.config import DataConfig, PPOConfig
from stepcoder.method.ppo import Learner, score, update
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.optim import Masters
from stepcoder.models.policy import frozen_copy, prepare
from stepcoder.recipes.grpo import RECIPE
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine
from stepcoder.run.data import load_data

PROMPTS, COMPLETIONS, TOKENS, STEPS = 16, 4, 128, 2
MICROBATCH = 16  # TRL's rows at a time; ours are limited by their tokens
BETA, RATE = 0.04, 1e-6

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with random weights, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    texts = [problem.prompt for problem in load_data(DataConfig(), 1.0).train]
    tokenizer = train_tokenizer(texts, 4096)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


@functools.cache
def prompts() -> list[str]:
    """Statements of the suite."""
    return [problem.prompt for problem in load_data(DataConfig(), 1.0).train[:PROMPTS]]


def reward(number: int) -> float:
    """A reward that says nothing, but differs within a group."""
    return number * 0.37 % 1


class Parts:
    """Seconds of each part of a step, and CPU seconds of the whole."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def begin(self) -> None:
        """Begin a step."""
        self.last, self.cpu = time.perf_counter(), time.process_time()
        self.steps.append({})

    def end(self, part: str) -> None:
        """Count the time since the last call as this part's."""
        now, step = time.perf_counter(), self.steps[-1]
        step[part] = step.get(part, 0.0) + now - self.last
        step["cpu_s"] = time.process_time() - self.cpu
        self.last = now

    def fastest(self) -> dict[str, float]:
        """Return the fastest step but the first, which is slower for everyone."""
        rows = [{"step_s": sum(s.values()) - s["cpu_s"], **s} for s in self.steps[1:]]
        return min(rows, key=lambda row: row["step_s"])


def our_steps(folder: Path, dtype: torch.dtype) -> dict[str, float]:
    """Run our steps as `stepcoder.train` does, but for the judge."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy = prepare(model, torch.device("cpu")).to(dtype)
    reference, config = frozen_copy(policy), PPOConfig(minibatches=1, kl_beta=BETA, policy_lr=RATE)
    learner = Learner.create(Masters(policy), None, config)
    engine = HFEngine(policy, tokenizer, PROMPTS * COMPLETIONS)
    generator = torch.Generator().manual_seed(0)
    ids = [tuple(tokenizer.encode(text)) for text in prompts() for _ in range(COMPLETIONS)]
    parts = Parts()
    for step in range(STEPS + 1):
        parts.begin()
        requests = [Request(prompt, step * len(ids) + i) for i, prompt in enumerate(ids)]
        done = sorted(engine.generate(requests, Sampling(1.0, TOKENS, ())), key=lambda c: c.index)
        parts.end("generate_s")
        rows = [
            Row(ids[c.index], c.token_ids, c.logprobs, [True] * len(c.token_ids), reward(c.index))
            for c in done
        ]
        batch = score(pack(rows), None, reference, None, config, 1.0)
        parts.end("score_s")
        batch = RECIPE.advantages(batch, config)
        update(learner, batch, config, 1.0, generator, RECIPE.loss)
        engine.update_weights(policy)
        parts.end("update_s")
    return parts.fastest()


def steps_of_trl(folder: Path, tmp_path: Path) -> dict[str, float]:
    """Run TRL's steps, in float32, as it does by default."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    parts = Parts()

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            parts.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            parts.end("update_s")

    class Trainer(trl.GRPOTrainer):
        def _generate(self, *arguments: Any) -> Any:
            result = super()._generate(*arguments)
            parts.end("generate_s")
            return result

        def _generate_and_score_completions(self, *arguments: Any) -> Any:
            result = super()._generate_and_score_completions(*arguments)
            parts.end("score_s")
            return result

    trainer = Trainer(
        model=str(folder),
        reward_funcs=lambda completions, **_: [reward(i) for i in range(len(completions))],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            model_init_kwargs={"dtype": "float32"},
            gradient_checkpointing=False,
            per_device_train_batch_size=MICROBATCH,
            gradient_accumulation_steps=PROMPTS * COMPLETIONS // MICROBATCH,
            num_generations=COMPLETIONS,
            max_completion_length=TOKENS,
            max_steps=STEPS + 1,
            learning_rate=RATE,
            beta=BETA,
            loss_type="grpo",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts()}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Clock()],
    )
    trainer.train()
    return parts.fastest()


def test_grpo_step(benchmark, folder, tmp_path):
    runs: dict[str, Callable[[], dict[str, float]]] = {
        "TRL, float32": lambda: steps_of_trl(folder, tmp_path),
        "ours, float32": lambda: our_steps(folder, torch.float32),
        "ours, bfloat16": lambda: our_steps(folder, torch.bfloat16),
    }
    rows = {name: run() for name, run in runs.items()}
    for name, row in rows.items():
        ratio = rows["TRL, float32"]["step_s"] / row["step_s"]
        figures = ", ".join(f"{part} {seconds:.2f}" for part, seconds in row.items())
        print(f"\n{name}: {ratio:.2f} times as fast as TRL ({figures})")
        benchmark.extra_info[name] = {**row, "times_trl": ratio}
    benchmark.pedantic(lambda: None, rounds=1)
