"""Which rollouts the policy loss trains, by how they and the others of their problem ended.

Takes judged rollouts and FGO's masks, gives masks and rewards. All of it is off by default: the
outcome gate and dynamic sampling of DAPO (arXiv 2503.14476, section 3.2), its penalty of overlong
completions (section 3.4), and leaving those out that the token limit cut off (its "filtering").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from stepcoder.config import Config, RolloutConfig
from stepcoder.method.rewards import Reward
from stepcoder.rollout.rollout import Rollout


def gated_masks(
    rollouts: Sequence[Rollout], masks: Sequence[list[bool]], config: Config
) -> list[list[bool]]:
    """Return the masks of trained tokens, without those of rollouts that are not to be trained."""
    mixed = mixed_tasks(rollouts)

    def is_left_out(rollout: Rollout) -> bool:
        cut_off = config.rollout.overlong == "mask" and not rollout.completion.stopped
        return cut_off or (config.ppo.outcome_gate and id(rollout.task) not in mixed)

    return [
        [False] * len(mask) if is_left_out(rollout) else mask
        for rollout, mask in zip(rollouts, masks, strict=True)
    ]


def mixed_tasks(rollouts: Sequence[Rollout]) -> set[int]:
    """Return the ids of the tasks of which some programs passed and some did not.

    Only such a problem says which of its programs are better. Graded rewards would tell more apart,
    but failures that differ in kind then count as much as success does.
    """
    attempts = groupby(rollouts, key=lambda r: id(r.task))
    passes = {task: {r.verdict.passed for r in attempt} for task, attempt in attempts}
    return {task for task, found in passes.items() if len(found) > 1}


def without_overlong(
    rewards: Sequence[Reward], rollouts: Sequence[Rollout], options: RolloutConfig
) -> list[Reward]:
    """Return the rewards, less the penalty of long completions where it is asked for.

    It rises from 0 to 1 over the last `overlong_buffer` tokens below the limit (DAPO, eq. 13).
    """
    if options.overlong != "penalty":
        return list(rewards)
    buffer = options.overlong_buffer or max(options.max_new_tokens // 5, 1)
    start = options.max_new_tokens - buffer

    def penalty(rollout: Rollout) -> float:
        return max(len(rollout.completion.token_ids) - start, 0) / buffer

    return [
        replace(reward, reward=reward.reward - penalty(rollout))
        for reward, rollout in zip(rewards, rollouts, strict=True)
    ]
