"""The supervised step: fits a policy to canonical solutions, before RL or between its steps.

Takes problems as rows of prompt and solution; the loss is the mean negative log-likelihood of the
solution's tokens (StepCoder fine-tunes the same way, arXiv 2402.01391, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config, SFTConfig
from stepcoder.models import ranks
from stepcoder.models.batch import Batch, Row, shared_microbatches
from stepcoder.models.optim import Optimizer
from stepcoder.models.policy import response_logprobs
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import encode_prompt
from stepcoder.rollout.rollout import target_ids, whole_program_tasks


def supervised_rows(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: Config
) -> list[Row]:
    """Return description -> canonical solution for every problem, as token ids.

    Solutions beyond `rollout.max_new_tokens` are cut there, as rollouts are.
    """
    rows = []
    for task in whole_program_tasks(problems, config.prompt.template, tokenizer):
        prompt = encode_prompt(tokenizer, task.prompt_text)
        target = target_ids(task, tokenizer, config.rollout.max_new_tokens)
        rows.append(Row(prompt, target, [0.0] * len(target), [True] * len(target), 0.0))
    return rows


def schedule(config: SFTConfig, step: int) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, constant, linear fall."""
    rise = (step + 1) / max(1, round(config.steps * config.warmup_share))
    fall = (config.steps - step) / max(1, round(config.steps * config.fall_share))
    return min(1.0, rise, fall)


def supervised_step(
    policy: PreTrainedModel,
    optimizer: Optimizer,
    batch: Batch,
    lr: float,
    tokens_per_microbatch: int,
) -> float:
    """One step on a batch of solutions; returns the mean loss a solution token, in nats."""
    responses = float(len(batch.response_positions))
    total = torch.zeros((), dtype=torch.float64, device=batch.device)
    for _, piece, counts in shared_microbatches(batch, tokens_per_microbatch):
        logprobs, _ = response_logprobs(policy, piece, temperature=1.0)
        loss = -logprobs.sum() / responses
        (loss * counts).backward()
        total += counts * loss.detach()
    optimizer.step(max_grad_norm=1.0, lr=lr)
    return ranks.summed(total).item()
