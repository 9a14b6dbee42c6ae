"""Partial credit: what share of its points a program earns, with subtasks or without.

Takes the verdicts of tests, gives a number from 0 to 1. A test that is accepted has earned all of
its credit, any other the part that its checker gave it, mostly none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepcoder.sandbox.verdict import Status, TestVerdict


@dataclass(frozen=True, slots=True)
class Subtask:
    """Points for a group of tests (places from 0), of which it earns the share of its worst."""

    points: float
    tests: tuple[int, ...]


def points_of(tests: Sequence[TestVerdict], subtasks: Sequence[Subtask]) -> float:
    """Return the share of all points, 0 to 1; without subtasks every test has the same points."""
    earned = [1.0 if test.status is Status.ACCEPTED else test.partial for test in tests]
    if not subtasks:
        return sum(earned) / len(earned)
    total = sum(subtask.points for subtask in subtasks)
    return sum(s.points * min(earned[i] for i in s.tests) for s in subtasks) / total


def check_subtasks(subtasks: Sequence[Subtask], test_count: int) -> None:
    """Raise ValueError for a subtask that makes no sense."""
    for number, subtask in enumerate(subtasks, 1):
        if not subtask.tests or not all(0 <= i < test_count for i in subtask.tests):
            raise ValueError(
                f"subtask {number} has the tests {list(subtask.tests)}; "
                f"expected places from 0 to {test_count - 1}"
            )
        if not subtask.points > 0:
            raise ValueError(f"subtask {number} has {subtask.points} points; expected more than 0")


def partial_credit(got: str | None) -> float | None:
    """Return the credit between 0 and 1 that a checker returned, shown as text; None for others."""
    try:
        credit = float(got or "")
    except ValueError:
        return None
    return credit if 0 < credit < 1 else None
