"""Which rollouts of a step are worth reading or naming, and what of them is shown."""

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


def slowest(rollouts: Sequence[Rollout], count: int = 3) -> dict[str, list[list[str | float]]]:
    """Return the rollouts that took longest: [task_id, tokens, end] and [task_id, seconds, end].

    Engines generate many completions at a time, so what one of them takes is its tokens.
    """

    def size(rollout: Rollout) -> int:
        return len(rollout.completion.token_ids)

    def wall_s(rollout: Rollout) -> float:
        return rollout.verdict.wall_s

    generated = sorted(rollouts, key=size, reverse=True)[:count]
    judged = sorted(rollouts, key=wall_s, reverse=True)[:count]
    return {
        "generate": [
            [r.task.problem.task_id, size(r), "ended" if r.completion.stopped else "cut off"]
            for r in generated
        ],
        "judge": [
            [r.task.problem.task_id, round(wall_s(r), 3), r.verdict.status.value] for r in judged
        ],
    }


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
