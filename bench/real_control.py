"""The control of a real run: the same training with the rewards of each step shuffled.

    python bench/real_control.py [arguments of stepcoder.train]

What a policy gains here it does not gain from its programs' verdicts: each reward comes from the
program of some other rollout of the step. The curriculum still moves by the true verdicts.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace

from stepcoder.method.rewards import Reward
from stepcoder.recipes import RECIPES
from stepcoder.rollout.rollout import Rollout
from stepcoder.run import run
from stepcoder.train import main

TRUE = RECIPES["stepcoder"]


def shuffled_rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Return the step's rewards in another order, a function of its first prompt's seed."""
    rewards = list(TRUE.rewards(rollouts))
    random.Random(rollouts[0].task.seed).shuffle(rewards)
    return rewards


if __name__ == "__main__":
    run.RECIPES = {**RECIPES, "stepcoder": replace(TRUE, rewards=shuffled_rewards)}
    sys.exit(main())
