"""Vanilla PPO (Schulman et al. 2017, arXiv 1707.06347; "Vanilla PPO" of arXiv 2402.01391, table 2).

StepCoder without its two ideas: the configuration of this recipe has CCCS and FGO off. Switched on
again, one by one, they give the paper's ablations.
"""

from __future__ import annotations

from stepcoder.recipes import stepcoder

RECIPE = stepcoder.RECIPE
