"""pass@k without bias, and how sure one may be of it.

Takes how many of each problem's programs pass, gives the estimator of Chen et al. 2021 (arXiv
2107.03374, section 2.1) and a bootstrap confidence interval over problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems, its 95% interval, and of how many problems it is."""

    value: float
    low: float
    high: float
    of: int


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Chance that one of k programs, drawn from `samples` of which `passed` pass, passes.

    Raises:
        ValueError: k is not between 1 and `samples`, or `passed` not between 0 and `samples`.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} in {samples} samples")
    return 1.0 - comb(samples - passed, k) / comb(samples, k)


def estimate(counts: Sequence[tuple[int, int]], k: int) -> Estimate | None:
    """Mean pass@k over problems given as (samples, passed); None if none has k samples.

    The interval is the bootstrap's percentile interval: problems are drawn anew, with replacement,
    10,000 times (always the same draws), so it says how the figure would vary with the problems.
    It knows nothing of the variance over training seeds.
    """
    values = np.array([pass_at_k(n, c, k) for n, c in counts if n >= k])
    if not len(values):
        return None
    generator = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for first in range(0, RESAMPLES, 1000):
        drawn = generator.integers(len(values), size=(1000, len(values)))
        means[first : first + 1000] = values[drawn].mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(values.mean()), float(low), float(high), len(values))
