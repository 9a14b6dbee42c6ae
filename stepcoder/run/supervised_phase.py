"""The supervised phase of a run: `sft.steps` steps on canonical solutions, before RL begins."""

from __future__ import annotations

import time

import torch

from stepcoder.method.sft import schedule, supervised_rows, supervised_step
from stepcoder.models.batch import pack
from stepcoder.run.run import Run


def supervise(run: Run) -> None:
    """Do what is left of the supervised phase; a policy that comes trained needs none (steps 0).

    Raises Stopped where a signal asks for it.
    """
    config = run.config.sft
    if run.phase == "rl" or run.sft_step >= config.steps:
        return
    problems, weights = run.data.supervised, run.data.weights
    rows = supervised_rows(problems, run.tokenizer, run.config)
    shares = torch.tensor([weights.get(p.task_id, 1.0) for p in problems])
    for step in range(run.sft_step + 1, config.steps + 1):
        run.stop_if_asked(step - 1)
        start = time.perf_counter()
        generator = run.generator(-step)
        if weights:
            drawn = shares.multinomial(config.batch_size, replacement=True, generator=generator)
        else:
            drawn = torch.randint(len(rows), (config.batch_size,), generator=generator)
        batch = pack([rows[i] for i in drawn.tolist()]).to(run.device)
        lr = config.lr * schedule(config, step - 1)
        loss = supervised_step(
            run.policy, run.sft_optimizer, batch, lr, run.config.ppo.tokens_per_microbatch
        )
        tokens = len(batch.tokens)
        seconds = time.perf_counter() - start
        metrics = {"loss": loss, "lr": lr, "tokens": tokens, "tokens_per_s": tokens / seconds}
        run.finish_supervised_step(step, metrics)
