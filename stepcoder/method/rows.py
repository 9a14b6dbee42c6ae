"""Judged rollouts, with what they earned and which tokens are trained, as rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from stepcoder.method.rewards import Reward, outcome
from stepcoder.models.batch import Row
from stepcoder.rollout.rollout import Rollout


def rows_of(
    rollouts: Sequence[Rollout], rewards: Sequence[Reward], masks: Sequence[Sequence[bool]]
) -> list[Row]:
    """Return one row a rollout. `masks` say which response tokens the policy loss trains (FGO)."""
    return [
        Row(
            rollout.prompt_ids,
            rollout.completion.token_ids,
            rollout.completion.logprobs,
            mask,
            reward.reward,
            int(outcome(rollout.verdict)),
            reward.token_rewards,
        )
        for rollout, reward, mask in zip(rollouts, rewards, masks, strict=True)
    ]
