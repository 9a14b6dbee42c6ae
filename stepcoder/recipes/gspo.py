"""GSPO (Zheng et al. 2025, arXiv 2507.18071, section 4.1): GRPO with one ratio for a program.

    s_i = (pi(y_i) / pi_old(y_i))^(1/|y_i|)                                     (eq. 7)
    loss = -1/G sum_i min(s_i A_i, clip(s_i) A_i)                               (eq. 5)

The clip range is far smaller than PPO's, since s_i is a geometric mean: `ppo.clip` 3e-4 and
`ppo.clip_high` 4e-4 unless set (section 5.1). There is no KL unless `ppo.kl_beta` is set, which
adds GRPO's. With FGO |y_i| and the mean are over the trained tokens.
"""

from __future__ import annotations

from dataclasses import replace

from stepcoder.recipes import grpo

RECIPE = replace(grpo.RECIPE, loss=replace(grpo.LOSS, ratio="sequence"))
