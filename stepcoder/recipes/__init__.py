"""The algorithms that one loop runs, by name: StepCoder and what it is compared with.

Each is a small file of pure functions that says where it comes from and where it departs from it;
`recipe.py` says what a recipe can change. `recipe=NAME` picks one; CCCS and FGO switch on and off
independently of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stepcoder.config import RecipeName
from stepcoder.recipes import coderl, dapo, grpo, gspo, ppocoder, rlcf, rloo, rltf, stepcoder
from stepcoder.recipes.recipe import Recipe

RECIPES: Mapping[RecipeName, Recipe] = MappingProxyType(
    {
        "stepcoder": stepcoder.RECIPE,
        # StepCoder without its two ideas, which are off unless asked for: vanilla PPO (Schulman et
        # al. 2017, arXiv 1707.06347). Switched on one by one they give the paper's ablations.
        "ppo": stepcoder.RECIPE,
        "grpo": grpo.RECIPE,
        "gspo": gspo.RECIPE,
        "dapo": dapo.RECIPE,
        "rloo": rloo.RECIPE,
        "ppocoder": ppocoder.RECIPE,
        "rltf": rltf.RECIPE,
        "coderl": coderl.RECIPE,
        "rlcf": rlcf.RECIPE,
    }
)
