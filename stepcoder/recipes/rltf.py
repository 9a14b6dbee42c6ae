"""RLTF (Liu et al. 2023, arXiv 2307.04349, section 3): test feedback of three granularities.

    coarse    r(W) - r(W_greedy), r in +1, -0.3, -0.6, -1, on all tokens
    adaptive  a(W) - a(W_greedy), a = -0.3 + 1.3 passed / (passed + failed), on all tokens
    fine      -0.3 T / (E - S) on the tokens S..E of the error's line, or of the whole program
    loss = -sum_t weight_t log pi(w_t) over an online buffer, plus the supervised loss

Which error has which place: a line for IndexError, TypeError, ValueError, EOFError, NameError,
KeyError, ImportError, ZeroDivisionError and SyntaxError; the whole program for timeouts, recursion
and syntax errors on the last line (a program cut short); none for bad indentation, unterminated
strings, and for programs that ran to their end. Followed from the text: all three add up, where the
code has the adaptive reward replace the coarse one. From the code: a program with an error has its
coarse reward for a, and the baseline is the present policy's greedy program. Ours: the supervised
loss is a step of its own; a step trains on as many programs as it generated, drawn from the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import PolicyLoss
from stepcoder.method.rewards import WRONG_ANSWER, Reward, reward_of
from stepcoder.models.batch import Batch
from stepcoder.problems.source import line_starts, split_lines
from stepcoder.recipes.recipe import Recipe
from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox import Status, Verdict

FINE = -0.3
BUFFER_STEPS = 4  # the buffer holds the programs of so many steps

_LINE_ERRORS = {
    "IndexError",
    "TypeError",
    "ValueError",
    "EOFError",
    "NameError",
    "UnboundLocalError",
    "KeyError",
    "ImportError",
    "ModuleNotFoundError",
    "ZeroDivisionError",
    "SyntaxError",
}
_TIMEOUTS = {Status.CPU_TIME_LIMIT, Status.WALL_TIME_LIMIT}


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward each program against the greedy one, and mark where its error is."""
    return [
        Reward(relative_reward(r.verdict, r.greedy_verdict), fine_rewards(r))
        for r in rollouts
        if r.greedy_verdict is not None  # always, with `greedy_baseline`
    ]


def relative_reward(verdict: Verdict, baseline: Verdict) -> float:
    """Coarse and adaptive feedback, each less the baseline's (section 3.3.1 and 3.3.3)."""
    coarse = reward_of(verdict) - reward_of(baseline)
    return coarse + adaptive(verdict) - adaptive(baseline)


def adaptive(verdict: Verdict) -> float:
    """-0.3 + 1.3 x share of the tests that passed; the coarse reward where an error ended it."""
    if verdict.status not in (Status.ACCEPTED, Status.WRONG_ANSWER):
        return reward_of(verdict)
    return WRONG_ANSWER + (1 - WRONG_ANSWER) * verdict.pass_fraction


def fine_rewards(rollout: Rollout) -> list[float]:
    """-0.3 x T / (tokens marked) on the marked ones of T response tokens (section 3.3.2)."""
    marked = error_tokens(rollout)
    if not any(marked):
        return [0.0] * len(marked)
    weight = FINE * len(marked) / sum(marked)
    return [weight if m else 0.0 for m in marked]


def error_tokens(rollout: Rollout) -> list[bool]:
    """Mark the response tokens that the error is in; none where it lies in the given part."""
    verdict, spans = rollout.verdict, rollout.spans
    place = error_place(verdict, rollout.program)
    if place == "nowhere":
        return [False] * len(spans)
    if place == "whole":
        return [True] * len(spans)
    starts = [*line_starts(rollout.program), len(rollout.program) + 1]
    line = verdict.error_line or 0
    begin, end = (starts[line + i] - rollout.offset for i in (-1, 0))
    return [start < end and begin < stop and stop > start for start, stop in spans]


def error_place(verdict: Verdict, program: str) -> Literal["line", "whole", "nowhere"]:
    """Return how much of a program its error condemns (table 1 of the paper)."""
    kind, line = verdict.error_type, verdict.error_line
    last = len(split_lines(program.rstrip("\n")))
    if verdict.status in _TIMEOUTS or kind == "RecursionError":
        return "whole"
    if verdict.status is Status.COMPILE_ERROR:
        if kind != "SyntaxError" or "unterminated" in verdict.message:
            return "nowhere"
        if line is None or line >= last:
            return "whole"
        return "line"
    known = verdict.status is Status.RUNTIME_ERROR and kind in _LINE_ERRORS
    return "line" if known and line is not None and 1 <= line <= last else "nowhere"


def advantages(batch: Batch, _: PPOConfig) -> Batch:
    """Add up the feedback of each token; programs of earlier steps weigh as fresh ones do."""
    assert batch.token_rewards is not None
    weights = batch.broadcast_rows(batch.task_rewards) + batch.token_rewards
    return replace(batch, advantages=weights, importance=torch.ones_like(weights))


RECIPE = Recipe(
    rewards,
    advantages,
    PolicyLoss(clipped=False),
    critic=None,
    greedy_baseline=True,
    replay_steps=BUFFER_STEPS,
    imitates=True,
)
