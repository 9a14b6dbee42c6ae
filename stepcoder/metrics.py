"""The figures of one step, computed where the loop need not look (schema: `rundir`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stepcoder.batch import Batch
from stepcoder.curriculum import Curriculum
from stepcoder.rollout.rollouts import Rollout
from stepcoder.sandbox import Status


class Clock:
    """Seconds spent in each named part of a step."""

    def __init__(self) -> None:
        """Start with an empty step."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of a `with` block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Return the step's seconds and start the next step."""
        taken, self.seconds = self.seconds, {}
        return taken


def rollout_metrics(rollouts: Sequence[Rollout], seconds: dict[str, float]) -> dict[str, Any]:
    """Return what the rollouts themselves say: verdicts, lengths, speed."""
    tokens = sum(len(r.completion.token_ids) for r in rollouts)
    prompts = sum(len(r.prompt_ids) for r in rollouts)
    statuses = Counter(r.verdict.status for r in rollouts)
    return {
        "rollouts": len(rollouts),
        "tokens": tokens,
        "tokens_per_s": tokens / max(sum(seconds.values()), 1e-9),
        "prefix_cache_hit_rate": sum(r.completion.cached_tokens for r in rollouts)
        / max(prompts, 1),
        "response_length": tokens / max(len(rollouts), 1),
        "truncated_share": sum(not r.completion.stopped for r in rollouts) / max(len(rollouts), 1),
        "pass_rate": statuses[Status.ACCEPTED] / max(len(rollouts), 1),
        "verdicts": {status.value: count for status, count in sorted(statuses.items())},
        "infrastructure_errors": statuses[Status.INFRASTRUCTURE_ERROR],
        "slowest_judge_s": max((r.verdict.wall_s for r in rollouts), default=0.0),
    }


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Return what the scored batch says: KL, entropy, mask share, critic quality, mismatch."""
    mask = batch.response_mask
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    assert batch.entropy is not None
    assert batch.values is not None
    assert batch.returns is not None
    returns, residual = batch.returns[mask], (batch.returns - batch.values)[mask]
    variance = returns.var(correction=0).item()
    return {
        "masked_share": 1 - (batch.executed_mask.sum() / mask.sum()).item(),
        "kl": (batch.old_logprobs - batch.ref_logprobs)[mask].mean().item(),
        "engine_kl": (batch.engine_logprobs - batch.old_logprobs)[mask].mean().item(),
        "entropy": batch.entropy[mask].mean().item(),
        "explained_variance": 1 - residual.var(correction=0).item() / max(variance, 1e-9),
    }


def curriculum_metrics(curriculum: Curriculum) -> dict[str, Any]:
    """Return where the curriculum stands."""
    return {
        "stages": {str(stage): count for stage, count in curriculum.stage_histogram().items()},
        "stage_moves": curriculum.moves,
        "epoch": curriculum.epoch,
    }
