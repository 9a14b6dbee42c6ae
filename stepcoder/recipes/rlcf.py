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
from typing import TYPE_CHECKING

import torch

from stepcoder.models.batch import Batch, Row, microbatches, pack
from stepcoder.models.policy import OutcomeCritic
from stepcoder.problems.prompts import encode_target, target_text
from stepcoder.problems.source import line_starts
from stepcoder.recipes import stepcoder
from stepcoder.recipes.static_checks import static_error
from stepcoder.rollout.rollout import Rollout, judged, row_of

if TYPE_CHECKING:
    from stepcoder.run.run import Run

STATIC_ERROR = -1.0
GENERATED, REFERENCE = 0, 1  # the discriminator's classes


def rows(run: Run, rollouts: Sequence[Rollout], step: int) -> list[Row]:  # noqa: ARG001
    """Reward each program by its static checks, or by how much it looks like the reference."""
    kept = judged(rollouts, run.config.rollout.max_infrastructure_errors)
    plain = [row_of(rollout, 0.0, run.config.fgo) for rollout in kept]
    likeness = reference_probability(run, plain)
    return [
        rewarded(row, rollout, value)
        for row, rollout, value in zip(plain, kept, likeness, strict=True)
    ]


def rewarded(row: Row, rollout: Rollout, likeness: float) -> Row:
    """Reward a program: -1 at its static error's place, or its likeness at its end."""
    line = static_error(rollout.program)
    if line is None:
        return replace(row, reward=likeness)
    place = last_token_of_line(rollout, line)
    tokens = [STATIC_ERROR if i == place else 0.0 for i in range(len(row.response_ids))]
    return replace(row, token_rewards=tokens)


def last_token_of_line(rollout: Rollout, line: int) -> int:
    """Return the last response token that lies on a line or before; 0 for a line that was given."""
    starts = [*line_starts(rollout.program), len(rollout.program) + 1]
    end = starts[min(line, len(starts) - 1)] - len(rollout.task.given)
    on_it = [i for i, (start, stop) in enumerate(rollout.spans) if start < min(stop, end)]
    return on_it[-1] if on_it else 0


@torch.no_grad()
def reference_probability(run: Run, rows: Sequence[Row]) -> list[float]:
    """Probability of each row to be the reference."""
    batch = pack(rows).to(run.device)
    found = torch.zeros(len(batch))
    for chosen, piece in microbatches(batch, run.config.ppo.tokens_per_microbatch):
        probabilities = torch.softmax(discriminator(run).logits(piece), dim=-1)
        found[chosen] = probabilities[:, REFERENCE].cpu()
    return found.tolist()


def update(run: Run, batch: Batch, rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
    """Clipped PPO, then a step of the discriminator."""
    stats = stepcoder.update(run, batch, rollouts, step)
    return {**stats, "discriminator_loss": train_discriminator(run, rollouts)}


def train_discriminator(run: Run, rollouts: Sequence[Rollout]) -> float:
    """One step on the generated programs and the references of their prompts; returns the loss."""
    fgo, config = run.config.fgo, run.config.ppo
    kept = judged(rollouts, run.config.rollout.max_infrastructure_errors)
    pairs = [(replace(row_of(r, 0.0, fgo), outcome=GENERATED), reference_row(run, r)) for r in kept]
    whole = pack([row for pair in pairs for row in pair]).to(run.device)
    model, optimizer, total = discriminator(run), run.recipe_optimizer, 0.0
    assert optimizer is not None
    for _, piece in microbatches(whole, config.tokens_per_microbatch):
        loss = model.loss(piece, whole, config.value_clip)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def reference_row(run: Run, rollout: Rollout) -> Row:
    """Return the canonical solution as a response to the rollout's prompt."""
    task, limit = rollout.task, run.config.rollout.max_new_tokens
    text = target_text(task.problem, task.given)
    ids = encode_target(run.tokenizer, rollout.prompt_ids, text)[:limit]
    blank = [0.0] * len(ids)
    return Row(rollout.prompt_ids, ids, blank, [True] * len(ids), 0.0, REFERENCE)


def discriminator(run: Run) -> OutcomeCritic:
    """Return the second model, which starts as the policy does."""
    assert isinstance(run.recipe_model, OutcomeCritic)
    return run.recipe_model


RECIPE = replace(
    stepcoder.RECIPE,
    rows=rows,
    update=update,
    model=lambda policy: OutcomeCritic.from_policy(policy, 2),
)
