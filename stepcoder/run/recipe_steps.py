"""The further steps that some recipes ask for: a greedy baseline, replay, more things to learn.

StepCoder asks for none of them. The switches of `Recipe` say which recipe asks for which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from stepcoder.method.fgo import executed_masks
from stepcoder.method.rewards import Reward, judged
from stepcoder.method.rows import rows_of
from stepcoder.method.sft import supervised_rows, supervised_step
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.recipes import ppocoder, rlcf
from stepcoder.rollout.rollout import Rollout, sampling_of
from stepcoder.run.run import Run


def with_evidence(run: Run, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts that were judged, with what the recipe compares them with.

    Raises:
        RunError: the sandbox failed on too many of them.
    """
    recipe, config = run.recipe, run.config
    greedy = greedy_rollouts(run, rollouts) if recipe.greedy_baseline else []
    kept = judged(rollouts, config.rollout.max_infrastructure_errors)
    if recipe.greedy_baseline:
        verdicts = {id(g.task): g.verdict for g in greedy}
        kept = [
            replace(r, greedy_verdict=verdicts[id(r.task)]) for r in kept if id(r.task) in verdicts
        ]
    if run.discriminator is not None:
        batch = pack(_unrewarded_rows(run, kept)).to(run.device)
        found = rlcf.reference_probability(run.discriminator, batch, config.ppo)
        kept = [replace(r, reference_probability=p) for r, p in zip(kept, found, strict=True)]
    return kept


def greedy_rollouts(run: Run, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the judged greedy completion of each task; its tokens count against `max_tokens`.

    RLTF and CodeRL subtract its reward from those of the sampled programs ("relative return").
    """
    options = run.config.rollout
    tasks = [r.task for r in rollouts[:: options.samples_per_task]]
    sampling = sampling_of(run.config.prompt.template, 0.0, options.max_new_tokens)
    greedy = run.roll_out(tasks, sampling, samples=1)
    run.tokens += sum(len(g.completion.token_ids) for g in greedy)
    return judged(greedy, options.max_infrastructure_errors)


def replayed(run: Run, rows: list[Row], step: int) -> list[Row]:
    """Put a step's rows into the replay buffer, and draw as many from it; without one, all rows."""
    config = run.config.rollout
    if not run.recipe.replay_steps:
        return rows
    buffer = [Row(**row) for row in run.recipe_state.get("buffer", [])] + rows
    size = run.recipe.replay_steps * config.tasks_per_step * config.samples_per_task
    buffer = buffer[-size:]
    run.recipe_state["buffer"] = [asdict(row) for row in buffer]
    order = torch.randperm(len(buffer), generator=run.generator(step))
    drawn = sorted(order[: len(rows)].tolist())  # programs of one problem stay neighbors
    return [buffer[i] for i in drawn]


def further_updates(
    run: Run,
    batch: Batch,
    rollouts: Sequence[Rollout],
    step: int,
    trained_policy: bool,
    updated: dict[str, float],
) -> dict[str, float]:
    """Do what the recipe learns besides policy and critic; returns its figures.

    `updated` are those of the update, which may have scored the batch.
    """
    recipe, stats = run.recipe, dict[str, float]()
    if run.adapts_kl:
        if batch.old_logprobs is None:  # a mean over tokens, where one over programs is wanted
            kl = updated.get("kl", 0.0) * len(batch.response_positions) / len(batch)
        else:
            kl = batch.kl_by_row().mean().item()
        goal = run.config.ppo.kl_target or ppocoder.KL_TARGET
        stats["kl_beta"] = ppocoder.adapted(run.ppo.kl_beta, abs(kl), len(batch), goal)
        run.recipe_state["kl_beta"] = stats["kl_beta"]
    if recipe.imitates and trained_policy:
        stats["imitation_loss"] = imitate(run, step)
    if run.discriminator is not None:
        stats["discriminator_loss"] = update_discriminator(run, rollouts)
    return stats


def imitate(run: Run, step: int) -> float:
    """Fit `sft.batch_size` canonical solutions at the policy's own rate; returns nats a token.

    CodeRL and RLTF keep imitating between the steps of RL. The solutions are those of the
    supervised phase: RL's problems keep theirs to themselves.
    """
    config, problems = run.config, run.data.supervised
    generator = run.generator(-config.sft.steps - step)  # that phase has drawn with -1, -2, ...
    drawn = torch.randint(len(problems), (config.sft.batch_size,), generator=generator)
    rows = supervised_rows([problems[i] for i in drawn.tolist()], run.tokenizer, config)
    return supervised_step(
        run.policy,
        run.learner.policy_optimizer,
        pack(rows).to(run.device),
        run.ppo.policy_lr,
        config.ppo.tokens_per_microbatch,
    )


def update_discriminator(run: Run, rollouts: Sequence[Rollout]) -> float:
    """Teach RLCF's discriminator the step's programs and the references of their prompts."""
    assert run.discriminator is not None
    assert run.discriminator_optimizer is not None
    rows = _unrewarded_rows(run, rollouts)
    limit = run.config.rollout.max_new_tokens
    pairs = rlcf.discriminator_rows(rows, rollouts, run.tokenizer, limit)
    return rlcf.train_discriminator(
        run.discriminator,
        run.discriminator_optimizer,
        pack(pairs).to(run.device),
        run.config.ppo,
    )


def _unrewarded_rows(run: Run, rollouts: Sequence[Rollout]) -> list[Row]:
    masks = executed_masks(rollouts, run.config.fgo)
    return rows_of(rollouts, [Reward(0.0)] * len(rollouts), masks)
