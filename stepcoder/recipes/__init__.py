"""The algorithms that one loop runs, by name: StepCoder and what it is compared with.

Each is a small file that says where it comes from and where it departs; `recipe.py` says what one
consists of. `recipe=NAME` picks it; CCCS and FGO switch on and off independently of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stepcoder.config import RecipeName
from stepcoder.recipes import coderl, grpo, ppo, ppocoder, rlcf, rloo, rltf, stepcoder
from stepcoder.recipes.recipe import Recipe

RECIPES: Mapping[RecipeName, Recipe] = MappingProxyType(
    {
        "stepcoder": stepcoder.RECIPE,
        "ppo": ppo.RECIPE,
        "grpo": grpo.RECIPE,
        "rloo": rloo.RECIPE,
        "ppocoder": ppocoder.RECIPE,
        "rltf": rltf.RECIPE,
        "coderl": coderl.RECIPE,
        "rlcf": rlcf.RECIPE,
    }
)
