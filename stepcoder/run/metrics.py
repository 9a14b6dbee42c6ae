"""The metrics of one step and where its time went (what each means: `report/run_dir.py`)."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stepcoder.method.curriculum import Curriculum
from stepcoder.method.ppo import policy_figures
from stepcoder.method.rewards import reward
from stepcoder.models.batch import Batch
from stepcoder.report.chosen import slowest
from stepcoder.report.progress import TRIES
from stepcoder.rollout.pipeline import Generated
from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox import Status
from stepcoder.taxonomy import bug_of

NAMED = 10  # problems that never passed, in a record


@dataclass(slots=True)
class StepTime:
    """Where the time of a step went.

    `seconds` of the loop by part add up to the step. `timeline` has (part, start, end), in seconds
    since the run began, of all that was done for the step, overlapping parts too.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    timeline: list[tuple[str, float, float]] = field(default_factory=list)
    hidden_judge_share: float | None = None


class StepTimer:
    """Seconds spent in each named part of a step."""

    def __init__(self) -> None:
        """Start with an empty step."""
        self._origin = time.perf_counter()
        self._spent = StepTime()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of a `with` block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self._spent.seconds[part] += end - start
            self._mark(part, start, end)

    def record_wait(self, batch: Generated, start: float, end: float) -> None:
        """Take in a batch that the loop waited for from `start` to `end`."""
        for_tokens = max(min(batch.generated[1], end) - start, 0.0)
        for_verdicts = end - start - for_tokens
        self._spent.seconds["generate"] += for_tokens
        self._spent.seconds["judge"] += for_verdicts
        self._mark("generate", *batch.generated)
        for interval in batch.judged:
            self._mark("judge", *interval)
        judged = sum(ended - began for began, ended in batch.judged)
        if judged:
            self._spent.hidden_judge_share = 1 - min(for_verdicts / judged, 1.0)

    def take(self) -> StepTime:
        """Return the step's time and start the next step."""
        taken, self._spent = self._spent, StepTime()
        return taken

    def _mark(self, part: str, start: float, end: float) -> None:
        begun, ended = round(start - self._origin, 3), round(end - self._origin, 3)
        self._spent.timeline.append((part, begun, ended))


def step_metrics(
    spent: StepTime, rollouts: Sequence[Rollout], batch: Batch, curriculum: Curriculum
) -> dict[str, Any]:
    """Return what time, rollouts, scored batch and curriculum say of a step."""
    rewards = [value for r in rollouts if (value := reward(r.verdict)) is not None]
    return {
        "time": spent.seconds,
        "timeline": spent.timeline,
        "hidden_judge_share": spent.hidden_judge_share,
        "reward_mean": sum(rewards) / len(rewards),
        **rollout_metrics(rollouts, spent.seconds),
        **batch_metrics(batch),
        **curriculum_metrics(curriculum),
    }


def rollout_metrics(rollouts: Sequence[Rollout], seconds: dict[str, float]) -> dict[str, Any]:
    """Return what the rollouts themselves say: verdicts, lengths, speed."""
    count = max(len(rollouts), 1)
    tokens = sum(len(r.completion.token_ids) for r in rollouts)
    prompt_tokens = max(sum(len(r.prompt_ids) for r in rollouts), 1)
    cached_tokens = sum(r.completion.cached_tokens for r in rollouts)
    statuses = Counter(r.verdict.status for r in rollouts)
    bugs = Counter(bug_of(r.verdict, r.program, r.task.problem.entry_point) for r in rollouts)
    return {
        "rollouts": len(rollouts),
        "tokens": tokens,
        "tokens_per_s": tokens / max(sum(seconds.values()), 1e-9),
        "prefix_cache_hit_rate": cached_tokens / prompt_tokens,
        "response_length": tokens / count,
        "truncated_share": sum(not r.completion.stopped for r in rollouts) / count,
        "pass_rate": statuses[Status.ACCEPTED] / count,
        "verdicts": {status.value: count for status, count in sorted(statuses.items())},
        "bugs": {bug: count for bug, count in sorted(bugs.items(), key=str) if bug},
        "infrastructure_errors": statuses[Status.INFRASTRUCTURE_ERROR],
        "slowest_judge_s": max((r.verdict.wall_s for r in rollouts), default=0.0),
        "slowest": slowest(rollouts),
    }


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Return what the scored batch says: KL, entropy, mask share, critic quality, mismatch."""
    mask = batch.response_mask
    figures = {} if batch.old_logprobs is None else policy_figures(batch)
    explained = {}
    if batch.values is not None and batch.returns is not None:
        returns, residual = batch.returns[mask], (batch.returns - batch.values)[mask]
        variance = returns.var(correction=0).item()
        share = 1 - residual.var(correction=0).item() / max(variance, 1e-9)
        explained = {"explained_variance": share}
    return {
        "masked_share": 1 - (batch.executed_mask.sum() / mask.sum()).item(),
        **{name: mean.item() for name, mean in figures.items()},
        **explained,
    }


def curriculum_metrics(curriculum: Curriculum) -> dict[str, Any]:
    """Return where the curriculum stands."""
    stuck = curriculum.never_passed(TRIES)
    return {
        "stages": {str(stage): count for stage, count in curriculum.stage_histogram().items()},
        "stage_moves": curriculum.moves,
        "epoch": curriculum.epoch,
        "never_passed": {"problems": len(stuck), "most_tried": list(stuck.items())[:NAMED]},
    }
