"""What a recipe means for the configuration: the defaults that it changes, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepcoder.options import ConfigError

if TYPE_CHECKING:  # config.py builds on this module
    from stepcoder.config import Config


def recipe_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipe changes of the defaults: StepCoder's two ideas are its own."""
    if values.get("recipe", "stepcoder") == "stepcoder":
        return {}
    return {"curriculum.cccs": False, "fgo.enabled": False}


def check_recipe(config: Config) -> None:
    """Refuse what a recipe's algorithm has no meaning for. Raises ConfigError."""
    recipe, rollout = config.recipe, config.rollout
    if recipe == "rlcf" and config.curriculum.cccs:
        raise ConfigError(
            'recipe "rlcf" does not look at tests, whose passes move the stages of the curriculum; '
            "set curriculum.cccs=false, or take another recipe"
        )
    if recipe == "rlcf" and config.fgo.enabled:
        raise ConfigError(
            'recipe "rlcf" does not look at tests, so no line counts as executed; '
            "set fgo.enabled=false, or take another recipe"
        )
    if recipe in ("grpo", "rloo") and rollout.samples_per_task < 2:
        raise ConfigError(
            f'recipe "{recipe}" compares the rollouts of one problem with each other; '
            "give rollout.samples_per_task at least 2"
        )
    if recipe in ("rltf", "coderl") and rollout.replay is not None:
        raise ConfigError(
            f'recipe "{recipe}" compares with greedy programs, which a dump does not hold; '
            "leave rollout.replay out"
        )
