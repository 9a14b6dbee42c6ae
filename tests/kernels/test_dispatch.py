"""Which implementation runs, and what its inputs must be."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stepcoder import kernels
from stepcoder.kernels import dispatch, reference
from stepcoder.kernels.dispatch import check_head, check_tokens, use_triton
from stepcoder.kernels.lm_head import launch_tiles
from stepcoder.kernels.logprob import logprob_entropy
from stepcoder.kernels.packed_gae import gae
from stepcoder.kernels.policy_head import ppo_head
from stepcoder.method import ppo
from stepcoder.models import policy

ROOT = Path(__file__).parents[2]


def test_the_switch_brings_the_definitions_themselves_on_the_cpu(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    hidden, weight = torch.randn(3, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    targets = torch.tensor([0, 4, 2])
    found = logprob_entropy(hidden, weight, targets, 0.7)
    for ours, its in zip(
        found, reference.logprob_entropy(hidden, weight, targets, 0.7), strict=True
    ):
        assert torch.equal(ours, its)


def run_the_trainers_operations(operators) -> None:
    """Call every operation that has a kernel, by the functions the trainer calls, on fake CUDA."""
    with FakeTensorMode(), operators:
        hidden, weight = (torch.empty(n, 32, device="cuda", dtype=torch.bfloat16) for n in (5, 70))
        targets = torch.empty(5, device="cuda", dtype=torch.int64)
        tokens, mask = torch.empty(5, device="cuda"), torch.empty(5, device="cuda") > 0
        bounds = torch.empty(3, device="cuda", dtype=torch.int32)
        policy.logprob_entropy(hidden, weight, targets, 0.8)
        ppo.gae(tokens, tokens, bounds, mask, 1.0, 0.95)
        ppo.ppo_head(hidden, weight, targets, tokens, tokens, tokens, 5.0, 0.2)
        policy.value_loss(tokens, tokens, tokens, 5.0, 0.2)


def test_the_trainer_runs_the_kernels_on_cuda_by_default(monkeypatch, operators):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    run_the_trainers_operations(operators)
    assert operators.names == ["logprob_entropy", "gae", "ppo_head", "ppo_loss"]


def test_on_cuda_the_switch_and_other_dtypes_bring_the_reference(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    with FakeTensorMode():
        tensor = torch.empty(3, device="cuda", dtype=torch.bfloat16)
    assert use_triton("ppo_head", tensor, torch.bfloat16)
    with pytest.warns(match="an_operation runs in PyTorch, slower: its kernel takes float32, and"):
        assert not use_triton("an_operation", tensor, torch.float32)
    with warnings.catch_warnings(action="error"):  # it has been said
        assert not use_triton("an_operation", tensor, torch.float32)
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    with pytest.warns(match="an_operation runs in PyTorch, slower: pip install triton"):
        assert not use_triton("an_operation", tensor, torch.bfloat16)
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert not use_triton("ppo_head", tensor, torch.bfloat16)


def test_a_misspelt_switch_is_refused(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "cuda")
    with pytest.raises(ValueError, match="STEPCODER_KERNELS is 'cuda'; it takes"):
        use_triton("gae", torch.zeros(1), torch.float32)


def test_asking_for_triton_without_a_gpu_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    missing = "needs? CUDA" if importlib.util.find_spec("triton") else "not installed"
    with pytest.raises(RuntimeError, match=missing):
        gae(torch.zeros(2), torch.zeros(2), torch.tensor([0, 2]).int(), torch.ones(2) > 0, 1, 1)


def test_the_kernels_import_and_run_where_triton_is_not_installed():
    program = """
import sys
sys.modules["triton"] = None
import torch
from stepcoder.kernels import lm_head, logprob, packed_gae, policy_head, scale, token_loss
found = logprob.logprob_entropy(torch.zeros(2, 8), torch.zeros(5, 8), torch.tensor([1, 2]))
print(found[0].exp().tolist())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("[0.19999")


HIDDEN = torch.zeros(3, 32, dtype=torch.bfloat16)
WEIGHT = torch.zeros(7, 32, dtype=torch.bfloat16)
TARGETS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("hidden", "weight", "targets", "error", "message"),
    [
        (HIDDEN.float(), WEIGHT, TARGETS, TypeError, "hidden is float32; .* bfloat16"),
        (HIDDEN, WEIGHT.half(), TARGETS, TypeError, "weight is float16"),
        (HIDDEN, WEIGHT, TARGETS.int(), TypeError, "targets is int32; .* int64"),
        (HIDDEN, WEIGHT[:, :16], TARGETS, ValueError, r"\(3, 32\) and weight \(7, 16\)"),
        (HIDDEN[:, :8], WEIGHT[:, :8], TARGETS, ValueError, "H is 8; .* multiple of 16"),
        (HIDDEN, WEIGHT, TARGETS[:2], ValueError, r"targets is \(2,\); it must be \(3,\)"),
        (HIDDEN, WEIGHT.T.contiguous().T, TARGETS, ValueError, r"strides \(1, 7\)"),
        (HIDDEN, WEIGHT.to("meta"), TARGETS, ValueError, "weight is on meta"),
    ],
)
def test_a_head_that_does_not_fit_is_one_clear_line(hidden, weight, targets, error, message):
    with pytest.raises(error, match=message) as caught:
        check_head("ppo_head", hidden, weight, targets)
    assert str(caught.value).startswith("ppo_head: ")
    assert "\n" not in str(caught.value)


