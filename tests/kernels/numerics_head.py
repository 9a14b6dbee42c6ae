"""The LM head's kernels against float64: run by test_numerics.py; on a GPU, by pytest itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcoder.kernels import lm_head, logprob, logprob_entropy, ppo_head, reference
from stepcoder.kernels.lm_head_backward import gradient_chunks
from stepcoder.kernels.policy_head import LOW_MEMORY

# numpy's, at the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

TINY = lm_head.Tile(rows=16, vocab=32, hidden=16, warps=4, stages=1, group=2, flatten=False)


@dataclass
class Head:
    """Inputs of a head; hidden and weight require gradients."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor

    def copy(self, dtype: torch.dtype) -> Head:
        hidden, weight = (
            t.detach().clone().to(dtype).requires_grad_() for t in (self.hidden, self.weight)
        )
        return Head(hidden, weight, self.targets)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.targets


def make_head(device: torch.device, rows: int, vocab: int, width: int, spread: float = 3.0) -> Head:
    """Logits of standard deviation `spread`; a few rows are almost certain of their target."""
    generator = torch.Generator().manual_seed(rows + vocab + width)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * (spread / math.sqrt(width))
    targets = torch.randint(vocab, (rows,), generator=generator)
    hidden[::7] = 6 * weight[targets[::7]]
    return Head(
        hidden.bfloat16().to(device).requires_grad_(),
        weight.bfloat16().to(device).requires_grad_(),
        targets.to(device),
    )


def fence(head: Head, canaries) -> Head:
    return Head(*(canaries(tensor) for tensor in head.inputs))


def error(gradient: Tensor, exact: Tensor) -> float:
    return ((gradient.double() - exact).norm() / exact.norm()).item()


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")


@pytest.fixture
def tiny_tiles(monkeypatch, device):
    """Small tiles: a small problem has many, some of them partial (a GPU keeps its own tile)."""
    if device.type == "cpu":
        monkeypatch.setattr(lm_head, "INTERPRETER", TINY)
        lm_head.tile_for.cache_clear()
        yield
        lm_head.tile_for.cache_clear()
    else:
        yield


SHAPES = [(1, 17, 16), (5, 1003, 48), (130, 1024, 80), (65, 3000, 528)]


@pytest.mark.parametrize(
    ("rows", "vocab", "width", "temperature", "softcap"),
    [(*s, *t) for s in SHAPES for t in ((1.0, 0.0), (0.6, 0.0), (1.3, 15.0))]
    + [(3, 151_936, 32, 0.8, 0.0)],
)
def test_logprobs_are_within_1e_4_of_float64(
    canaries, device, rows, vocab, width, temperature, softcap
):
    head = make_head(device, rows, vocab, width)
    exact = reference.logprob_entropy(*head.copy(torch.float64).inputs, temperature, softcap)
    with torch.no_grad():
        logprobs, entropy = logprob_entropy(*fence(head, canaries).inputs, temperature, softcap)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert (logprobs - exact[0]).abs().max() < 1e-4
    assert (entropy - exact[1]).abs().max() < 1e-4
    assert logprobs.max() <= 0
    assert entropy.min() > -1e-6


@pytest.mark.usefixtures("tiny_tiles")
def test_every_tile_of_a_ragged_grid_counts_once(canaries, device):
    head = make_head(device, 83, 201, 48)
    exact = reference.logprob_entropy(*head.copy(torch.float64).inputs)
    with torch.no_grad():
        logprobs, entropy = logprob_entropy(*fence(head, canaries).inputs)
    assert (logprobs - exact[0]).abs().max() < 1e-4
    assert (entropy - exact[1]).abs().max() < 1e-4


def test_more_than_65536_rows(device, monkeypatch):
    if device.type == "cpu":  # minutes, else
        tall = lm_head.Tile(rows=4096, vocab=64, hidden=16, warps=4, stages=1)
        monkeypatch.setattr(lm_head, "INTERPRETER", tall)
        monkeypatch.setattr(logprob, "ROWS", 4096)
        lm_head.tile_for.cache_clear()
    head = make_head(device, 65_700, 40, 16)
    exact = reference.logprob_entropy(*head.copy(torch.float64).inputs)
    with torch.no_grad():
        logprobs, entropy = logprob_entropy(*head.inputs)
    lm_head.tile_for.cache_clear()
    assert (logprobs - exact[0]).abs().max() < 1e-4
    assert (entropy - exact[1]).abs().max() < 1e-4


