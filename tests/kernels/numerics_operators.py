"""The kernels as PyTorch operators: schemas, torch.compile, checkpointing, and a training step."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from stepcoder.kernels import logprob, packed_gae, policy_head, ppo_head, scale, token_loss

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # numpy's
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")


def head_inputs(device):
    torch.manual_seed(0)
    hidden = torch.randn(20, 32).bfloat16().to(device).requires_grad_()
    weight = (0.5 * torch.randn(70, 32)).bfloat16().to(device).requires_grad_()
    targets = torch.randint(70, (20,)).to(device)
    old, advantages = -4 + 0.1 * torch.randn(20).to(device), torch.randn(20).to(device)
    return hidden, weight, targets, old, advantages, torch.ones(20, device=device)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_operators_keep_their_promises_to_pytorch(device):
    hidden, weight, targets, old, advantages, importance = head_inputs(device)
    cu_seqlens = torch.tensor([0, 5, 20], dtype=torch.int32, device=device)
    mask = torch.arange(20, device=device) % 3 > 0
    size, count = 1 << 20, torch.tensor(20.0, device=device)
    calls = [
        (logprob._forward, (hidden, weight, targets, 0.9, 0.0, size)),
        (
            logprob._backward,
            (
                *(old, None, hidden, weight, targets, old, -old, -old),
                *(0.9, 0.0, size, True, False),
            ),
        ),
        (
            policy_head._forward,
            (
                *(hidden, weight, targets, old, advantages, importance, None, count),
                *(0.2, 0.3, 2.0, 0.0, 1.0, 0.0, 0.0, 0, size, True, True),
            ),
        ),
        (packed_gae._forward, (old, advantages, cu_seqlens, mask, None, 0.9, 0.8, True)),
        (
            token_loss._forward,
            (
                *(old.clone().requires_grad_(), importance, old, advantages, importance, None),
                *(mask, advantages, old, importance, mask),
                *(count, count, 0.2, 0.3, 2.0, 0.2, 0.0, 0.0, 0),
            ),
        ),
        (scale.scale_, (old.clone(), advantages[0], advantages[1], 7)),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments, test_utils=CHECKS)


def test_a_compiled_graph_gives_what_eager_gives(device):
    *_, targets, old, advantages, importance = head_inputs(device)

    def step(hidden, weight):
        loss, statistics, _ = ppo_head(
            hidden * 2, weight, targets, old, advantages, importance, 20.0, 0.2
        )
        return loss * 3, statistics.entropy

    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        hidden, weight, *_ = head_inputs(device)
        loss, entropy = function(hidden, weight)
        loss.backward()
        results.append((loss, entropy, hidden.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_checkpointed_head_gives_the_same_gradients(device):
    results = []
    for wrapped in (False, True):
        hidden, weight, *rest = head_inputs(device)

        def loss(hidden, weight, rest=rest):
            return ppo_head(hidden.tanh(), weight, *rest, 20.0, 0.2)[0]

        value = (
            checkpoint(loss, hidden, weight, use_reentrant=False)
            if wrapped
            else loss(hidden, weight)
        )
        value.backward()
        results.append((hidden.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_second_backward_through_scaled_gradients_is_refused(device):
    hidden, weight, *rest = head_inputs(device)
    loss = 3 * ppo_head(hidden, weight, *rest, 20.0, 0.2)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_tied_head_adds_both_gradients(device):
    _, weight, targets, *rest = head_inputs(device)
    table = weight.detach().clone().requires_grad_()
    loss = ppo_head(table[targets].tanh(), table, targets, *rest, 20.0, 0.2)[0]
    loss.backward()
    embedded = table.detach()[targets].tanh().requires_grad_()
    untied = table.detach().clone().requires_grad_()
    ppo_head(embedded, untied, targets, *rest, 20.0, 0.2)[0].backward()
    through_rows = torch.zeros_like(table).index_add_(
        0, targets, embedded.grad * (1 - embedded.detach() ** 2)
    )
    torch.testing.assert_close(table.grad, untied.grad + through_rows, atol=1e-3, rtol=0.02)


class GradientKeeper(torch.optim.SGD):
    """An optimizer that changes nothing and keeps the gradients of its one step."""

    def step(self, closure=None):  # noqa: ARG002
        groups = self.param_groups
        self.kept = [p.grad.double().flatten() for g in groups for p in g["params"]]


def training_step(device):
    """Score, advantages and one update of tiny bfloat16 models; statistics and gradients."""
    from helpers.tiny_policy import stepping
    from transformers import AutoModelForCausalLM, LlamaConfig

    from stepcoder.config import PPOConfig
    from stepcoder.method.ppo import Learner, advantages, score, update
    from stepcoder.models.batch import Row, pack
    from stepcoder.models.policy import Critic, frozen_copy, prepare

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    )
    policy = prepare(AutoModelForCausalLM.from_config(shape).bfloat16(), device)
    critic = Critic.from_policy(policy)
    config = PPOConfig(epochs=1, minibatches=1, entropy_bonus=0.01, max_grad_norm=1e9)
    rows = [
        Row([2, 3, 4], [5, 6, 7, 1], [-4.0, -4.5, -3.5, -4.2], [True, True, False, True], 1.0),
        Row([9], [8, 60, 3], [-4.4, -4.1, -3.9], [True, False, True], -0.3),
        Row([4, 5], [11, 12, 2, 2, 1], [-4.0] * 5, [False] * 5, -1.0),
    ]
    batch = score(pack(rows).to(device), policy, frozen_copy(policy), critic, config, 0.8)
    batch = advantages(batch, config)
    models = (policy, critic)
    optimizers = [stepping(model, GradientKeeper, lr=0.1) for model in models]
    learner = Learner(*models, *optimizers)
    statistics = update(learner, batch, config, 0.8, torch.Generator().manual_seed(0))
    return statistics, [torch.cat(part.kept) for o in optimizers for part in o.parts]


def test_a_training_step_through_the_kernels_is_that_of_the_references(
    device, monkeypatch, operators
):
    pytest.importorskip("transformers")
    monkeypatch.setenv("STEPCODER_KERNELS", "reference")
    with operators:
        expected, exact = training_step(device)
    assert operators.names == []
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    with operators:
        found, gradients = training_step(device)
    assert {"logprob_entropy", "gae", "ppo_head", "ppo_loss"} <= set(operators.names)
    assert found == pytest.approx(expected, rel=0.03, abs=0.01)  # the reference's logits: bfloat16
    for ours, its in zip(gradients, exact, strict=True):
        assert its.norm() > 0
        assert (ours - its).norm() < 0.05 * its.norm()
