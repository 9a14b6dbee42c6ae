"""CodeRL (Le et al. 2022, arXiv 2207.01780, section 3): a critic that predicts how a program ends.

    critic: p(u | program) over compile error, runtime error, failed test, passed    (3.2.2)
    weight of token t: q_t (r(W) - r(W_greedy)), q_t = p(true class | state of t)    (eq. 8, 9)
    loss = -sum_t weight_t log pi(w_t), alternating with supervised steps            (3.2.1)

Followed from the authors' code: the critic pools the maximum of its token states, and RL and
supervised steps alternate. Ours: critic and policy learn side by side on fresh programs (the first
`ppo.critic_warmup_steps` train the critic alone), where the authors train the critic first and keep
it; the greedy program is the present policy's, not the supervised one's. Neither discount nor KL.
Critic sampling, the paper's way to use the critic at inference, is `refine/critic_sampling.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.method.rewards import Reward, reward_of
from stepcoder.models.batch import Batch
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward each program by how much better it ended than the greedy one (section 3.2.3)."""
    return [
        Reward(reward_of(r.verdict) - reward_of(r.greedy_verdict))
        for r in rollouts
        if r.greedy_verdict is not None  # always, with `greedy_baseline`
    ]


def advantages(batch: Batch, _: PPOConfig) -> Batch:
    """Weigh each token by the critic's probability of the program's true class."""
    assert batch.values is not None  # OutcomeCritic: q_t
    weights = batch.values * batch.broadcast_rows(batch.task_rewards)
    return replace(batch, advantages=weights, importance=torch.ones_like(weights))


RECIPE = Recipe(
    rewards,
    advantages,
    PolicyLoss(clipped=False),
    critic="outcome",
    greedy_baseline=True,
    imitates=True,
)