def products_depend_on_the_row_alone(device: torch.device) -> bool:
    """True on a GPU. The interpreter multiplies with numpy, whose BLAS rounds a row by its position
    on some processors (those without AVX-512)."""
    if device.type == "cuda":
        return True
    left, right = (np.random.default_rng(i).standard_normal((64, 64), np.float32) for i in (0, 1))
    return bool((np.roll(left @ right, 17, axis=0) == np.roll(left, 17, axis=0) @ right).all())


def test_a_row_is_the_same_bits_alone_and_among_others(device):
    head = make_head(device, 300, 1003, 48)
    whole = logprob_entropy(*head.inputs)
    tolerance = 0.0 if products_depend_on_the_row_alone(device) else 1e-5
    for rows in (slice(0, 1), slice(17, 150), slice(299, 300)):
        part = logprob_entropy(head.hidden[rows], head.weight, head.targets[rows])
        for found, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(found, expected[rows], rtol=tolerance, atol=tolerance)


def test_the_stride_of_a_single_row_does_not_matter(device):
    head = make_head(device, 1, 100, 16)
    column = head.hidden.detach().as_strided((1, 16), (1, 1))
    assert column.is_contiguous()
    with torch.no_grad():
        found = logprob_entropy(column, head.weight, head.targets)
        expected = logprob_entropy(*head.inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_per_token_inputs_may_be_views_with_strides(device):
    head = make_head(device, 20, 100, 16)
    tokens = case_tokens(head, CASES[3])
    strided = Head(head.hidden, head.weight, head.targets.repeat_interleave(2)[::2])
    strided_tokens = Tokens(*(t.repeat_interleave(3)[::3] for t in vars(tokens).values()))
    assert not strided.targets.is_contiguous()
    with torch.no_grad():
        pairs = zip(logprob_entropy(*strided.inputs), logprob_entropy(*head.inputs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    expected, _ = run_head(ppo_head, head, tokens, CASES[3])
    gradient, head.hidden.grad = head.hidden.grad, None
    found, _ = run_head(ppo_head, strided, strided_tokens, CASES[3])
    assert torch.equal(found, expected)
    assert torch.equal(head.hidden.grad, gradient)


def test_a_target_outside_the_vocabulary_gives_nan_and_no_other_row_does(device):
    head = make_head(device, 4, 100, 16)
    head.targets[1], head.targets[2] = 100, -1  # -100 would mask its row
    logprobs, entropy = logprob_entropy(*head.inputs)
    assert logprobs.isnan().tolist() == [False, True, True, False]
    assert entropy.isfinite().all()


def test_an_ignored_target_masks_its_row_and_the_others_are_those_without_it(device):
    head, part = make_head(device, 60, 300, 32), make_head(device, 60, 300, 32)
    tokens = case_tokens(head, CASES[3])
    kept = torch.arange(60, device=device) % 3 > 0
    head.targets[~kept] = -100
    rows = kept.nonzero().squeeze(1)
    (loss, statistics), (expected, few) = (
        run_head(ppo_head, head, tokens, CASES[3]),
        run_head(ppo_head, part, tokens, CASES[3], rows),
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.stack(statistics), torch.stack(few))
    torch.testing.assert_close(head.hidden.grad, part.hidden.grad)
    assert (head.hidden.grad[~kept] == 0).all()
    torch.testing.assert_close(head.weight.grad, part.weight.grad, atol=1e-4, rtol=0.02)
    head.hidden.grad = None
    logprobs, entropy = logprob_entropy(*head.inputs)
    (logprobs + entropy).sum().backward()
    assert not torch.stack((logprobs, entropy))[:, ~kept].any()
    assert not head.hidden.grad[~kept].any()
    assert head.hidden.grad[kept].any(1).all()


def test_sequences_of_a_batch_are_taken_as_they_are(device):
    head = make_head(device, 60, 300, 32)
    tokens = make_tokens(head)
    sizes = torch.tensor(60.0, device=device)
    flat_tokens = (tokens.old_logprobs, tokens.advantages, tokens.importance)
    loss, _, found = ppo_head(*head.inputs, *flat_tokens, sizes, 0.2)
    states, targets = head.hidden.view(4, 15, 32), head.targets.view(4, 15)
    shaped, _, by_token = ppo_head(
        states, head.weight, targets, *(t.view(4, 15) for t in flat_tokens), 60.0, 0.2
    )
    assert torch.equal(loss, shaped)
    assert by_token.logprobs.shape == by_token.entropy.shape == (4, 15)
    with torch.no_grad():
        expected = logprob_entropy(states, head.weight, targets)
    for ours, its, rows in zip(by_token, expected, found, strict=True):
        assert torch.equal(ours, its)
        assert torch.equal(ours.flatten(), rows)


def test_no_rows_give_nothing_and_zero_gradients(device):
    head = make_head(device, 0, 100, 16)
    logprobs, entropy = logprob_entropy(*head.inputs)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert head.hidden.grad.shape == (0, 16)
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, 0.0), (0.7, 12.0)])
def test_logprob_gradients_err_at_most_twice_as_much_as_plain_bf16(
    canaries, device, temperature, softcap
):
    head = make_head(device, 130, 1003, 48)
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(2, 130, generator=generator).to(device)

    def gradients(function, head):
        logprobs, entropy = function(*head.inputs, temperature, softcap)
        (logprobs * factors[0] + entropy * factors[1]).sum().backward()
        return head.hidden.grad, head.weight.grad

    exact = gradients(reference.logprob_entropy, head.copy(torch.float64))
    plain = gradients(reference.logprob_entropy, head.copy(torch.bfloat16))
    found = gradients(logprob_entropy, fence(head, canaries))
    for ours, torchs, true in zip(found, plain, exact, strict=True):
        assert error(ours, true) < 2 * error(torchs, true)
        assert error(ours, true) < 0.01


