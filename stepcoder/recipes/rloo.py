"""RLOO (Ahmadian et al. 2024, arXiv 2402.14740, section 3.2): REINFORCE, leave-one-out baseline.

    R_i = r_i - beta sum_t (log pi - log pi_ref)        the KL of the whole program in its reward
    A_i = R_i - 1/(k-1) sum_{j != i} R_j
    loss = -1/k sum_i A_i log pi(y_i)

No critic and no clipping: the policy gradient of whole programs. Ours: the sum is divided by the
number of trained tokens instead of programs (a constant of the step), and on more than one
minibatch the unclipped ratio stands for the off-policy correction that the paper does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepcoder.method import ppo
from stepcoder.models.batch import Batch
from stepcoder.recipes.grpo import per_row, rows
from stepcoder.recipes.recipe import Recipe, no_critic
from stepcoder.rollout.rollout import Rollout

if TYPE_CHECKING:
    from stepcoder.run.run import Run

UNCLIPPED = 1e9  # a clip range that no ratio leaves


def advantages(run: Run, batch: Batch) -> Batch:
    """Compare each program with the mean of the others of its problem, KL included."""
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    kl = per_row(batch, batch.old_logprobs - batch.ref_logprobs)
    values = leave_one_out(batch.task_rewards - run.config.ppo.kl_beta * kl, batch.packing.prompts)
    return replace(batch, advantages=batch.at_tokens(values))


def leave_one_out(rewards: Tensor, group: Tensor) -> Tensor:
    """Rewards (B,) less the mean of the others of their group (B,); 0 for a group of one."""
    sums = rewards.new_zeros(int(group.max()) + 1).index_add_(0, group, rewards)[group]
    others = group.bincount()[group] - 1
    return torch.where(others > 0, rewards - (sums - rewards) / others.clamp(min=1), 0.0)


def update(
    run: Run,
    batch: Batch,
    rollouts: Sequence[Rollout],  # noqa: ARG001
    step: int,
) -> dict[str, float]:
    """Take the policy gradient, unclipped."""
    config = run.config
    return ppo.update(
        run.learner,
        batch,
        replace(config.ppo, clip=UNCLIPPED),
        config.rollout.temperature,
        run.generator(step),
        normalize_by_response=config.fgo.normalizer == "response",
    )


RECIPE = Recipe(rows, advantages, update, no_critic)