def test_a_head_that_the_copy_engine_cannot_read_is_refused():
    shifted = torch.zeros(100, dtype=torch.bfloat16)[4:].view(3, 32)
    with pytest.raises(ValueError, match=r"hidden starts 4 elements into .* 16 bytes"):
        launch_tiles(shifted, WEIGHT, 1.0, 0.0)


def test_tokens_that_do_not_fit_are_one_clear_line():
    with pytest.raises(TypeError, match="gae: values is float64; the kernel takes float32"):
        check_tokens(
            "gae", torch.device("cpu"), torch.Size([2]), values=torch.zeros(2, dtype=torch.float64)
        )
    with pytest.raises(TypeError, match="response_mask is float32; the kernel takes bool"):
        check_tokens("gae", torch.device("cpu"), torch.Size([2]), response_mask=torch.zeros(2))


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature is 0"):
        logprob_entropy(HIDDEN, WEIGHT, TARGETS, 0.0)
    per_token = torch.zeros(3)
    with pytest.raises(ValueError, match="temperature is -1"):
        ppo_head(HIDDEN, WEIGHT, TARGETS, *[per_token] * 3, 1.0, 0.2, temperature=-1.0)


def test_a_normalizer_is_a_positive_number_or_a_scalar_tensor():
    per_token = [torch.zeros(3)] * 3
    with pytest.raises(ValueError, match=r"normalizer is 0\.0; it must be positive"):
        ppo_head(HIDDEN, WEIGHT, TARGETS, *per_token, 0.0, 0.2)
    with pytest.raises(
        ValueError, match=r"normalizer is int64 \(\); it must be a number or a \(\)"
    ):
        ppo_head(HIDDEN, WEIGHT, TARGETS, *per_token, torch.tensor(3), 0.2)
    number, tensor = (
        ppo_head(HIDDEN, WEIGHT, TARGETS, *per_token, n, 0.2, 0.1)[0]
        for n in (4.0, torch.tensor(4.0))
    )
    assert torch.equal(number, tensor)


def test_a_kl_coefficient_without_a_reference_is_refused():
    with pytest.raises(ValueError, match=r"kl_beta is 0\.1; it needs ref_logprobs"):
        ppo_head(HIDDEN, WEIGHT, TARGETS, *[torch.zeros(3)] * 3, 1.0, 0.2, kl_beta=0.1)


def test_a_sharded_head_is_named():
    class DTensor(torch.Tensor):
        """As torch.distributed's, by its name; the real one needs a process group."""

    sharded = torch.zeros(7, 32, dtype=torch.bfloat16).as_subclass(DTensor)
    with pytest.raises(TypeError, match=r"weight is a DTensor; call \.full_tensor\(\)"):
        check_head("ppo_head", HIDDEN, sharded, TARGETS)


def test_the_package_gives_functions():
    for name in kernels.__all__:
        assert callable(getattr(kernels, name)), name


@pytest.mark.parametrize("definition", ["reference", ""])
def test_an_ignored_target_masks_its_row(monkeypatch, definition):
    monkeypatch.setenv(dispatch.VARIABLE, definition)
    torch.manual_seed(0)
    hidden = torch.randn(2, 3, 8, dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, 8, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([[1, -100, 2], [-100, 4, 0]])
    old, advantages = torch.randn(2, 2, 3, dtype=torch.float64)
    inputs, kept = (old, advantages, advantages.abs()), targets != -100
    loss, statistics, found = kernels.ppo_head(hidden, weight, targets, *inputs, 4.0, 0.2, 0.1)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    part = (t[kept] for t in (targets, *inputs))
    alone, few, rows = kernels.ppo_head(hidden[kept], weight, *part, 4.0, 0.2, 0.1)
    assert torch.equal(loss, alone)
    assert all(torch.equal(a, b) for a, b in zip(statistics, few, strict=True))
    for ours, its in zip(gradients, torch.autograd.grad(alone, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, its)
    assert torch.equal(found.logprobs[kept], rows.logprobs)
    assert not found.entropy[~kept].any()
    logprobs, entropy = kernels.logprob_entropy(hidden, weight, targets)
    assert torch.equal(logprobs.detach(), found.logprobs)
    (by_hidden,) = torch.autograd.grad((logprobs + entropy).sum(), hidden)
    assert by_hidden[kept].any(1).all()
    assert not by_hidden[~kept].any()