@dataclass
class Tokens:
    """The per-token inputs of a PPO head."""

    old_logprobs: Tensor
    advantages: Tensor
    importance: Tensor
    ref_logprobs: Tensor


def make_tokens(head: Head, **settings) -> Tokens:
    """Old log-probabilities whose ratios bf16 does not round across the bounds of the clip."""
    generator = torch.Generator().manual_seed(2)
    exact = reference.logprob_entropy(*head.copy(torch.float64).inputs, **settings)[0].detach()
    rows = len(exact)
    log_ratio = torch.tensor([-0.6, -0.1, 0.0, 0.1, 0.6])[
        torch.randint(5, (rows,), generator=generator)
    ].to(exact.device)
    old = (exact - log_ratio).float()
    rest = torch.randn(3, rows, generator=generator).to(exact.device)
    return Tokens(old, rest[0], rest[1].abs().clamp(max=1.0), old + 0.3 * rest[2])


RANGE = reference.ClipRange(0.2, 0.28, 1.5)
CASES = [
    {"entropy_bonus": 0.0, "temperature": 1.0, "softcap": 0.0, "kl_estimator": None, "clip": 0.2},
    {
        "entropy_bonus": 0.02,
        "temperature": 0.7,
        "softcap": 0.0,
        "kl_estimator": "k1",
        "clip": RANGE,
    },
    {"entropy_bonus": 0.0, "temperature": 1.0, "softcap": 20.0, "kl_estimator": "k2", "clip": 0.2},
    {
        "entropy_bonus": 0.02,
        "temperature": 1.3,
        "softcap": 20.0,
        "kl_estimator": "k3",
        "clip": RANGE,
    },
]


def run_head(function, head: Head, tokens: Tokens, case: dict, rows=slice(None), **settings):
    """Loss and statistics of a head over some of its rows, after a backward pass."""
    estimator = case["kl_estimator"]
    wide = head.hidden.dtype == torch.float64
    old, advantages, importance, ref = (
        getattr(tokens, name)[rows].to(torch.float64 if wide else torch.float32)
        for name in ("old_logprobs", "advantages", "importance", "ref_logprobs")
    )
    loss, statistics, *_ = function(
        head.hidden[rows],
        head.weight,
        head.targets[rows],
        old,
        advantages,
        importance,
        float(max(len(head.hidden), 1)),
        case["clip"],
        case["entropy_bonus"],
        case["temperature"],
        case["softcap"],
        ref if estimator else None,
        0.3 if estimator else 0.0,
        estimator or "k3",
        **settings,
    )
    loss.backward()
    return loss.detach(), statistics


