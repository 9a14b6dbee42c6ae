"""CodeRL (Le et al. 2022, arXiv 2207.01780, section 3): a critic that predicts how a program ends.

    critic: p(u | program) over compile error, runtime error, failed test, passed    (3.2.2)
    weight of token t: q_t (r(W) - r(W_greedy)), q_t = p(true class | state of t)    (eq. 8, 9)
    loss = -sum_t weight_t log pi(w_t), alternating with supervised steps            (3.2.1)

Followed from the authors' code: the critic pools the maximum of its token states, and RL and
supervised steps alternate. Ours: critic and policy learn side by side on fresh programs (the first
`ppo.critic_warmup_steps` train the critic alone), where the authors train the critic first and keep
it; the greedy program is the present policy's, not the supervised one's. Neither discount nor KL.
Critic sampling, the paper's way to use the critic at inference, is `critic_sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from stepcoder.method import ppo
from stepcoder.method.rewards import Outcome, reward_of
from stepcoder.models.batch import Batch, Row
from stepcoder.models.policy import OutcomeCritic
from stepcoder.recipes.greedy import with_baselines
from stepcoder.recipes.imitation import imitate
from stepcoder.recipes.recipe import Recipe
from stepcoder.recipes.rloo import UNCLIPPED
from stepcoder.rollout.rollout import Rollout, row_of

if TYPE_CHECKING:
    from stepcoder.run.run import Run


def rows(run: Run, rollouts: Sequence[Rollout], step: int) -> list[Row]:  # noqa: ARG001
    """Reward each program by how much better it ended than the greedy one (section 3.2.3)."""
    return [
        row_of(rollout, reward_of(rollout.verdict) - reward_of(greedy.verdict), run.config.fgo)
        for rollout, greedy in with_baselines(run, rollouts)
    ]


def advantages(run: Run, batch: Batch) -> Batch:  # noqa: ARG001
    """Weigh each token by the critic's probability of the program's true class."""
    assert batch.values is not None  # OutcomeCritic: q_t
    weights = batch.values * batch.at_tokens(batch.task_rewards)
    return replace(batch, advantages=weights, importance=torch.ones_like(weights))


def update(
    run: Run,
    batch: Batch,
    rollouts: Sequence[Rollout],  # noqa: ARG001
    step: int,
) -> dict[str, float]:
    """Policy gradient and the critic's cross-entropy, then a supervised step."""
    config = run.config
    train_policy = step > config.ppo.critic_warmup_steps
    stats = ppo.update(
        run.learner,
        batch,
        replace(config.ppo, clip=UNCLIPPED),
        config.rollout.temperature,
        run.generator(step),
        train_policy=train_policy,
        normalize_by_response=config.fgo.normalizer == "response",
    )
    return {**stats, "imitation_loss": imitate(run, step)} if train_policy else stats


def outcome_critic(run: Run, policy: PreTrainedModel) -> OutcomeCritic:  # noqa: ARG001
    """Start the critic from the policy, with a fresh head for the four classes."""
    return OutcomeCritic.from_policy(policy, len(Outcome))


RECIPE = Recipe(rows, advantages, update, outcome_critic)
