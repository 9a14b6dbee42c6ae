"""Multiplies gradients that a forward pass computed by the factor that the backward pass brings.

The factor is 1 where `loss.backward()` is called on the loss itself. The kernel checks this on the
device, so the host need not wait for the value, and then neither reads nor writes the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepcoder.kernels.dispatch import multiprocessors, on_its_device
from stepcoder.kernels.language import INTERPRETED, Pointer, Scalar, constexpr, jit, tl

BLOCK = 4096


@jit()
def scale_in_place(
    gradient: Pointer,
    first_factor: Pointer,  # () float32, of the elements before `split`
    second_factor: Pointer,  # () float32, of the others
    split: Scalar,
    elements: Scalar,
    BLOCK: constexpr,
    UPCAST: constexpr,
) -> None:
    """Scale the flattened gradient; each of the persistent programs takes every n-th block."""
    first = tl.load(first_factor)
    second = tl.load(second_factor)
    if (first == 1.0) & (second == 1.0):
        return
    start = tl.program_id(0).to(tl.int64) * BLOCK
    for block in range(start, elements, tl.num_programs(0) * BLOCK):
        where = block + tl.arange(0, BLOCK)
        value = tl.load(gradient + where, mask=where < elements)
        if UPCAST:
            value = value.to(tl.float32)
        scaled = value.to(tl.float32) * tl.where(where < split, first, second)
        tl.store(gradient + where, scaled.to(gradient.dtype.element_ty), mask=where < elements)


@torch.library.custom_op("stepcoder::scale_", mutates_args=("gradient",))
@on_its_device
def scale_(gradient: Tensor, first_factor: Tensor, second_factor: Tensor, split: int) -> None:
    """Multiply a gradient in place, by one factor before `split` and by another from there on.

    Args:
        gradient: of any shape, contiguous; bfloat16 or float32.
        first_factor: () float32.
        second_factor: () float32.
        split: index into the flattened gradient.
    """
    elements = gradient.numel()
    if elements:
        programs = min(-(-elements // BLOCK), 8 * multiprocessors(gradient.device))
        scale_in_place[(programs,)](
            gradient,
            first_factor,
            second_factor,
            split,
            elements,
            BLOCK=BLOCK,
            UPCAST=INTERPRETED,
            num_warps=8,
        )


@scale_.register_fake
def _(gradient: Tensor, first_factor: Tensor, second_factor: Tensor, split: int) -> None:
    del gradient, first_factor, second_factor, split
