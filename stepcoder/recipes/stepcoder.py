"""StepCoder (arXiv 2402.01391, section 3): PPO with a value critic; the default recipe.

CCCS and FGO are not here: the curriculum gives the prompts (`curriculum`), FGO the mask of trained
tokens (`fgo`), whatever the recipe. Followed from the authors' code instead of the text: the KL is
a reward a token, rewards are divided by their deviation so far (`ppo.scale_rewards`), the critic
learns from all response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from stepcoder.method import ppo
from stepcoder.method.rewards import reward_of
from stepcoder.models.batch import Batch, Row
from stepcoder.models.lora import add_adapters
from stepcoder.models.policy import Critic
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout, judged, row_of

if TYPE_CHECKING:
    from stepcoder.run.run import Run


def rows(run: Run, rollouts: Sequence[Rollout], step: int) -> list[Row]:  # noqa: ARG001
    """Reward each program by its verdict: +1, -0.3, -0.6 or -1 (section 3.2)."""
    kept = judged(rollouts, run.config.rollout.max_infrastructure_errors)
    return scaled_rows(run, kept, [reward_of(r.verdict) for r in kept])


def scaled_rows(run: Run, rollouts: Sequence[Rollout], values: Sequence[float]) -> list[Row]:
    """Turn rollouts and their rewards into rows; with `ppo.scale_rewards` the deviation is 1."""
    scale = 1.0
    if run.config.ppo.scale_rewards:
        run.deviation.observe(torch.tensor(values))
        scale = run.deviation.value
    pairs = zip(rollouts, values, strict=True)
    return [row_of(rollout, value / scale, run.config.fgo) for rollout, value in pairs]


def advantages(run: Run, batch: Batch) -> Batch:
    """Estimate advantages from the critic's values (GAE)."""
    return ppo.advantages(batch, run.config.ppo)


def update(
    run: Run,
    batch: Batch,
    rollouts: Sequence[Rollout],  # noqa: ARG001
    step: int,
) -> dict[str, float]:
    """Clipped PPO of the policy, and the critic's own loss."""
    config = run.config
    return ppo.update(
        run.learner,
        batch,
        config.ppo,
        config.rollout.temperature,
        run.generator(step),
        train_policy=step > config.ppo.critic_warmup_steps,
        normalize_by_response=config.fgo.normalizer == "response",
    )


def value_critic(run: Run, policy: PreTrainedModel) -> Critic:
    """Start the critic from `model.critic_path`, or from the policy."""
    model = run.config.model
    if model.critic_path is None:
        return Critic.from_policy(policy)
    critic = Critic.load(model.critic_path, policy.dtype, run.device)
    if model.lora_rank:
        add_adapters(critic.backbone, model.lora_rank, run.config.seed)
    return critic


RECIPE = Recipe(rows, advantages, update, value_critic)
