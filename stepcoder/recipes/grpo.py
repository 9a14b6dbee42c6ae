"""GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1): PPO's clipped loss with a group's baseline.

    A_i = (r_i - mean(r_1..r_G)) / std(r_1..r_G)                                (4.1.2)
    loss = -1/G sum_i 1/|o_i| sum_t (min(rho A, clip(rho) A) - beta KL)         (eq. 3)

with the KL of eq. 4 (k3) in the loss and not in the reward. No critic. Open in the paper: the
deviation is that of the group itself (divided by G), and a group of equal rewards has advantages
of 0. With FGO |o_i| counts the trained tokens. Ours: the KL term is a mean over tokens, not over
programs of means over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepcoder.method import ppo
from stepcoder.method.rewards import reward_of
from stepcoder.models.batch import Batch, Row
from stepcoder.recipes.recipe import Recipe, no_critic
from stepcoder.rollout.rollout import Rollout, judged, row_of

if TYPE_CHECKING:
    from stepcoder.run.run import Run


def rows(run: Run, rollouts: Sequence[Rollout], step: int) -> list[Row]:  # noqa: ARG001
    """Reward each program by its verdict, as StepCoder does, but unscaled."""
    kept = judged(rollouts, run.config.rollout.max_infrastructure_errors)
    return [row_of(rollout, reward_of(rollout.verdict), run.config.fgo) for rollout in kept]


def advantages(run: Run, batch: Batch) -> Batch:  # noqa: ARG001
    """Compare each program with those of its problem; each program weighs the same."""
    trained = per_row(batch, batch.executed_mask.float())  # (B,) |o_i|
    weights = trained.mean() / trained.clamp(min=1)
    values = group_normalized(batch.task_rewards, batch.packing.prompts) * weights
    return replace(batch, advantages=batch.at_tokens(values))


def group_normalized(rewards: Tensor, group: Tensor) -> Tensor:
    """Rewards (B,) less the mean of their group (B,), over its deviation; 0 where all are equal."""
    centered = rewards - group_mean(rewards, group)
    deviation = group_mean(centered.square(), group).sqrt()
    return torch.where(deviation > 1e-6, centered / deviation.clamp(min=1e-6), 0.0)


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Mean of (B,) values over those of the same group, for each of them: (B,)."""
    sums = values.new_zeros(int(group.max()) + 1).index_add_(0, group, values)
    return (sums / group.bincount().clamp(min=1))[group]


def per_row(batch: Batch, values: Tensor) -> Tensor:
    """Sum (T,) values over each row's response: (B,)."""
    positions = batch.response_positions
    row = batch.at_tokens(torch.arange(len(batch), device=values.device))[positions]
    return values.new_zeros(len(batch)).index_add_(0, row, values[positions])


def update(
    run: Run,
    batch: Batch,
    rollouts: Sequence[Rollout],  # noqa: ARG001
    step: int,
) -> dict[str, float]:
    """Clipped policy loss with the KL to the reference in it."""
    config = run.config
    return ppo.update(
        run.learner,
        batch,
        config.ppo,
        config.rollout.temperature,
        run.generator(step),
        normalize_by_response=config.fgo.normalizer == "response",
        loss_kl_beta=config.ppo.kl_beta,
    )


RECIPE = Recipe(rows, advantages, update, no_critic)
