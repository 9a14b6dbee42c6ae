"""The recipe of a run: one of ours by its name, or a user's own; and a reward of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from stepcoder.config import Config, RecipeName
from stepcoder.errors import RunError
from stepcoder.method.rewards import Reward
from stepcoder.problems.problem import Problem
from stepcoder.recipes import RECIPES
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox import Verdict
from stepcoder.user_code import is_user_code, load_object


def recipe_of(config: Config) -> Recipe:
    """Return the recipe that a configuration names, ours or a user's, with a user's own reward.

    Raises:
        RunError: the user's file cannot be used.
    """
    if is_user_code(config.recipe):
        recipe = load_object(config.recipe, "recipe")
        if not isinstance(recipe, Recipe):
            raise RunError(f"recipe: {config.recipe} is no Recipe (stepcoder/recipes/recipe.py)")
    else:
        recipe = RECIPES[cast(RecipeName, config.recipe)]
    name = config.reward.function
    if name is None:
        return recipe
    return replace(recipe, rewards=user_rewards(load_object(name, "reward.function"), name))


def user_rewards(
    function: Callable[[Problem, str, Verdict], float], name: str
) -> Callable[[Sequence[Rollout]], list[Reward]]:
    """Return rewards by a function of the user's: (problem, program, verdict) to a number.

    They raise RunError, naming the function by `name` and the problem, where it fails.
    """

    def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
        return [Reward(checked(rollout)) for rollout in rollouts]

    def checked(rollout: Rollout) -> float:
        problem = rollout.task.problem
        try:
            value = float(function(problem, rollout.program, rollout.verdict))
        except Exception as error:  # whatever the user's code raises
            problem_said = f"raised {type(error).__name__}: {error}"
        else:
            if math.isfinite(value):
                return value
            problem_said = f"returned {value}"
        raise RunError(
            f"reward.function: {name} {problem_said} for {problem.task_id}; mend it, then continue "
            "with --resume"
        )

    return rewards
