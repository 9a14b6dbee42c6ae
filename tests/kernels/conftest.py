"""Fixtures of the kernels' tests: the device, a record of our operators, guarded buffers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MARGIN = 256  # elements on either side: keeps the 16-byte alignment that TMA needs


@pytest.fixture(scope="session")
def device() -> torch.device:
    """CUDA, or the CPU under Triton's interpreter."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    return torch.device("cuda")


class Operators(TorchDispatchMode):
    """A context that records the names of our operators that run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function.namespace == "stepcoder":
            self.names.append(function._schema.name.removeprefix("stepcoder::"))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def operators() -> Operators:
    """Return a context that records the names of our operators."""
    return Operators()


# Signaling NaNs: the interpreter warns of arithmetic with one, even where its result is unused.
SIGNALING = {
    torch.float32: (torch.int32, 0x7FA00000),
    torch.bfloat16: (torch.int16, 0x7FA0),
    torch.float64: (torch.int64, 0x7FF4 << 48),
}


def poison(dtype: torch.dtype) -> float | int | bool:
    """Return the value that surrounds a buffer: a kernel that reads it gives a wrong result."""
    if dtype.is_floating_point:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def poisoned(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (size,) elements of poison, signaling ones where the dtype has them."""
    if dtype in SIGNALING:
        bits, value = SIGNALING[dtype]
        return torch.full((size,), value, dtype=bits, device=device).view(dtype)
    return torch.full((size,), poison(dtype), dtype=dtype, device=device)


def fenced(like: Tensor) -> Tensor:
    """Return a contiguous copy of a tensor with poison before and after it in memory."""
    buffer = poisoned(like.numel() + 2 * MARGIN, like.dtype, like.device)
    inside = buffer[MARGIN : MARGIN + like.numel()].view(like.shape)
    inside.copy_(like.detach())
    return inside.requires_grad_(like.requires_grad)


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give `fenced`; fence every buffer that the tested code allocates, and check them at the end.

    New buffers are filled with poison, so that an element that no kernel writes is noticed.
    """
    buffers: list[tuple[Tensor, int]] = []
    new_empty_itself = torch.Tensor.new_empty

    def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size = int(torch.Size(shape).numel())
        buffer = poisoned(size + 2 * MARGIN, dtype, device)
        buffers.append((buffer, size))
        return buffer[MARGIN : MARGIN + size].view(shape)

    def new_empty(
        tensor: Tensor, *size: int, dtype: torch.dtype | None = None, **others: torch.device
    ) -> Tensor:
        if others:  # Triton's interpreter, not the code under test
            return new_empty_itself(tensor, *size, dtype=dtype, **others)
        shape = size[0] if size and not isinstance(size[0], int) else size
        return allocate(shape, dtype or tensor.dtype, tensor.device)

    def empty(
        *size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Tensor:
        shape = size[0] if size and not isinstance(size[0], int) else size
        return allocate(shape, dtype, device or torch.device("cpu"))

    def empty_like(tensor: Tensor) -> Tensor:
        return allocate(tuple(tensor.shape), tensor.dtype, tensor.device)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch, "empty_like", empty_like)
        patch.setattr(torch.Tensor, "new_empty", new_empty)
        yield fenced
    assert buffers
    for buffer, size in buffers:
        margins = torch.cat([buffer[:MARGIN], buffer[MARGIN + size :]])
        if buffer.is_floating_point():
            assert margins.isnan().all(), "a kernel wrote outside its buffer"
        else:
            assert (margins == poison(buffer.dtype)).all(), "a kernel wrote outside its buffer"
