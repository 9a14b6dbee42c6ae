"""The paper's four rewards, and the verdicts that earn none."""

from __future__ import annotations

import pytest

from stepcoder.method.rewards import reward
from stepcoder.sandbox.verdict import Status, Verdict

NO_REWARD = {Status.INFRASTRUCTURE_ERROR, Status.NOT_RUN}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.ACCEPTED, 1.0),
        (Status.WRONG_ANSWER, -0.3),
        (Status.RUNTIME_ERROR, -0.6),
        (Status.COMPILE_ERROR, -1.0),
    ],
)
def test_each_outcome_of_the_paper_has_its_reward(status: Status, expected: float) -> None:
    assert reward(Verdict(status)) == expected


@pytest.mark.parametrize(
    "status",
    [
        Status.CPU_TIME_LIMIT,
        Status.WALL_TIME_LIMIT,
        Status.MEMORY_LIMIT,
        Status.OUTPUT_LIMIT,
        Status.SECURITY_VIOLATION,
    ],
)
def test_a_program_that_was_stopped_counts_as_a_runtime_error(status: Status) -> None:
    assert reward(Verdict(status)) == reward(Verdict(Status.RUNTIME_ERROR))


@pytest.mark.parametrize("status", sorted(NO_REWARD))
def test_a_failure_of_the_judge_earns_no_reward(status: Status) -> None:
    assert reward(Verdict(status)) is None


def test_every_other_status_has_a_reward() -> None:
    assert all(reward(Verdict(status)) is not None for status in set(Status) - NO_REWARD)
