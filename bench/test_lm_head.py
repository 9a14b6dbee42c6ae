"""LM head: log-prob + entropy without gradient, and the PPO head forward + backward, with peers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import measure
import peers
import pytest
import torch
from torch import Tensor

from stepcoder.kernels import reference
from stepcoder.kernels.lm_head_backward import DEFAULT_WORKSPACE, gradient_chunks
from stepcoder.kernels.logprob import logprob_entropy
from stepcoder.kernels.policy_head import LOW_MEMORY, ppo_head

pytestmark = pytest.mark.filterwarnings("default")

WIDTHS, VOCABS, TOKENS = (4096, 2048, 1536, 3584), (32_256, 151_936), (16_384, 4096)
SHAPES = [(t, h, v) for t in TOKENS for v in VOCABS for h in WIDTHS]
QUICK = {(16_384, h, v) for v in VOCABS for h in (4096, 2048, 1536)}
COMPARISON = (4096, 4096, 131_072)  # the shape that Liger publishes
PEER_SHAPES = (COMPARISON, (16_384, 2048, 32_256))
if measure.DRY:
    COMPARISON, SHAPES = (64, 32, 200), [(70, 32, 100)]
    QUICK, PEER_SHAPES = set(SHAPES), (COMPARISON,)


@dataclass(frozen=True)
class Inputs:
    """A head's inputs; hidden and weight require gradients."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    importance: Tensor

    @property
    def head(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.targets

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.old_logprobs, self.advantages, self.importance


def make_inputs(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Inputs:
    """Random heads with logits of deviation about 3."""
    rows, width, vocab = shape
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, width, device=device, dtype=dtype)
    weight = (weight * (3 / width**0.5)).requires_grad_()
    targets = torch.randint(vocab, (rows,), device=device)
    with torch.no_grad():
        old = torch.cat(
            [
                reference.logprob_entropy(hidden[i : i + 512], weight, targets[i : i + 512])[0]
                for i in range(0, rows, 512)
            ]
        )
    return Inputs(
        hidden,
        weight,
        targets,
        old.float() + 0.1 * torch.randn(rows, device=device),
        torch.randn(rows, device=device),
        torch.ones(rows, device=device),
    )


@functools.lru_cache(maxsize=1)
def cuda_inputs(shape: tuple[int, int, int]) -> Inputs:
    return make_inputs(shape, measure.DEVICE, torch.bfloat16)


@functools.lru_cache(maxsize=4)
def cublas_ms(shape: tuple[int, int, int]) -> tuple[float, float]:
    """Times of the bare products, one and all three, in the chunks that the head uses."""
    rows, _, vocab = shape
    hidden, weight, _ = cuda_inputs(shape).head
    hidden, weight = hidden.detach(), weight.detach()
    chunk = gradient_chunks(rows, vocab, hidden.device, DEFAULT_WORKSPACE)[0].stop
    logits = hidden.new_empty(chunk, vocab).normal_()
    part = hidden[:chunk]
    hidden_grad, weight_grad = torch.empty_like(part), torch.empty_like(weight)
    first = measure.milliseconds(lambda: torch.mm(part, weight.T, out=logits))
    second = measure.milliseconds(lambda: torch.mm(logits, weight, out=hidden_grad))
    third = measure.milliseconds(lambda: torch.mm(logits.T, part, out=weight_grad))
    return first * rows / chunk, (first + second + third) * rows / chunk


def report(
    benchmark: Any,
    run: Callable[[], object],
    operation: str,
    provider: str,
    shape: tuple[int, int, int],
    products: int,
    active: float = 1.0,
) -> None:
    """Measure a run and attach its row to pytest-benchmark's record."""
    rows, width, vocab = shape
    hot, cold = measure.milliseconds(run), measure.milliseconds(run, cold=True)
    bare = cublas_ms(shape)[0 if products == 1 else 1] * active
    benchmark.extra_info.update(
        measure.machine(),
        operation=operation,
        provider=provider,
        T=rows,
        H=width,
        V=vocab,
        active=active,
        hot_ms=hot,
        cold_ms=cold,
        tflops=2 * products * rows * active * width * vocab / hot / 1e9,
        of_cublas=bare / hot,
        extra_mib=measure.extra_bytes(run) / 2**20,
    )
    benchmark.pedantic(run, rounds=1)


def skip_unless_chosen(shape: tuple[int, int, int], full: bool) -> None:
    if not full and shape not in QUICK:
        pytest.skip("not in the quick selection (--full)")


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logprob_entropy(benchmark, full, shape):
    skip_unless_chosen(shape, full)
    inputs = cuda_inputs(shape)

    @torch.no_grad()
    def run() -> object:
        return logprob_entropy(*inputs.head)

    report(benchmark, run, "logprob", "ours", shape, 1)


def backward(loss: Callable[[Tensor, Tensor], Tensor], inputs: Inputs) -> Callable[[], object]:
    """Forward and backward of a loss of hidden and weight, gradients dropped."""

    def run() -> object:
        return torch.autograd.grad(loss(inputs.hidden, inputs.weight), inputs.head[:2])

    return run


def our_loss(
    inputs: Inputs, workspace: int = DEFAULT_WORKSPACE
) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda hidden, weight: ppo_head(
        hidden,
        weight,
        inputs.targets,
        *inputs.tokens,
        float(len(hidden)),
        0.2,
        workspace_bytes=workspace,
    )[0]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("memory", ["", " low memory"])
@pytest.mark.parametrize("shape", [COMPARISON, *SHAPES], ids=str)
def test_ppo_head(benchmark, full, shape, memory):
    if shape != COMPARISON:
        skip_unless_chosen(shape, full)
    if memory and not full and shape != (16_384, 4096, 151_936):
        pytest.skip("not in the quick selection (--full)")
    inputs = cuda_inputs(shape)
    loss = our_loss(inputs, LOW_MEMORY if memory else DEFAULT_WORKSPACE)
    report(benchmark, backward(loss, inputs), "ppo_head", "ours" + memory, shape, 3)


@pytest.mark.parametrize("active", [0.5, 0.1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ppo_head_of_some_rows(benchmark, cuda, full, shape, active):
    skip_unless_chosen(shape, full)
    inputs = cuda_inputs(shape)
    rows = torch.randperm(shape[0], device=cuda)[: int(shape[0] * active)].sort().values
    targets, tokens = inputs.targets[rows], [t[rows] for t in inputs.tokens]

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return ppo_head(hidden[rows], weight, targets, *tokens, float(len(rows)), 0.2)[0]

    report(benchmark, backward(loss, inputs), "ppo_head", "ours", shape, 3, active)


def skip_without(name: str, error: Exception) -> None:
    pytest.skip(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", peers.NAMES)
@pytest.mark.parametrize("shape", PEER_SHAPES, ids=str)
def test_ppo_head_of_a_peer(benchmark, shape, name):
    inputs = cuda_inputs(shape)
    old, advantages, importance = inputs.tokens
    try:
        logprobs = peers.load(name)

        def loss(hidden: Tensor, weight: Tensor) -> Tensor:
            found = logprobs(hidden, weight, inputs.targets)
            return reference.ppo_policy_loss(
                found, found, old, advantages, importance, float(len(old)), 0.2
            )[0]

        run = backward(loss, inputs)
        run()
    except Exception as error:  # whatever a foreign package raises here is the row's reason
        skip_without(name, error)
    report(benchmark, run, "ppo_head", name, shape, 3)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", peers.NAMES)
@pytest.mark.parametrize("shape", PEER_SHAPES, ids=str)
def test_logprob_of_a_peer(benchmark, shape, name):
    inputs = cuda_inputs(shape)
    try:
        logprobs = peers.load(name)

        @torch.no_grad()
        def run() -> object:
            return logprobs(*inputs.head)

        run()
    except Exception as error:  # see above
        skip_without(name, error)
    report(benchmark, run, "logprob", name, shape, 1)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("shape", PEER_SHAPES, ids=str)
def test_ppo_head_of_liger_grpo(benchmark, shape):
    inputs = cuda_inputs(shape)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return peers.liger_grpo(hidden, weight, inputs.targets, *inputs.tokens[:2])

    try:
        run = backward(loss, inputs)
        run()
    except Exception as error:  # see above
        skip_without("Liger GRPO", error)
    report(benchmark, run, "ppo_head", "Liger chunked GRPO", shape, 3)


def test_reference_head_on_the_cpu(benchmark):
    inputs = make_inputs((64, 128, 2048), torch.device("cpu"), torch.float32)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return reference.ppo_head(hidden, weight, inputs.targets, *inputs.tokens, 64.0, 0.2)[0]

    benchmark.extra_info.update(operation="ppo_head", provider="reference", T=64, H=128, V=2048)
    benchmark(backward(loss, inputs))
