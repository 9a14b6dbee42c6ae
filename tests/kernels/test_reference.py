"""The references: their gradients against finite differences, GAE against its defining sum."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from stepcoder import kernels as ops
from stepcoder.kernels import reference
from stepcoder.kernels.reference import ClipRange


def normal(*shape: int, seed: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return tensor.requires_grad_(grad)


N, V, H = 6, 11, 4
TARGETS = torch.tensor([0, 3, 10, 3, 7, 1])


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_logprob_and_entropy_gradients(softcap):
    hidden, weight = normal(N, H, seed=0, grad=True), normal(V, H, seed=1, grad=True)
    assert gradcheck(
        lambda h, w: reference.logprob_entropy(h, w, TARGETS, 0.7, softcap), (hidden, weight)
    )


def policy_inputs(seed: int, rows: int = N) -> tuple[Tensor, ...]:
    """Old log-probabilities that put ratios well inside and well outside the clip range."""
    logprobs = -normal(rows, seed=seed).abs()
    shift = torch.tensor([-0.7, -0.05, 0.06, 0.7, 0.5, -0.6], dtype=torch.float64)[:rows]
    return (
        logprobs.requires_grad_(),
        normal(rows, seed=seed + 1, grad=True),
        logprobs.detach() - shift,
        normal(rows, seed=seed + 2),
        normal(rows, seed=seed + 3).abs(),
        logprobs.detach() + normal(rows, seed=seed + 4),
    )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_policy_loss_gradients(estimator):
    logprobs, entropy, old, advantages, importance, ref = policy_inputs(2)

    def loss(logprobs: Tensor, entropy: Tensor) -> Tensor:
        return reference.ppo_policy_loss(
            logprobs, entropy, old, advantages, importance, 6.0, 0.2, 0.1, ref, 0.3, estimator
        )[0]

    assert gradcheck(loss, (logprobs, entropy))


def test_the_head_takes_the_gradient_of_cispo():
    """As docs/kernels.md says: MiniMax-M1's equation 4 (arXiv 2506.13585) by autograd."""
    hidden, weight = normal(N, H, seed=0, grad=True), normal(V, H, seed=1, grad=True)
    logprobs, _ = ops.logprob_entropy(hidden, weight, TARGETS)
    old = logprobs.detach() - policy_inputs(2)[0].detach()  # ratios below and above the bounds
    advantages = normal(N, seed=4)
    bounded = (logprobs - old).exp().clamp(0.3, 1.5).detach()
    assert set((bounded == 0.3).tolist() + (bounded == 1.5).tolist()) == {True, False}
    objective = (bounded * advantages * logprobs).sum() / N
    expected = torch.autograd.grad(-objective, (hidden, weight))

    with torch.no_grad():
        present = ops.logprob_entropy(hidden, weight, TARGETS)[0]
    weights = (present - old).exp().clamp(0.3, 1.5)
    loss, _, _ = ops.ppo_head(
        *(hidden, weight, TARGETS, present, advantages, weights, N, ClipRange(1, math.inf))
    )
    found = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_head_gradients(estimator):
    hidden, weight = normal(N, H, seed=0, grad=True), normal(V, H, seed=1, grad=True)
    with torch.no_grad():
        logprobs, _ = reference.logprob_entropy(hidden, weight, TARGETS)
    shift = torch.tensor([-0.7, -0.05, 0.06, 0.7, 0.5, -0.6], dtype=torch.float64)
    advantages, importance = normal(N, seed=5), normal(N, seed=6).abs()
    ref = logprobs + normal(N, seed=7)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return reference.ppo_head(
            hidden,
            weight,
            TARGETS,
            logprobs - shift,
            advantages,
            importance,
            6.0,
            0.2,
            0.1,
            ref_logprobs=ref,
            kl_beta=0.3,
            kl_estimator=estimator,
        )[0]

    assert gradcheck(loss, (hidden, weight))


def test_value_loss_gradients():
    values = normal(40, seed=3, grad=True)
    old, returns = values.detach() + 0.5 * normal(40, seed=4), normal(40, seed=5)
    assert gradcheck(lambda v: reference.value_loss(v, old, returns, 40.0, 0.3), (values,))