def case_tokens(head: Head, case: dict) -> Tokens:
    return make_tokens(head, temperature=case["temperature"], softcap=case["softcap"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["kl_estimator"]))
def test_the_head_matches_float64_and_its_gradients_beat_plain_bf16_twofold(canaries, device, case):
    head = make_head(device, 150, 1003, 48)
    tokens = case_tokens(head, case)
    exact_head, plain_head = head.copy(torch.float64), head.copy(torch.bfloat16)
    exact, exact_statistics = run_head(reference.ppo_head, exact_head, tokens, case)
    run_head(reference.ppo_head, plain_head, tokens, case)
    head = fence(head, canaries)
    fenced_tokens = Tokens(*(canaries(tensor) for tensor in vars(tokens).values()))
    loss, statistics = run_head(ppo_head, head, fenced_tokens, case)
    assert loss.item() == pytest.approx(exact.item(), abs=1e-5)
    for name, found, true in zip(statistics._fields, statistics, exact_statistics, strict=True):
        assert found.item() == pytest.approx(true.item(), rel=1e-4, abs=1e-4), name
    for name in ("hidden", "weight"):
        ours, plain, true = (getattr(h, name).grad for h in (head, plain_head, exact_head))
        assert error(ours, true) < 2 * error(plain, true)
        assert error(ours, true) < 0.01


@pytest.mark.parametrize("moved", [-60.0, -30.0, 30.0, 60.0])
def test_the_gradient_does_not_depend_on_how_far_the_policy_has_moved(device, moved):
    """The KL term's: the policy's own is clipped here, or has no advantage."""
    head = make_head(device, 60, 1003, 48)
    case = CASES[0] | {"kl_estimator": "k1"}
    tokens = make_tokens(head)
    tokens.old_logprobs -= moved
    tokens.advantages.fill_(float(moved > 42))
    exact_head = head.copy(torch.float64)
    run_head(reference.ppo_head, exact_head, tokens, case)
    loss, _ = run_head(ppo_head, head, tokens, case)
    assert loss.isfinite()
    for name in ("hidden", "weight"):
        ours, true = (getattr(h, name).grad for h in (head, exact_head))
        if abs(moved) > 42:  # more than 2^60 times more or less likely: no gradient
            assert not ours.any()
        else:
            assert error(ours, true) < 0.01


def test_the_clipped_statistic_counts_the_tokens_that_get_no_gradient(device):
    head = make_head(device, 150, 1003, 48)
    tokens = make_tokens(head)
    _, statistics = run_head(ppo_head, head, tokens, CASES[0])
    rows_without_gradient = (head.hidden.grad == 0).all(1) & (tokens.importance != 0)
    assert 20 < statistics.clipped.item() == rows_without_gradient.sum().item()


def test_the_ratio_is_one_where_the_policy_has_not_moved(device):
    head = make_head(device, 200, 3000, 80)
    with torch.no_grad():
        old, _ = logprob_entropy(*head.inputs, 0.8)
    ones = torch.ones_like(old)
    _, statistics, _ = ppo_head(*head.inputs, old, ones, ones, 200.0, 0.2, temperature=0.8)
    assert statistics.ratio_min.item() == pytest.approx(1, abs=1e-5)
    assert statistics.ratio_max.item() == pytest.approx(1, abs=1e-5)
    assert statistics.clipped.item() == 0
    assert abs(statistics.approx_kl.item()) < 1e-6


