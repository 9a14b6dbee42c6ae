"""Rewards: how a program ended as one number (StepCoder, arXiv 2402.01391, section 3).

+1 all tests pass, -0.3 a test fails, -0.6 a runtime error or exceeded limit, -1 does not compile. A
program that the judge failed on has no reward: such a rollout says nothing about the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from stepcoder.errors import RunError
from stepcoder.sandbox.verdict import Status, Verdict

if TYPE_CHECKING:  # the judge's adapters import this module, and need no transformers
    from stepcoder.rollout.rollout import Rollout

PASSED = 1.0
WRONG_ANSWER = -0.3
RUNTIME_ERROR = -0.6
COMPILE_ERROR = -1.0

# The paper names four outcomes. A program that exceeds a limit or is stopped by the sandbox did
# not finish its tests, which is what the authors' code counts as a runtime error.
REWARDS: Mapping[Status, float] = MappingProxyType(
    {
        Status.ACCEPTED: PASSED,
        Status.WRONG_ANSWER: WRONG_ANSWER,
        Status.RUNTIME_ERROR: RUNTIME_ERROR,
        Status.CPU_TIME_LIMIT: RUNTIME_ERROR,
        Status.WALL_TIME_LIMIT: RUNTIME_ERROR,
        Status.MEMORY_LIMIT: RUNTIME_ERROR,
        Status.OUTPUT_LIMIT: RUNTIME_ERROR,
        Status.SECURITY_VIOLATION: RUNTIME_ERROR,
        Status.COMPILE_ERROR: COMPILE_ERROR,
    }
)


class Outcome(IntEnum):
    """The four classes of CodeRL's critic (arXiv 2207.01780, section 3.2), worst first."""

    COMPILE_ERROR = 0
    RUNTIME_ERROR = 1
    WRONG_ANSWER = 2
    PASSED = 3


_OUTCOMES = {
    COMPILE_ERROR: Outcome.COMPILE_ERROR,
    RUNTIME_ERROR: Outcome.RUNTIME_ERROR,
    WRONG_ANSWER: Outcome.WRONG_ANSWER,
    PASSED: Outcome.PASSED,
}


def outcome(verdict: Verdict) -> Outcome:
    """Return the class of a judged program. Raises KeyError where the judge failed."""
    return _OUTCOMES[REWARDS[verdict.status]]


def reward_of(verdict: Verdict) -> float:
    """Return the reward of a judged program. Raises KeyError where the judge failed."""
    return REWARDS[verdict.status]


def reward(verdict: Verdict) -> float | None:
    """Return the reward of a program, or None where the judge failed or never ran it.

    Which error counts when tests end differently is decided in `Verdict.status`.
    """
    return REWARDS.get(verdict.status)


@dataclass(frozen=True, slots=True)
class Reward:
    """What one rollout earned: `reward` on its last token, and further rewards of its tokens."""

    reward: float
    token_rewards: Sequence[float] = ()  # one for each response token, or () for none


def judged(rollouts: Sequence[Rollout], max_infrastructure_errors: float) -> list[Rollout]:
    """Return the rollouts without those that the judge itself failed on.

    Raises:
        RunError: they are more than this share, or nothing is left.
    """
    kept = [r for r in rollouts if reward(r.verdict) is not None]
    failed = len(rollouts) - len(kept)
    if not kept or failed > max_infrastructure_errors * len(rollouts):
        broken = next(r.verdict for r in rollouts if reward(r.verdict) is None)
        raise RunError(
            f"the sandbox failed on {failed} of {len(rollouts)} programs ({broken.message}); "
            "mend it, or raise rollout.max_infrastructure_errors, then continue with --resume"
        )
    return kept
