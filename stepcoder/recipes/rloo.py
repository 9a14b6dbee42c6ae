"""RLOO (Ahmadian et al. 2024, arXiv 2402.14740, section 3.2): REINFORCE, leave-one-out baseline.

    R_i = r_i - beta sum_t (log pi - log pi_ref)        the KL of the whole program in its reward
    A_i = R_i - 1/(k-1) sum_{j != i} R_j
    loss = -1/k sum_i A_i log pi(y_i)

No critic and no clipping: the policy gradient of whole programs. Ours: the sum is divided by the
number of trained tokens instead of programs (a constant of the step), and on more than one
minibatch the unclipped ratio stands for the off-policy correction that the paper does not need.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.models.batch import Batch
from stepcoder.recipes.grpo import rewards
from stepcoder.recipes.recipe import Recipe


def advantages(batch: Batch, ppo: PPOConfig) -> Batch:
    """Compare each program with the mean of the others of its problem, KL included."""
    kl = batch.kl_by_row()
    values = leave_one_out(batch.task_rewards - ppo.kl_beta * kl, batch.packing.prompts)
    return replace(batch, advantages=batch.broadcast_rows(values))


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """Rewards (B,) less the mean of the others of their group (B,); 0 for a group of one."""
    sums = rewards.new_zeros(int(group.max()) + 1).index_add_(0, group, rewards)[group]
    others = group.bincount()[group] - 1
    return torch.where(others > 0, rewards - (sums - rewards) / others.clamp(min=1), 0.0)


RECIPE = Recipe(rewards, advantages, PolicyLoss(clipped=False), critic=None)
