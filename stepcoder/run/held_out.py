"""Held-out evaluation: the share of programs that pass all tests, and of problems with such one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox import Status


def pass_at_1(rollouts: Sequence[Rollout]) -> float:
    """Share of judged programs that pass; runs that the judge itself failed on do not count.

    Raises:
        ValueError: nothing was judged.
    """
    judged = [r for r in rollouts if r.verdict.status is not Status.INFRASTRUCTURE_ERROR]
    if not judged:
        raise ValueError("no program was judged: every run ended in an infrastructure error")
    return sum(r.verdict.passed for r in judged) / len(judged)


def any_passed(rollouts: Sequence[Rollout]) -> float:
    """Share of problems of which a program passes: pass@k, with k samples of each."""
    attempts = [list(found) for _, found in groupby(rollouts, key=lambda r: id(r.task))]
    return sum(any(r.verdict.passed for r in found) for found in attempts) / len(attempts)
