"""Operations on packed tokens: GAE and the PPO losses, against their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import pytest
import torch

from stepcoder.kernels import reference
from stepcoder.kernels.packed_gae import gae, gae_with_statistics
from stepcoder.kernels.token_loss import ppo_loss

pytestmark = pytest.mark.filterwarnings("default")

ROWS = {
    "16k tokens, rows of 512": [512] * 32,
    "16k tokens, one row": [16_384],
    "1M tokens, rows of 1": [1] * 2**20,
    "1M tokens, one row": [2**20],
    "16.8M tokens, rows of 2048": [2048] * 8192,
}
if measure.DRY:
    ROWS = {"5 rows of 3": [3] * 5}
TOKENS = {"16k tokens": 2**14, "1M tokens": 2**20, "16.8M tokens": 2**24}

if measure.DRY:
    TOKENS = {"16 tokens": 16}


def gae_inputs(lengths: list[int], device: torch.device) -> tuple[Any, ...]:
    total = sum(lengths)
    return (
        torch.randn(total, device=device),
        torch.randn(total, device=device),
        torch.tensor([0, *lengths], device=device).cumsum(0).int(),
        torch.rand(total, device=device) < 0.9,
        0.99,
        0.95,
    )


def report(benchmark: Any, run: Callable[[], object], size: int, **row: object) -> None:
    """Attach device time (a graph's) and call time (with launch gaps) to the record."""
    device_ms = measure.graph_milliseconds(run)
    benchmark.extra_info.update(
        measure.machine(),
        hot_ms=device_ms,
        call_ms=measure.milliseconds(run),
        gb_per_s=size / device_ms / 1e6,
        **row,
    )
    benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("function", [gae, gae_with_statistics], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rows", ROWS)
def test_gae(benchmark, cuda, rows, function):
    inputs = gae_inputs(ROWS[rows], cuda)
    tokens = sum(ROWS[rows])
    report(
        benchmark,
        lambda: function(*inputs),
        17 * tokens,
        operation=function.__name__,
        provider="ours",
        rows=rows,
        T=tokens,
    )


def loss_inputs(tokens: int, device: torch.device) -> dict[str, Any]:
    def normal() -> torch.Tensor:
        return torch.randn(tokens, device=device)

    logprobs, values = -normal().abs(), normal()
    return {
        "logprobs": logprobs.clone().requires_grad_(),
        "entropy": normal().abs(),
        "old_logprobs": logprobs + 0.1 * normal(),
        "advantages": normal(),
        "importance": normal().abs(),
        "executed_mask": torch.rand(tokens, device=device) < 0.7,
        "values": values.clone().requires_grad_(),
        "old_values": values + 0.1 * normal(),
        "returns": normal(),
        "response_mask": torch.rand(tokens, device=device) < 0.9,
        "policy_normalizer": 1000.0,
        "value_normalizer": 1000.0,
        "clip": 0.2,
        "value_clip": 0.2,
    }


def loss_run(function: Callable[..., Any], inputs: dict[str, Any]) -> Callable[[], object]:
    one = torch.ones((), device=inputs["values"].device)

    def run() -> object:
        policy, value, _ = function(**inputs)
        leaves = (inputs["logprobs"], inputs["values"])
        return torch.autograd.grad((policy, value), leaves, (one, one))

    return run


@pytest.mark.parametrize("tokens", TOKENS)
def test_ppo_loss(benchmark, cuda, tokens):
    run = loss_run(ppo_loss, loss_inputs(TOKENS[tokens], cuda))
    report(
        benchmark,
        run,
        38 * TOKENS[tokens],
        operation="ppo_loss",
        provider="ours",
        T=TOKENS[tokens],
    )


@pytest.mark.parametrize("provider", ["reference", "torch.compile"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_ppo_loss_of_a_peer(benchmark, cuda, tokens, provider):
    function = reference.ppo_loss
    if provider == "torch.compile":
        function = torch.compile(function)
    run = loss_run(function, loss_inputs(TOKENS[tokens], cuda))
    run()
    # Boolean indexing waits for the device, which no graph can hold: event times.
    benchmark.extra_info.update(
        measure.machine(),
        operation="ppo_loss",
        provider=provider,
        T=TOKENS[tokens],
        hot_ms=measure.milliseconds(run),
    )
    benchmark.pedantic(run, rounds=1)


def test_gae_reference(benchmark, cuda):
    inputs = gae_inputs([512] * 32, cuda)
    benchmark.extra_info.update(
        measure.machine(),
        operation="gae",
        provider="reference",
        rows="16k tokens, rows of 512",
        T=2**14,
        hot_ms=measure.milliseconds(lambda: reference.gae(*inputs)),
    )
    benchmark.pedantic(lambda: reference.gae(*inputs), rounds=1)


def test_gae_reference_on_the_cpu(benchmark):
    inputs = gae_inputs([256] * 16, torch.device("cpu"))
    benchmark.extra_info.update(operation="gae", provider="reference", T=4096)
    benchmark(lambda: reference.gae(*inputs))


def test_ppo_loss_reference_on_the_cpu(benchmark):
    benchmark.extra_info.update(operation="ppo_loss", provider="reference", T=4096)
    benchmark(loss_run(reference.ppo_loss, loss_inputs(4096, torch.device("cpu"))))
