"""RLCF (Jain et al. 2023, arXiv 2305.18341): static checks and a discriminator; no tests.

    a program with a static error: -1, at the last token of the error's line
    else: D(program), the probability that it is the reference, on the last token
    D: a decoder that learns to tell policy programs from canonical solutions of the same prompts

PPO with a value critic does the rest. Followed from the text: a compiler's checks with their place,
and feedback of a second model that compares with reference code. Open there or not known to us, and
so ours: the values -1 and D; that the checks are syntax and names that nothing binds; that D learns
beside the policy, on its programs of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from stepcoder.config import PPOConfig
from stepcoder.method.rewards import Reward
from stepcoder.models.batch import Batch, Row, shared_microbatches
from stepcoder.models.optim import Optimizer
from stepcoder.models.policy import OutcomeCritic
from stepcoder.models.ranks import summed
from stepcoder.problems.source import line_starts
from stepcoder.recipes import stepcoder
from stepcoder.recipes.static_checks import static_error
from stepcoder.rollout.rollout import Rollout, target_ids

STATIC_ERROR = -1.0
GENERATED, REFERENCE = 0, 1  # the discriminator's classes


def rewards(rollouts: Sequence[Rollout]) -> list[Reward]:
    """Reward each program by its static checks, or by how much it looks like the reference."""
    return [reward(rollout, rollout.reference_probability) for rollout in rollouts]


def reward(rollout: Rollout, likeness: float) -> Reward:
    """Reward a program: -1 at its static error's place, or its likeness at its end."""
    line = static_error(rollout.program)
    if line is None:
        return Reward(likeness)
    place, count = last_token_of_line(rollout, line), len(rollout.spans)
    return Reward(0.0, [STATIC_ERROR if i == place else 0.0 for i in range(count)])


def last_token_of_line(rollout: Rollout, line: int) -> int:
    """Return the last response token that lies on a line or before; 0 for a line that was given."""
    starts = [*line_starts(rollout.program), len(rollout.program) + 1]
    end = starts[min(line, len(starts) - 1)] - rollout.offset
    on_it = [i for i, (start, stop) in enumerate(rollout.spans) if start < min(stop, end)]
    return on_it[-1] if on_it else 0


@torch.no_grad()
def reference_probability(
    discriminator: OutcomeCritic, batch: Batch, config: PPOConfig
) -> list[float]:
    """Probability of each row of a batch to be the reference, by the discriminator."""
    found = torch.zeros(len(batch), device=batch.device)
    for rows, piece, counts in shared_microbatches(batch, config.tokens_per_microbatch):
        found[rows] += counts * torch.softmax(discriminator.logits(piece), dim=-1)[:, REFERENCE]
    return summed(found).tolist()


def discriminator_rows(
    rows: Sequence[Row],
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
) -> list[Row]:
    """Return each program's row and that of the reference of its prompt, with their classes."""
    return [
        row
        for generated, rollout in zip(rows, rollouts, strict=True)
        for row in (
            replace(generated, outcome=GENERATED),
            reference_row(rollout, tokenizer, max_new_tokens),
        )
    ]


def reference_row(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> Row:
    """Return the canonical solution as a response to the rollout's prompt."""
    ids = target_ids(rollout.task, tokenizer, max_new_tokens)
    return Row(rollout.prompt_ids, ids, [0.0] * len(ids), [True] * len(ids), 0.0, REFERENCE)


def train_discriminator(
    discriminator: OutcomeCritic,
    optimizer: Optimizer,
    batch: Batch,
    config: PPOConfig,
) -> float:
    """One step on generated programs and their references; returns the loss in nats a program."""
    total = torch.zeros((), dtype=torch.float64, device=batch.device)
    for _, piece, counts in shared_microbatches(batch, config.tokens_per_microbatch):
        loss = discriminator.loss(piece, None, batch, config.value_clip)
        (loss * counts).backward()
        total += counts * loss.detach()
    optimizer.step(config.max_grad_norm)
    return summed(total).item()


RECIPE = replace(stepcoder.RECIPE, rewards=rewards, scales_rewards=False, discriminates=True)
