"""What an algorithm changes of the loop: rewards, advantages, loss, and a few switches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import CLIPPED, PolicyLoss
from stepcoder.method.rewards import Reward
from stepcoder.models.batch import Batch
from stepcoder.rollout.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Recipe:
    """One algorithm, as data and two pure functions; `stepcoder.recipes` names them all.

    rewards: of judged rollouts, one each.
    advantages: of a scored batch; its `ppo.kl_beta` is the present one where it adapts.
    """

    rewards: Callable[[Sequence[Rollout]], list[Reward]]
    advantages: Callable[[Batch, PPOConfig], Batch]
    loss: PolicyLoss = CLIPPED
    critic: Literal["value", "outcome"] | None = "value"  # what the second model predicts
    scores_in_update: bool = False  # advantages need no log-probabilities: one pass less
    scales_rewards: bool = False  # heeds ppo.scale_rewards
    greedy_baseline: bool = False  # rollouts come with the verdict of their greedy completion
    replay_steps: int = 0  # a step trains on programs drawn from those of so many steps
    imitates: bool = False  # a supervised step follows each update
    adapts_kl: bool = False  # ppo.kl_beta is only the first weight of the KL
    discriminates: bool = False  # a further model learns to tell programs from references
