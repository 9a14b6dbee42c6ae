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

import torch
from torch import Tensor

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.method.rewards import Reward
from stepcoder.models.batch import Batch
from stepcoder.recipes import stepcoder
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward each program as StepCoder does; `ppo.scale_rewards` has no effect on these."""
    return stepcoder.rewards(rollouts)


def advantages(batch: Batch, _: PPOConfig) -> Batch:
    """Compare each program with those of its problem."""
    values = group_normalized(batch.task_rewards, batch.packing.prompts)
    return replace(batch, advantages=batch.broadcast_rows(values))


def group_normalized(rewards: Tensor, group: Tensor) -> Tensor:
    """Rewards (B,) less the mean of their group (B,), over its deviation; 0 where all are equal."""
    centered = rewards - group_mean(rewards, group)
    deviation = group_mean(centered.square(), group).sqrt()
    return torch.where(deviation > 1e-6, centered / deviation.clamp(min=1e-6), 0.0)


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Mean of (B,) values over those of the same group, for each of them: (B,)."""
    sums = values.new_zeros(int(group.max()) + 1).index_add_(0, group, values)
    return (sums / group.bincount().clamp(min=1))[group]


LOSS = PolicyLoss(has_kl=True, mean="sequence")
RECIPE = Recipe(rewards, advantages, LOSS, critic=None, scores_in_update=True)
