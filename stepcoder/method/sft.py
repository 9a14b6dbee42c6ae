"""The short supervised phase: fits a policy to canonical solutions before RL improves it.

Takes training problems as rows of prompt and solution; the loss is the mean negative log-likelihood
of the solution's tokens (SC section 4.1 fine-tunes the same way). Held-out problems are never seen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config, SFTConfig
from stepcoder.method.ppo import response_logprobs
from stepcoder.models.batch import Batch, Row, microbatches, pack
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import (
    encode_prompt,
    encode_target,
    prompt_text,
    starter_part,
    target_text,
)

if TYPE_CHECKING:  # run.py builds this module's optimizer
    from stepcoder.run.run import Run


def supervise(run: Run) -> None:
    """Do what is left of the supervised phase; a policy that comes trained needs none (steps 0)."""
    config = run.config.sft
    if run.rl_begun or run.sft_step >= config.steps:
        return
    rows = supervised_rows(run.data.supervised, run.tokenizer, run.config)
    for step in range(run.sft_step + 1, config.steps + 1):
        start = time.perf_counter()
        chosen = torch.randint(len(rows), (config.batch_size,), generator=run.generator(-step))
        batch = pack([rows[i] for i in chosen.tolist()]).to(run.device)
        lr = config.lr * schedule(config, step - 1)
        tokens_per_microbatch = run.config.ppo.tokens_per_microbatch
        loss = supervised_step(run.policy, run.sft_optimizers, batch, lr, tokens_per_microbatch)
        run.finish_supervised_step(
            step,
            {
                "loss": loss,
                "lr": lr,
                "tokens": len(batch.tokens),
                "tokens_per_s": len(batch.tokens) / (time.perf_counter() - start),
            },
        )


def supervised_rows(
    problems: tuple[Problem, ...], tokenizer: PreTrainedTokenizerBase, config: Config
) -> list[Row]:
    """Return description -> canonical solution for every problem, as token ids.

    Solutions beyond `rollout.max_new_tokens` are cut there, as rollouts are.
    """
    rows = []
    for problem in problems:
        given = starter_part(problem)
        text = prompt_text(problem, given, config.prompt.template)
        prompt = encode_prompt(tokenizer, text)[-config.prompt.max_prompt_tokens :]
        target = encode_target(tokenizer, prompt, target_text(problem, given))
        target = target[: config.rollout.max_new_tokens]
        rows.append(Row(prompt, target, [0.0] * len(target), [True] * len(target), 0.0))
    return rows


def schedule(config: SFTConfig, step: int) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, constant, linear fall."""
    rise = (step + 1) / max(1, round(config.steps * config.warmup_share))
    fall = (config.steps - step) / max(1, round(config.steps * config.fall_share))
    return min(1.0, rise, fall)


def supervised_step(
    policy: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    lr: float,
    tokens_per_microbatch: int,
) -> float:
    """One step on a batch of solutions; returns the mean loss a solution token, in nats."""
    responses = float(batch.response_mask.sum())
    total = 0.0
    for _, piece in microbatches(batch, tokens_per_microbatch):
        logprobs, _ = response_logprobs(policy, piece, temperature=1.0)
        loss = -logprobs.sum() / responses
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total
