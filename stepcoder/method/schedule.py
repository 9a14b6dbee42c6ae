"""Learning rates over the steps of RL: warm-up, then constant or falling."""

from __future__ import annotations

import math
from typing import Literal


def rate_factor(
    step: int, steps: int, warmup: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """Return what the rate of step 1, 2, ... of `steps` is multiplied by.

    It rises linearly to 1 at step `warmup`, and then falls so that it would be 0 after the last.
    """
    if step <= warmup:
        return step / warmup
    done = (step - warmup - 1) / max(steps - warmup, 1)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return falling[schedule]
