"""Truncated importance weights of tokens: min(pi_old / pi_engine, cap), and 1 outside the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from stepcoder.kernels.dispatch import check_tokens, on_its_device, use_triton
from stepcoder.kernels.language import Pointer, Scalar, constexpr, jit, tl

BLOCK = 1024


def reference(
    old_logprobs: Tensor, engine_logprobs: Tensor, response_mask: Tensor, cap: float
) -> Tensor:
    """Return the weights (T,): the definition, in plain PyTorch."""
    mismatch = torch.where(response_mask, old_logprobs - engine_logprobs, 0.0)
    return mismatch.exp().clamp(max=cap)


@jit()
def importance_kernel(
    old: Pointer,  # (T,) float32
    engine: Pointer,  # (T,) float32
    mask: Pointer,  # (T,) bool
    weights: Pointer,  # (T,) float32, written
    cap: Scalar,
    tokens: Scalar,
    BLOCK: constexpr,
) -> None:
    """Each program takes one block of tokens."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < tokens
    mismatch = tl.load(old + place, mask=inside) - tl.load(engine + place, mask=inside)
    trained = tl.load(mask + place, mask=inside, other=0) != 0
    ratio = tl.exp(tl.where(trained, mismatch, 0.0))
    tl.store(weights + place, tl.minimum(ratio, cap), mask=inside)


def importance(
    old_logprobs: Tensor, engine_logprobs: Tensor, response_mask: Tensor, cap: float
) -> Tensor:
    """Return the weights (T,) float32 of (T,) float32 log-probabilities and a (T,) bool mask.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: a tensor has another shape or lies on another device.
    """
    if not use_triton("importance_weights", old_logprobs, torch.float32):
        return reference(old_logprobs, engine_logprobs, response_mask, cap)
    tensors = {"old_logprobs": old_logprobs, "engine_logprobs": engine_logprobs}
    check_tokens(
        "importance",
        old_logprobs.device,
        old_logprobs.shape,
        **tensors,
        response_mask=response_mask,
    )
    return _launch(old_logprobs, engine_logprobs, response_mask, cap)


@torch.library.custom_op("stepcoder::importance", mutates_args=())
@on_its_device
def _launch(old: Tensor, engine: Tensor, mask: Tensor, cap: float) -> Tensor:
    weights = torch.empty_like(old)
    if tokens := len(old):
        grid = (-(-tokens // BLOCK),)
        importance_kernel[grid](old, engine, mask, weights, cap, tokens, BLOCK=BLOCK)
    return weights


@_launch.register_fake
def _(old: Tensor, *_: object) -> Tensor:
    return torch.empty_like(old)
