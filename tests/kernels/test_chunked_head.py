"""The LM head in chunks of rows: equal to the reference, and without the matrix of all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stepcoder.kernels import chunked_head, dispatch, reference
from stepcoder.kernels.logprob import logprob_entropy
from stepcoder.kernels.policy_head import ppo_head

N, V, H = 300, 50, 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three chunks of 128 rows, strips of 3 rows and blocks of 16 tokens, none of which divides."""
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(chunked_head, "WORKSPACE", 1)
    monkeypatch.setattr(chunked_head, "STRIP", 3 * V * 8)
    monkeypatch.setattr(chunked_head, "BLOCK", 16)


def make_head(dtype: torch.dtype, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """States and weights that give logits of deviation `spread`, and a target for each row."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64) * spread / H**0.5
    targets = torch.randint(V, (N,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def tokens(logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Old log-probabilities, advantages, importance and the reference's log-probabilities, (N,)."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, N, generator=generator, dtype=logprobs.dtype)
    return logprobs + 0.3 * noise[0], noise[1], noise[2].abs(), logprobs + noise[3]


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, 0.0), (0.7, 0.0), (1.3, 2.0)])
@pytest.mark.parametrize("terms", [(1.0, 0.0), (0.0, 0.5), (1.0, 0.5)])
def test_logprobs_and_entropies_are_the_references_with_their_gradients(
    temperature, softcap, terms
):
    hidden, weight, targets = make_head(torch.float64)
    factors = torch.linspace(-1, 1, N, dtype=torch.float64)
    results = []
    for definition in (logprob_entropy, reference.logprob_entropy):
        logprobs, entropy = definition(hidden, weight, targets, temperature, softcap)
        used = [f * o for f, o in zip(terms, (logprobs, entropy), strict=True) if f]
        loss = (factors * sum(used)).sum()
        results.append((logprobs, entropy, *torch.autograd.grad(loss, (hidden, weight))))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize(
    ("clip", "settings", "kl_beta", "estimator"),
    [
        (0.2, (0.0, 1.0, 0.0), 0.0, "k3"),
        (0.2, (0.1, 0.7, 0.0), 0.3, "k1"),
        (reference.ClipRange(0.2, 0.3), (0.0, 1.3, 2.0), 0.3, "k2"),
        (reference.ClipRange(0.2, 0.3, 1.5), (0.1, 1.3, 2.0), 0.3, "k3"),
    ],
)
def test_the_loss_is_the_references_with_its_statistics_and_gradients(
    clip, settings, kl_beta, estimator
):
    hidden, weight, targets = make_head(torch.float64)
    with torch.no_grad():
        logprobs, _ = reference.logprob_entropy(hidden, weight, targets, *settings[1:])
    old, advantages, importance, ref = tokens(logprobs)
    results = []
    for definition in (ppo_head, reference.ppo_head):
        loss, statistics, found = definition(
            *(hidden, weight, targets, old, advantages, importance, 250.0, clip, *settings),
            *(ref if kl_beta else None, kl_beta, estimator),
        )
        gradients = torch.autograd.grad(-3 * loss, (hidden, weight))
        results.append((loss, *statistics, *found, *gradients))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact)
    assert results[0][1] > 0  # some tokens are clipped


def test_frozen_weights_or_states_get_no_gradient_and_no_rows_none_but_zeros():
    hidden, weight, targets = make_head(torch.float64)
    old, advantages, importance, _ = tokens(-torch.ones(N, dtype=torch.float64))

    def loss(hidden: Tensor, weight: Tensor, rows: slice) -> Tensor:
        inputs = (t[rows] for t in (targets, old, advantages, importance))
        return ppo_head(hidden[rows], weight, *inputs, 6.0, 0.2)[0]

    both = torch.autograd.grad(loss(hidden, weight, slice(N)), (hidden, weight))
    (by_hidden,) = torch.autograd.grad(loss(hidden, weight.detach(), slice(N)), hidden)
    (by_weight,) = torch.autograd.grad(loss(hidden.detach(), weight, slice(N)), weight)
    assert torch.equal(by_hidden, both[0])
    assert torch.equal(by_weight, both[1])
    empty = loss(hidden, weight, slice(0))
    (by_weight,) = torch.autograd.grad(empty, weight)
    assert empty == 0
    assert not by_weight.any()


def test_large_logits_in_bfloat16_keep_the_digits_of_likely_tokens():
    hidden, weight, _ = make_head(torch.bfloat16, spread=20.0)
    exact = [t.detach().double() for t in (hidden, weight)]
    targets = (exact[0] @ exact[1].T).argmax(-1)
    old, advantages, importance, _ = tokens(torch.zeros(N))
    settings = (old, advantages, importance, float(N), 10.0)

    def errors(definition: Any) -> list[float]:
        loss, *_ = definition.ppo_head(hidden, weight, targets, *settings)
        with torch.no_grad():
            logprobs, _ = definition.logprob_entropy(hidden, weight, targets)
        found = (logprobs, *torch.autograd.grad(loss, (hidden, weight)))
        return [
            ((f.double() - e).norm() / e.norm()).item() for f, e in zip(found, truth, strict=True)
        ]

    wide = [t.requires_grad_() for t in exact]
    loss, *_ = reference.ppo_head(*wide, targets, *settings)
    logprobs, _ = reference.logprob_entropy(*wide, targets)
    truth = (logprobs.detach(), *torch.autograd.grad(loss, wide))
    ours, plain = errors(chunked_head), errors(reference)
    assert ours[0] < plain[0] / 4
    assert ours[1] < plain[1] / 2
    assert ours[2] < plain[2] / 2
    assert max(ours) < 0.01


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_has_the_size_of_all_logits(dtype):
    hidden, weight, targets = make_head(dtype)
    with Largest() as largest:
        loss, *_ = ppo_head(hidden, weight, targets, *tokens(torch.zeros(N))[:3], float(N), 0.2)
        logprobs, entropy = logprob_entropy(hidden, weight, targets)
        torch.autograd.grad(loss + logprobs.sum() + entropy.sum(), (hidden, weight))
    assert largest.elements <= max(128 * V, N * H)
