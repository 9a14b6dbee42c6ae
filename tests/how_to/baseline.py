"""REINFORCE (Williams 1992) with the mean reward of the step as its baseline.

A_i = r_i - mean(r)        every token of a program has the advantage of its program
"""

from __future__ import annotations

from dataclasses import replace

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.models.batch import Batch
from stepcoder.recipes.recipe import Recipe
from stepcoder.recipes.stepcoder import rewards


def advantages(batch: Batch, _: PPOConfig) -> Batch:
    """Compare each program with the mean of all programs of the step."""
    values = batch.task_rewards - batch.task_rewards.mean()  # (B,)
    return replace(batch, advantages=batch.broadcast_rows(values))  # (T,)


RECIPE = Recipe(rewards, advantages, PolicyLoss(clipped=False), critic=None)
