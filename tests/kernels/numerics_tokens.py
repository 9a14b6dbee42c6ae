"""The kernels of GAE and of PPO's losses against float64; test_numerics.py runs this."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcoder.kernels import dispatch, packed_gae, reference
from stepcoder.kernels.language import INTERPRETED
from stepcoder.kernels.packed_gae import gae, gae_with_statistics
from stepcoder.kernels.token_loss import ppo_loss, ppo_policy_loss, value_loss

# numpy's, at the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")


BLOCK = 256 if INTERPRETED else packed_gae.BLOCK  # the interpreter's scans take their time


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    monkeypatch.setattr(packed_gae, "BLOCK", BLOCK)


ROW_LENGTHS = {
    "one row of one token": [1],
    "one short row": [5],
    "a long row between short ones": [7, 3 * BLOCK + 5, 2, 40],
    "rows that end where tiles do": [BLOCK, BLOCK, 1, BLOCK - 1],
    "empty rows": [0, 0, 33, 0, 5, 0],
    "many one-token rows": [1] * (2 * BLOCK + 3),
    "more rows than one search step probes": [1, 0, 2] * 700,
    "no rows": [],
    "only empty rows": [0, 0],
}
MASKS = {"all": 1.0, "most": 0.7, "few": 0.02, "none": 0.0}


def make_rows(device: torch.device, lengths: list[int], kept: float) -> tuple[Tensor, ...]:
    """Rewards, values, cu_seqlens, response mask and bootstraps."""
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    tensors = (
        torch.randn(total, generator=generator),
        torch.randn(total, generator=generator),
        torch.tensor([0, *lengths]).cumsum(0).int(),
        torch.rand(total, generator=generator) < kept,
        torch.randn(len(lengths), generator=generator),
    )
    return tuple(tensor.to(device) for tensor in tensors)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rows", ROW_LENGTHS)
def test_gae_matches_its_definition(canaries, device, rows, mask):
    rewards, values, cu_seqlens, kept, bootstraps = make_rows(
        device, ROW_LENGTHS[rows], MASKS[mask]
    )
    inputs = [canaries(t) for t in (rewards, values, cu_seqlens, kept)]
    for ends, gamma, lam in ((None, 0.99, 0.95), (canaries(bootstraps), 1.0, 1.0)):
        exact = reference.gae(
            rewards.double(),
            values.double(),
            cu_seqlens,
            kept,
            gamma,
            lam,
            None if ends is None else bootstraps.double(),
        )
        for found, true in zip(gae(*inputs, gamma, lam, ends), exact, strict=True):
            assert found.shape == true.shape
            torch.testing.assert_close(found.double(), true, atol=3e-4, rtol=1e-5)
            assert (found[~kept] == 0).all()


def test_a_million_empty_rows_change_nothing(canaries, device):
    lengths = [300, 5, 1, 700]
    rewards, values, cu_seqlens, kept, _ = make_rows(device, lengths, 0.7)
    padded = torch.zeros(1_000_000, dtype=torch.int64)
    padded[torch.tensor([10, 400_000, 400_001, 999_990])] = torch.tensor(lengths)
    bounds = torch.nn.functional.pad(padded.cumsum(0), (1, 0)).int().to(device)
    few = gae(rewards, values, cu_seqlens, kept, 0.99, 0.95)
    inputs = [canaries(t) for t in (rewards, values, bounds, kept)]
    many = gae(*inputs, 0.99, 0.95)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize("mask", MASKS)
def test_whitening_statistics_come_with_the_advantages(canaries, device, mask):
    lengths = [3, 2 * BLOCK + 100, 50, 0, 400]
    rewards, values, cu_seqlens, kept, _ = make_rows(device, lengths, MASKS[mask])
    rewards += 40  # far from zero: a sum of squares would lose the variance
    inputs = [canaries(t) for t in (rewards, values, cu_seqlens, kept)]
    advantages, returns, statistics = gae_with_statistics(*inputs, 0.0, 0.95)
    plain = gae(*inputs, 0.0, 0.95)
    assert torch.equal(advantages, plain[0])
    assert torch.equal(returns, plain[1])
    exact = reference.gae_with_statistics(
        rewards.double(), values.double(), cu_seqlens, kept, 0.0, 0.95
    )[2]
    for name, found, true in zip(statistics._fields, statistics, exact, strict=True):
        assert found.item() == pytest.approx(true.item(), rel=1e-5, abs=1e-6), name


def test_a_row_of_nan_leaves_the_other_rows_alone(device):
    rewards, values, *rest, _ = make_rows(device, [5, 3, 2 * BLOCK + 9, 40], 0.9)
    clean = gae(rewards, values, *rest, 0.99, 0.95)
    begin, end = rest[0][2:4].tolist()
    values[begin:end] = float("nan")
    for found, expected in zip(gae(rewards, values, *rest, 0.99, 0.95), clean, strict=True):
        for outside in (slice(0, begin), slice(end, None)):
            assert torch.equal(found[outside], expected[outside])


NAMES = (
    "logprobs",
    "entropy",
    "old_logprobs",
    "advantages",
    "importance",
    "executed_mask",
    "values",
    "old_values",
    "returns",
    "response_mask",
    "ref_logprobs",
)
RANGE = reference.ClipRange(0.2, 0.28, 1.3)  # log-ratios deviate by 0.3: all of it is met
CLIPS = {None: 0.2, "k1": RANGE, "k2": reference.ClipRange(0.1, 0.3), "k3": 0.2}
DIFFERENTIABLE = ("logprobs", "entropy", "values")


def make_tokens(device: torch.device, total: int, executed: float, response: float) -> dict:
    generator = torch.Generator().manual_seed(total)

    def normal() -> Tensor:
        return torch.randn(total, generator=generator)

    logprobs, values = -normal().abs() * 3, normal()
    tokens = {
        "logprobs": logprobs,
        "entropy": normal().abs(),
        "old_logprobs": logprobs + 0.3 * normal(),
        "advantages": normal(),
        "importance": normal().abs().clamp(max=1.0),
        "executed_mask": torch.rand(total, generator=generator) < executed,
        "values": values,
        "old_values": values + 0.3 * normal(),
        "returns": normal(),
        "response_mask": torch.rand(total, generator=generator) < response,
        "ref_logprobs": logprobs + 0.5 * normal(),
    }
    return {name: tensor.to(device) for name, tensor in tokens.items()}


def double(tokens: dict) -> dict:
    return {n: t.double() if t.is_floating_point() else t for n, t in tokens.items()}


def run(function, tokens: dict, estimator: str | None, factors=(1.0, 1.0)):
    """Losses, statistics and gradients of a loss over both masks."""
    tokens = {n: t.detach().requires_grad_(n in DIFFERENTIABLE) for n, t in tokens.items()}
    ref = tokens["ref_logprobs"] if estimator else None
    policy, value, statistics = function(
        *[tokens[name] for name in NAMES[:-1]],
        *(100.0, 200.0, CLIPS[estimator], 0.25, 0.01),
        ref,
        0.3 if estimator else 0.0,
        estimator or "k3",
    )
    (factors[0] * policy + factors[1] * value).backward()
    return (policy, value), statistics, [tokens[name].grad for name in DIFFERENTIABLE]


@pytest.mark.parametrize("estimator", [None, "k1", "k2", "k3"])
@pytest.mark.parametrize(
    ("total", "executed", "response"),
    [(1, 1.0, 1.0), (2500, 0.5, 0.8), (1024, 1.0, 1.0), (1500, 0.0, 0.5), (7, 0.0, 0.0)],
)
def test_both_losses_and_their_gradients_match(
    canaries, device, total, executed, response, estimator
):
    tokens = make_tokens(device, total, executed, response)
    exact = run(reference.ppo_loss, double(tokens), estimator, (2.0, 3.0))
    for mask, names in (("executed_mask", NAMES[:5]), ("response_mask", NAMES[6:9])):
        for name in names:
            tokens[name][~tokens[mask]] = float("nan")  # what a mask drops must not matter
    fenced = {name: canaries(tensor) for name, tensor in tokens.items()}
    losses, statistics, gradients = run(ppo_loss, fenced, estimator, (2.0, 3.0))
    for found, true in zip(losses, exact[0], strict=True):
        assert found.item() == pytest.approx(true.item(), rel=1e-5, abs=1e-5)
    for name, found, true in zip(statistics._fields, statistics, exact[1], strict=True):
        assert found.item() == pytest.approx(true.item(), rel=1e-4, abs=1e-4), name
    for found, true in zip(gradients, exact[2], strict=True):
        torch.testing.assert_close(found.double(), true, atol=1e-7, rtol=1e-5)
    assert dispatch.arrival_counter(device).item() == 0


def test_each_loss_alone_is_its_half_of_both(canaries, device):
    tokens = make_tokens(device, 1500, 1.0, 1.0)
    both, statistics, gradients = run(ppo_loss, tokens, "k3")
    alone = {n: canaries(t).requires_grad_(n in DIFFERENTIABLE) for n, t in tokens.items()}
    policy, policy_statistics = ppo_policy_loss(
        *[alone[name] for name in NAMES[:5]], 100.0, 0.2, 0.01, alone["ref_logprobs"], 0.3
    )
    value = value_loss(alone["values"], alone["old_values"], alone["returns"], 200.0, 0.25)
    policy.backward()
    value.backward()
    assert torch.equal(policy, both[0])
    assert torch.equal(value, both[1])
    assert all(torch.equal(a, b) for a, b in zip(policy_statistics, statistics, strict=True))
    for name, gradient in zip(DIFFERENTIABLE, gradients, strict=True):
        assert torch.equal(alone[name].grad, gradient)


def test_two_runs_are_the_same_bits(device):
    tokens = make_tokens(device, 5000, 0.5, 0.8)
    first, second = (run(ppo_loss, tokens, "k3") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_a_loss_that_is_not_differentiated_gives_no_gradient(device):
    tokens = make_tokens(device, 64, 1.0, 1.0)
    tokens = {n: t.requires_grad_(n in DIFFERENTIABLE) for n, t in tokens.items()}
    policy, _, _ = ppo_loss(*[tokens[n] for n in NAMES[:-1]], 64.0, 64.0, 0.2, 0.2)
    policy.backward()
    assert tokens["logprobs"].grad is not None
    assert tokens["values"].grad is None


def test_a_captured_loss_leaves_the_arrival_counter_of_its_stream_alone(device):
    if device.type != "cuda":
        pytest.skip("no CUDA device: graphs are captured on one")
    tokens = make_tokens(device, 5000, 0.5, 0.8)
    arguments = (*[tokens[n] for n in NAMES[:-1]], 100.0, 200.0, 0.2, 0.25)
    policy, value, _ = ppo_loss(*arguments)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ppo_loss(*arguments)
    for _ in range(3):
        graph.replay()
    assert torch.equal(captured[0], policy)
    assert torch.equal(captured[1], value)
    assert dispatch.arrival_counter(device).item() == 0
