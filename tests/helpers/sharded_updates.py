"""A program for torchrun: updates of a small policy and critic, whose end the first process saves.

python -m torch.distributed.run --nproc_per_node 2 sharded_updates.py OUT float64-adamw-value
"""

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from helpers.tiny_policy import tiny_policy

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import Learner, PolicyLoss, advantages, score, update
from stepcoder.method.sft import supervised_step
from stepcoder.models import ranks
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.lora import add_adapters
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import (
    Critic,
    OutcomeCritic,
    compile_layers,
    frozen_copy,
    recompute_layers,
)
from stepcoder.models.sharding import gathered, sharded
from stepcoder.recipes.rlcf import reference_probability, train_discriminator

# Five microbatches or more of a minibatch of this batch: not as many for each process.
PPO = PPOConfig(
    policy_lr=1e-3, critic_lr=1e-3, kl_beta=0.1, epochs=2, minibatches=2, tokens_per_microbatch=30
)


def batch_of(seed: int) -> Batch:
    """Twelve prompts with two responses each, of various lengths; some tokens are masked."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(13, (length,), generator=generator).tolist()

    rows = []
    for _ in range(12):
        prompt = draw(3, 7)
        for _ in range(2):
            response = draw(2, 9)
            executed = [token % 4 > 0 for token in response]
            reward = (1.0, -0.3, -0.6, -1.0)[response[0] % 4]
            logprobs = [-2.5] * len(response)
            rows.append(Row(prompt, response, logprobs, executed, reward, response[0] % 2))
    # The executed tokens of one response: none at all.
    rows[5] = replace(rows[5], executed=[False] * len(rows[5].response_ids))
    return pack(rows)


def updates(device: torch.device, dtype: str, optimizer: str, kind: str) -> dict[str, Any]:
    """Return the figures and the weights at the end: a supervised step, PPO twice, GRPO once.

    The critic is one of values or of outcomes; kind "lora" has adapters, "compiled" such layers.
    """
    torch.manual_seed(0)
    policy = tiny_policy().to(getattr(torch, dtype))
    if kind == "lora":
        add_adapters(policy, 2, 0)
    if kind == "compiled":
        torch.compile = partial(torch.compile, backend="aot_eager")  # spares the C++ compiler
        compile_layers(policy)
    reference, outcomes = frozen_copy(policy), kind == "outcome"
    critic = OutcomeCritic.from_policy(policy, 4) if outcomes else Critic.from_policy(policy)
    recompute_layers(critic.backbone)
    first = ranks.is_first()
    policy, critic, reference = (
        sharded(m if first else None, device) for m in (policy, critic, reference)
    )
    masters, ppo = Masters(policy), replace(PPO, optimizer=optimizer)
    solutions = Optimizer(masters, optimizer, 1e-3, (0.9, 0.98), 0.01)
    figures = [{"loss": supervised_step(policy, solutions, batch_of(9), 1e-3, 30)}]
    learner = Learner.create(masters, critic, ppo)
    for step in range(2):
        batch = score(batch_of(step), policy, reference, critic, ppo, temperature=0.8)
        generator = torch.Generator().manual_seed(step)
        figures.append(update(learner, advantages(batch, ppo), ppo, 0.8, generator))
    if outcomes:
        figures[-1]["discriminator"] = train_discriminator(
            critic, learner.critic_optimizer, batch_of(5), ppo
        )
        for row, probability in enumerate(reference_probability(critic, batch_of(6), ppo)):
            figures[-1][f"row {row}"] = probability
    # Scored by the update's own pass, without a critic.
    learner = Learner(policy, None, learner.policy_optimizer, None)
    ppo = replace(ppo, epochs=1, minibatches=1)
    batch = score(batch_of(3), None, reference, None, ppo, temperature=0.8)
    batch = replace(batch, advantages=batch.broadcast_rows(batch.task_rewards))
    figures.append(update(learner, batch, ppo, 0.8, generator, PolicyLoss(has_kl=True)))
    weights = {"policy": gathered(policy).state_dict(), "critic": gathered(critic).state_dict()}
    return {"figures": figures, "weights": weights}


def main(out: str, *kinds: str) -> None:
    """Do the updates in each of some kinds, such as `float64-adamw-value`."""
    with ranks.joined(torch.device("cpu")) as device:
        found = {kind: updates(device, *kind.split("-")) for kind in kinds}
        if ranks.is_first():
            torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