def test_chunks_of_rows_give_what_one_chunk_gives(device):
    whole, pieces = (make_head(device, 300, 1003, 48) for _ in range(2))
    tokens = case_tokens(whole, CASES[3])
    loss, statistics = run_head(ppo_head, whole, tokens, CASES[3])
    assert len(gradient_chunks(300, 1003, device, 1)) == 3
    piecewise = run_head(ppo_head, pieces, tokens, CASES[3], workspace_bytes=1)
    assert torch.equal(piecewise[0], loss)
    assert all(torch.equal(a, b) for a, b in zip(piecewise[1], statistics, strict=True))
    assert error(pieces.hidden.grad, whole.hidden.grad.double()) < 0.004  # bf16 rounding
    assert error(pieces.weight.grad, whole.weight.grad.double()) < 0.004


def test_many_chunks_keep_the_gradients_within_twice_the_error_of_plain_bf16(device):
    head = make_head(device, 1100, 200, 48)
    tokens = case_tokens(head, CASES[1])
    exact_head, plain_head = head.copy(torch.float64), head.copy(torch.bfloat16)
    run_head(reference.ppo_head, exact_head, tokens, CASES[1])
    run_head(reference.ppo_head, plain_head, tokens, CASES[1])
    assert len(gradient_chunks(1100, 200, device, 1)) == 9
    run_head(ppo_head, head, tokens, CASES[1], workspace_bytes=1)
    for name in ("hidden", "weight"):
        ours, plain, true = (getattr(h, name).grad for h in (head, plain_head, exact_head))
        assert error(ours, true) < 2 * error(plain, true)


def test_microbatches_add_up_to_the_batch(device):
    whole, parts = (make_head(device, 300, 1003, 48) for _ in range(2))
    tokens = case_tokens(whole, CASES[1])
    loss, _ = run_head(ppo_head, whole, tokens, CASES[1])
    losses = [
        run_head(ppo_head, parts, tokens, CASES[1], rows)[0]
        for rows in (slice(0, 33), slice(33, 33), slice(33, 300))
    ]
    assert sum(losses).item() == pytest.approx(loss.item(), abs=1e-6)
    assert error(parts.hidden.grad, whole.hidden.grad.double()) < 0.004
    assert error(parts.weight.grad, whole.weight.grad.double()) < 0.004


def test_a_frozen_side_gets_no_gradient_and_the_other_side_the_same(device):
    both, only_hidden, only_weight, none = (make_head(device, 60, 300, 32) for _ in range(4))
    tokens = make_tokens(both)
    loss, _ = run_head(ppo_head, both, tokens, CASES[0])
    only_hidden.weight.requires_grad_(False)
    run_head(ppo_head, only_hidden, tokens, CASES[0])
    only_weight.hidden.requires_grad_(False)
    run_head(ppo_head, only_weight, tokens, CASES[0])
    assert torch.equal(only_hidden.hidden.grad, both.hidden.grad)
    assert torch.equal(only_weight.weight.grad, both.weight.grad)
    assert only_hidden.weight.grad is None
    assert only_weight.hidden.grad is None
    with torch.no_grad():
        ones = torch.ones_like(tokens.advantages)
        frozen, _, _ = ppo_head(
            *none.inputs, tokens.old_logprobs, tokens.advantages, ones, 60.0, 0.2
        )
    assert frozen.requires_grad is False
    assert loss.isfinite()


def test_the_factor_of_the_backward_pass_multiplies_the_gradients(device):
    once, thrice = (make_head(device, 60, 300, 32) for _ in range(2))
    tokens = make_tokens(once)
    run_head(ppo_head, once, tokens, CASES[0])
    run_head(lambda *a: (ppo_head(*a)[0] * 3, None), thrice, tokens, CASES[0])
    assert error(thrice.hidden.grad, 3 * once.hidden.grad.double()) < 0.01
    assert error(thrice.weight.grad, 3 * once.weight.grad.double()) < 0.01


@pytest.mark.parametrize("vocab", [32_256, 151_936])
@pytest.mark.parametrize("workspace", [1280 << 20, LOW_MEMORY])
def test_chunks_fit_the_workspace_and_cover_every_row_once(vocab, workspace, device):
    chunks = gradient_chunks(16_384, vocab, device, workspace)
    tiles = -(-vocab // lm_head.tile_for(device).vocab)
    assert [c.start for c in chunks[1:]] == [c.stop for c in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].stop) == (0, 16_384)
    assert all((c.stop - c.start) * (2 * vocab + 12 * tiles) <= workspace for c in chunks)
