"""DAPO (Yu et al. 2025, arXiv 2503.14476, section 3): GRPO with four changes, each an option.

    1. Clip-higher: the ratio may rise further than it may fall        ppo.clip_high=0.28
    2. Dynamic sampling: problems that all or none of the programs     ppo.outcome_gate=true
       solve are left out, and others are drawn in their place         rollout.refill=3
    3. Each token weighs the same, not each program                    ppo.loss_mean (this file)
    4. The reward of overlong completions falls before the limit       rollout.overlong=penalty

and no KL (`ppo.kl_beta=0`). Open in the paper: how often a step may draw again. Ours: rewards are
StepCoder's four, where the paper has two, so the gate looks at passes alone.
"""

from __future__ import annotations

from dataclasses import replace

from stepcoder.recipes import grpo

RECIPE = replace(grpo.RECIPE, loss=replace(grpo.LOSS, mean="token"))
