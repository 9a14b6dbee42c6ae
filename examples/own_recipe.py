"""A recipe of your own: Dr. GRPO (arXiv 2503.20783), without a critic and the group's deviation.

    python -m stepcoder.train recipe=examples/own_recipe.py:RECIPE rollout.samples_per_task=8

A recipe is two functions and a few switches (`stepcoder/recipes/recipe.py`): the rewards of judged
programs, and the advantages of a scored batch.

    A_i = r_i - mean(r of its group)        for every token of program i
"""

from dataclasses import replace

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.models.batch import Batch
from stepcoder.recipes.grpo import group_mean
from stepcoder.recipes.recipe import Recipe
from stepcoder.recipes.stepcoder import rewards


def advantages(batch: Batch, _: PPOConfig) -> Batch:
    """Compare each program with the mean of the programs of its prompt."""
    given = batch.task_rewards  # (B,)
    values = given - group_mean(given, batch.packing.prompts)  # (B,)
    return replace(batch, advantages=batch.broadcast_rows(values))  # (T,)


RECIPE = Recipe(rewards, advantages, PolicyLoss(), critic=None)
