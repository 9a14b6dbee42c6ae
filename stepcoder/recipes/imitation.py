"""A supervised step on canonical solutions between RL's: CodeRL and RLTF keep imitating."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stepcoder.method.sft import supervised_rows, supervised_step
from stepcoder.models.batch import pack

if TYPE_CHECKING:
    from stepcoder.run.run import Run


def imitate(run: Run, step: int) -> float:
    """Fit `sft.batch_size` solutions at the policy's own rate; returns the loss in nats a token.

    The solutions are those of the supervised phase: RL's problems keep theirs to themselves.
    """
    config, problems = run.config, run.data.supervised
    draw = run.generator(
        -config.sft.steps - step
    )  # the supervised phase has drawn with -1, -2, ...
    chosen = torch.randint(len(problems), (config.sft.batch_size,), generator=draw)
    rows = supervised_rows(tuple(problems[i] for i in chosen.tolist()), run.tokenizer, config)
    return supervised_step(
        run.policy,
        run.learner.policy_optimizers,
        pack(rows).to(run.device),
        config.ppo.policy_lr,
        config.ppo.tokens_per_microbatch,
    )
