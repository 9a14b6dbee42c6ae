"""The reward of a rollout: the judge's verdict as one number.

Takes a Verdict, gives +1, -0.3, -0.6 or -1 (StepCoder, arXiv 2402.01391, section 3.2), or None
where the judge itself failed and the rollout says nothing about the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from stepcoder.sandbox.verdict import Status, Verdict

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
    """Return the class of a verdict that has a reward. Raises KeyError for one that has none."""
    return _OUTCOMES[REWARDS[verdict.status]]


def reward_of(verdict: Verdict) -> float:
    """Return the reward of a verdict that says something. Raises KeyError for one that does not."""
    return REWARDS[verdict.status]


def reward(verdict: Verdict) -> float | None:
    """Return the reward of a verdict, or None for a sample that must be dropped.

    None means that the judge failed or never ran the program (infrastructure error, not run).
    Which error wins when tests end differently is decided in `Verdict.status`.
    """
    return REWARDS.get(verdict.status)
