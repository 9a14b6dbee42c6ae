"""Which rollouts of a step are worth reading, and what of them is shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from stepcoder.config import FGOConfig
from stepcoder.method.fgo import executed_closure, executed_masks
from stepcoder.method.rewards import reward
from stepcoder.problems.source import line_starts
from stepcoder.report.samples import RolloutSample
from stepcoder.rollout.rollout import Rollout


def worth_reading(rollouts: Sequence[Rollout], count: int = 6) -> list[Rollout]:
    """Return a few rollouts: of different problems, with different verdicts first."""
    chosen: dict[tuple[str, str], Rollout] = {}
    for rollout in rollouts:
        chosen.setdefault((rollout.verdict.status, rollout.task.problem.task_id), rollout)
    by_status: dict[str, list[Rollout]] = {}
    for (status, _), rollout in chosen.items():
        by_status.setdefault(status, []).append(rollout)
    rounds = zip_longest(*by_status.values())
    return [r for same_rank in rounds for r in same_rank if r is not None][:count]


def sample_of(rollout: Rollout, step: int, fgo: FGOConfig) -> RolloutSample:
    """Return what a person wants to read of a rollout."""
    task, verdict = rollout.task, rollout.verdict
    value = reward(verdict)
    masked, lines = 0.0, verdict.executed_lines
    if value is not None:
        (mask,) = executed_masks([rollout], fgo)
        masked = 1 - sum(mask) / max(len(mask), 1)
        lines = executed_closure(rollout.program, verdict.executed_lines)
    code = None
    if task.in_own_words:
        code = (rollout.code_start, rollout.code_start + len(rollout.program))
        before = len(line_starts(rollout.text[: code[0]])) - 1
        lines = frozenset(line + before for line in lines)
    return RolloutSample(
        task_id=task.problem.task_id,
        step=step,
        stage=task.stage,
        description=task.problem.prompt,
        given=task.given,
        completion=rollout.text,
        executed_lines=lines,
        masked_share=masked,
        verdict=verdict,
        reward=value,
        code=code,
    )
