"""StepCoder (arXiv 2402.01391, section 3): PPO with a value critic; the default recipe.

CCCS and FGO are not here: the curriculum gives the prompts (`method/curriculum.py`) and FGO the
mask of trained tokens (`method/fgo.py`), whatever the recipe. Followed from the authors' code
instead of the text: the KL is a reward per token, rewards are divided by their deviation so far
(`ppo.scale_rewards`), and the critic learns from all response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepcoder.method import ppo
from stepcoder.method.rewards import Reward, reward_of
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward each program by its verdict: +1, -0.3, -0.6 or -1."""
    return [Reward(reward_of(r.verdict)) for r in rollouts]


# Advantages are estimated from the critic's values (GAE).
RECIPE = Recipe(rewards, ppo.advantages, scales_rewards=True)
