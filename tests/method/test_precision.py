"""What bfloat16 does to training: with float32 masters, next to nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from stepcoder.config import PPOConfig, SFTConfig
from stepcoder.method.ppo import Learner, advantages, score, update
from stepcoder.method.sft import supervised_step
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import Critic, frozen_copy, prepare

CPU = torch.device("cpu")
VOCABULARY = 128


@pytest.fixture(scope="module")
def start() -> PreTrainedModel:
    """A decoder whose weights bfloat16 can hold, so that both precisions start alike."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
    )
    return prepare(AutoModelForCausalLM.from_config(shape).bfloat16(), CPU)


def batch_of(seed: int) -> Batch:
    """Sixteen responses to four prompts, with the four rewards."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (count,), generator=generator).tolist()

    prompts = [tokens(12) for _ in range(4)]
    rewards = (1.0, -0.3, -0.6, -1.0)
    return pack([Row(p, tokens(24), [0.0] * 24, [True] * 24, r) for p in prompts for r in rewards])


def weights(masters: Masters) -> torch.Tensor:
    return torch.cat([m.detach().double().flatten() for m in masters.of_weight.values()])


def after_rl(policy: PreTrainedModel, config: PPOConfig) -> list[torch.Tensor]:
    """The weights of policy and critic after some steps of PPO; the critic starts as the policy."""
    torch.manual_seed(0)
    critic = Critic.from_policy(policy)
    learner, reference = Learner.create(Masters(policy), critic, config), frozen_copy(policy)
    for step in range(8):
        batch = score(pack_of(step), policy, reference, critic, config, 1.0)
        batch = advantages(batch, config)
        update(learner, batch, config, 1.0, torch.Generator().manual_seed(step))
    assert learner.critic_optimizer is not None
    both = (learner.policy_optimizer, learner.critic_optimizer)
    return [weights(optimizer.masters) for optimizer in both]


def pack_of(step: int) -> Batch:
    """A step's batch, whose engine computed what the trainer computes, near enough."""
    batch = batch_of(step)
    even = torch.full_like(batch.engine_logprobs, -torch.tensor(float(VOCABULARY)).log().item())
    return replace(batch, engine_logprobs=torch.where(batch.response_mask, even, 0.0))


def after_sft(policy: PreTrainedModel, config: SFTConfig) -> list[torch.Tensor]:
    """The policy's weights after some supervised steps."""
    masters = Masters(policy)
    optimizer = Optimizer(masters, config.optimizer, config.lr, (0.9, 0.98), config.weight_decay)
    for step in range(8):
        supervised_step(policy, optimizer, batch_of(step), config.lr, 300)
    return [weights(masters)]


RUNS = {
    "rl": lambda policy: after_rl(policy, PPOConfig(tokens_per_microbatch=150, minibatches=2)),
    "rl by muon": lambda policy: after_rl(
        policy, PPOConfig(tokens_per_microbatch=150, minibatches=2, optimizer="muon")
    ),
    "sft": lambda policy: after_sft(policy, SFTConfig()),
    "sft by muon": lambda policy: after_sft(policy, SFTConfig(optimizer="muon")),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_bfloat16_model_moves_as_one_in_float32_does(kind: str, start: PreTrainedModel) -> None:
    """At the default rates nearly all weights move, along the float32 run's update.

    Stepping bfloat16 weights themselves moves less than 1% of them at such rates.
    """
    trained = RUNS[kind](copy.deepcopy(start))
    exact = RUNS[kind](copy.deepcopy(start).float())
    origin = torch.cat([p.detach().double().flatten() for p in start.parameters()])
    for ours, theirs in zip(trained, exact, strict=True):
        moved = ours[: len(origin)] - origin
        expected = theirs[: len(origin)] - origin
        assert (moved != 0).double().mean() > 0.99
        assert torch.nn.functional.cosine_similarity(moved, expected, dim=0) > 0.99
        assert moved.norm() == pytest.approx(expected.norm().item(), rel=0.02)


def test_gradients_of_microbatches_add_up_in_float32() -> None:
    """A gradient of 1 and 256 of 1/512: bfloat16 would lose every one of them."""
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    masters = Masters(model)
    (master,) = masters.of_weight.values()
    for size in [1.0] + [1 / 512] * 256:
        (model.weight * size).sum().backward()
    assert model.weight.grad is None
    assert master.grad is not None
    assert master.grad.item() == 1.5


def test_a_saved_optimizer_goes_on_with_its_masters_and_its_own_new_rate() -> None:
    def made(lr: float) -> tuple[torch.nn.Linear, Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4).bfloat16()
        return model, Optimizer(Masters(model), "adamw", lr, (0.9, 0.95), 0.0)

    def step(model: torch.nn.Linear, optimizer: Optimizer) -> None:
        model(torch.ones(1, 4, dtype=torch.bfloat16)).square().sum().backward()
        optimizer.step(1.0)

    model, optimizer = made(1e-6)
    for _ in range(3):
        step(model, optimizer)
    resumed_model, resumed = made(1e-6)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    faster_model, faster = made(1e-3)
    faster.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = weights(optimizer.masters)
    for each, its in ((model, optimizer), (resumed_model, resumed), (faster_model, faster)):
        step(each, its)
    assert torch.equal(weights(optimizer.masters), weights(resumed.masters))
    slow, fast = (weights(o.masters) - before for o in (optimizer, faster))
    torch.testing.assert_close(fast / 1e3, slow, rtol=0.05, atol=1e-8)
