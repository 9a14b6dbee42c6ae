"""What an algorithm consists of: the steps of the loop in which recipes differ, as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from stepcoder.models.batch import Batch, Row
from stepcoder.models.policy import Critic, OutcomeCritic
from stepcoder.rollout.rollout import Rollout

if TYPE_CHECKING:  # run.py holds a recipe
    from stepcoder.run.run import Run


@dataclass(frozen=True)
class Recipe:
    """One algorithm; `stepcoder.recipes` names them all.

    rows: from rollouts, with their rewards; some may be left out, and old ones come back.
    advantages: of a scored batch.
    update: changes the models, and returns the figures to log.
    critic: built from the policy that RL starts from; None where the algorithm has none.
    model: a further model that it learns, from the policy (RLCF's discriminator).
    """

    rows: Callable[[Run, Sequence[Rollout], int], list[Row]]
    advantages: Callable[[Run, Batch], Batch]
    update: Callable[[Run, Batch, Sequence[Rollout], int], dict[str, float]]
    critic: Callable[[Run, PreTrainedModel], Critic | OutcomeCritic | None]
    model: Callable[[PreTrainedModel], OutcomeCritic] | None = None


def no_critic(run: Run, policy: PreTrainedModel) -> None:
    """Return the critic of an algorithm that has none."""