def test_both_losses_are_the_single_ones_of_the_masked_tokens():
    logprobs, entropy, old, advantages, importance, ref = policy_inputs(2)
    values, old_values, returns = (normal(N, seed=s) for s in (7, 8, 9))
    executed = torch.tensor([True, False, True, True, False, False])
    response = torch.tensor([True, True, True, False, True, False])
    policy, value, statistics = reference.ppo_loss(
        *(logprobs, entropy, old, advantages, importance, executed),
        *(values, old_values, returns, response),
        *(3.0, 4.0, 0.2, 0.3, 0.1, ref, 0.3, "k2"),
    )
    alone, alone_statistics = reference.ppo_policy_loss(
        *(t[executed] for t in (logprobs, entropy, old, advantages, importance)),
        *(3.0, 0.2, 0.1, ref[executed], 0.3, "k2"),
    )
    assert torch.equal(policy, alone)
    assert all(torch.equal(a, b) for a, b in zip(statistics, alone_statistics, strict=True))
    single = (values[response], old_values[response], returns[response])
    assert torch.equal(value, reference.value_loss(*single, 4.0, 0.3))


def test_clipped_counts_the_tokens_whose_gradient_is_cut_off():
    logprobs, entropy, old, advantages, importance, _ = policy_inputs(2)
    loss, statistics = reference.ppo_policy_loss(
        logprobs, entropy, old, advantages, importance, 6.0, 0.2
    )
    loss.backward()
    assert 0 < statistics.clipped.item() == (logprobs.grad == 0).sum().item() < N


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # Below 1 - low = 0.8 a loss is not made larger, above 1 + high = 1.28 a gain is not.
        (0.7, -1.0, 0.8, 0.0),
        (0.7, 1.0, -0.7, -0.7),
        (0.9, -1.0, 0.9, 0.9),
        (1.25, 2.0, -2.5, -2.5),
        (1.3, 2.0, -2.56, 0.0),
        # A loss counts no more than at the ratio 3, however far the policy has moved to it.
        (2.0, -1.0, 2.0, 2.0),
        (5.0, -1.0, 3.0, 0.0),
        (5.0, 1.0, -1.28, 0.0),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_a_range_clips_each_side_on_its_own(ratio, advantage, loss, gradient):
    logprob = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    clip = reference.ClipRange(low=0.2, high=0.28, dual=3.0)
    found, statistics = reference.ppo_policy_loss(
        logprob, zero, zero, advantage * one, one, 1.0, clip
    )
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert logprob.grad.item() == pytest.approx(gradient)
    assert statistics.clipped.item() == (gradient == 0 and advantage != 0)


def test_an_unknown_kl_estimator_is_refused():
    *inputs, ref = policy_inputs(2)
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        reference.ppo_policy_loss(*inputs, 6.0, 0.2, 0.0, ref, 0.1, "k4")


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_gae_is_the_discounted_sum_of_its_temporal_differences(bootstrapped):
    lengths, gamma, lam = [4, 1, 0, 7], 0.9, 0.8
    total = sum(lengths)
    rewards, values, ends = (normal(n, seed=s) for n, s in ((total, 1), (total, 2), (4, 3)))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    mask = torch.rand(total, generator=torch.Generator().manual_seed(4)) < 0.7
    expected = torch.zeros(total, dtype=torch.float64)
    for row, (start, stop) in enumerate(itertools.pairwise(cu_seqlens.tolist())):
        steps = [t for t in range(start, stop) if mask[t]]
        after = [*(values[t] for t in steps[1:]), ends[row] if bootstrapped else 0.0]
        deltas = [  # of no steps, none
            rewards[t] + gamma * later - values[t] for t, later in zip(steps, after, strict=False)
        ]
        for i, t in enumerate(steps):
            expected[t] = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[i:]))
    advantages, returns = reference.gae(
        rewards, values, cu_seqlens, mask, gamma, lam, ends if bootstrapped else None
    )
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0))


def test_advantage_statistics_whiten_the_advantages():
    rewards, values = normal(50, seed=1), normal(50, seed=2)
    cu_seqlens = torch.tensor([0, 20, 50]).int()
    mask = torch.arange(50) % 3 > 0
    advantages, _, statistics = reference.gae_with_statistics(
        rewards, values, cu_seqlens, mask, 0.99, 0.95
    )
    white = (advantages - statistics.mean)[mask] / statistics.variance.sqrt()
    assert statistics.transitions == mask.sum()
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.std(correction=0).item() == pytest.approx(1)
