"""Chooses an operation's implementation and checks its inputs: Triton on CUDA, else PyTorch.

PyTorch runs the reference, in chunks where it is an LM head's (`chunked_head`). For debugging, the
environment variable STEPCODER_KERNELS forces `reference`, as it is defined, or `triton` for every
operation. Without CUDA, `triton` works only under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from stepcoder.kernels.language import HAS_TRITON, INTERPRETED

VARIABLE = "STEPCODER_KERNELS"

P = ParamSpec("P")
R = TypeVar("R")


def use_triton(operation: str, tensor: Tensor, dtype: torch.dtype) -> bool:
    """Return whether an operation on this tensor runs as a Triton kernel.

    On CUDA an operation that PyTorch runs for want of Triton, or because the kernel does not take
    the tensor's dtype, says so in a warning, once.

    Args:
        operation: its name, for messages.
        tensor: the operation's main input.
        dtype: what the kernel takes.

    Raises:
        ValueError: STEPCODER_KERNELS is neither `reference` nor `triton`.
        RuntimeError: it is `triton`, but Triton is not installed, or the tensor is not on CUDA and
            Triton's interpreter is off.
    """
    choice = os.environ.get(VARIABLE, "")
    if choice not in ("", "reference", "triton"):
        raise ValueError(f"{VARIABLE} is {choice!r}; it takes reference or triton")
    if choice == "reference":
        return False
    if choice == "triton":
        if not HAS_TRITON:
            raise RuntimeError(
                f"{VARIABLE}=triton, but triton is not installed: pip install triton"
            )
        if not tensor.is_cuda and not INTERPRETED:
            raise RuntimeError(
                f"{VARIABLE}=triton, but a tensor is on {tensor.device}: Triton kernels need CUDA, "
                "or TRITON_INTERPRET=1 set before the start"
            )
        return True
    if not tensor.is_cuda:
        return False
    if not HAS_TRITON:
        _warn_once(f"{operation} runs in PyTorch, slower: pip install triton for its kernel")
    elif tensor.dtype != dtype:
        _warn_once(
            f"{operation} runs in PyTorch, slower: its kernel takes {_name(dtype)}, and this is "
            f"{_name(tensor.dtype)}"
        )
    return HAS_TRITON and tensor.dtype == dtype


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def in_pytorch(definition: Callable[P, R], chunked: Callable[P, R]) -> Callable[P, R]:
    """Return what runs without Triton: in chunks, or as STEPCODER_KERNELS=reference defines it."""
    return definition if os.environ.get(VARIABLE) == "reference" else chunked


def check_tokens(
    operation: str, device: torch.device, shape: torch.Size, **tensors: Tensor
) -> None:
    """Check per-token inputs of a kernel: one device, one shape, float32 (names in _mask: bool).

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: a tensor has another shape or lies on another device.
    """
    for name, tensor in tensors.items():
        expected = torch.bool if name.endswith("_mask") else torch.float32
        _check_dtype(operation, name, tensor, expected)
        _check_place(operation, name, tensor, device, shape)


def check_head(operation: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Check the LM head's inputs: hidden (N, H), contiguous; weight (V, H); targets (N,).

    Raises:
        TypeError: hidden or weight is not bfloat16, or targets is not int64.
        ValueError: shapes or devices do not match, H is not a multiple of 16, or weight is not
            contiguous.
    """
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        # Sharded tensors have no rule for these operations, and PyTorch's own error names neither.
        if type(tensor).__name__ == "DTensor":
            raise TypeError(
                f"{operation}: {name} is a DTensor; call .full_tensor() on it, or .to_local() "
                "where each rank holds all of it"
            )
        _check_dtype(operation, name, tensor, torch.bfloat16)
    _check_dtype(operation, "targets", targets, torch.int64)
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{operation}: hidden is {_shape(hidden)} and weight {_shape(weight)}; "
            "they must be (N, H) and (V, H)"
        )
    if hidden.shape[1] % 16:
        raise ValueError(f"{operation}: H is {hidden.shape[1]}; it must be a multiple of 16")
    _check_place(operation, "targets", targets, hidden.device, hidden.shape[:1])
    _check_place(operation, "weight", weight, hidden.device, weight.shape)
    if not weight.is_contiguous():
        raise ValueError(
            f"{operation}: weight has strides {weight.stride()}; call .contiguous() on it"
        )


def check_normalizer(operation: str, normalizer: float | Tensor) -> None:
    """Check what a loss is divided by: a positive number, or a () float32 tensor, left unread.

    Raises:
        ValueError: it is a number that is not positive, or a tensor of another shape or dtype.
    """
    if isinstance(normalizer, Tensor):
        if normalizer.shape or normalizer.dtype != torch.float32:
            raise ValueError(
                f"{operation}: normalizer is {_name(normalizer.dtype)} {_shape(normalizer)}; "
                "it must be a number or a () float32 tensor"
            )
    elif not normalizer > 0:
        raise ValueError(f"{operation}: normalizer is {normalizer}; it must be positive")


def as_scalar(number: float | Tensor, device: torch.device) -> Tensor:
    """Return a () float32 tensor on a device, where a kernel reads it without a host's wait."""
    if isinstance(number, Tensor):
        return number.to(device)
    return torch.full((), number, dtype=torch.float32, device=device)


def check_alignment(**tensors: Tensor) -> None:
    """Check that tensors start where TMA (Hopper's tensor memory accelerator) can load them.

    `check_head` cannot do this: under torch.compile a tensor has no address while it is traced.

    Raises:
        ValueError: a tensor does not start at a multiple of 16 bytes.
    """
    for name, tensor in tensors.items():
        if tensor.data_ptr() % 16:
            raise ValueError(
                f"lm_head: {name} starts {tensor.storage_offset()} elements into its storage, "
                "at no multiple of 16 bytes; call .clone() on it"
            )


def _check_dtype(operation: str, name: str, tensor: Tensor, expected: torch.dtype) -> None:
    if tensor.dtype != expected:
        raise TypeError(
            f"{operation}: {name} is {_name(tensor.dtype)}; the kernel takes {_name(expected)} "
            f"({VARIABLE}=reference takes any dtype)"
        )


def _check_place(
    operation: str, name: str, tensor: Tensor, device: torch.device, shape: torch.Size
) -> None:
    if tensor.device != device:
        raise ValueError(f"{operation}: {name} is on {tensor.device}, other inputs are on {device}")
    if tensor.shape != shape:
        raise ValueError(f"{operation}: {name} is {_shape(tensor)}; it must be {tuple(shape)}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def on_its_device(launches: Callable[P, R]) -> Callable[P, R]:
    """Run a function with its first tensor's device as the current one, where Triton launches."""

    @functools.wraps(launches)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device for a in args if isinstance(a, Tensor))
        if device.type != "cuda":
            return launches(*args, **kwargs)
        with torch.cuda.device(device):
            return launches(*args, **kwargs)

    return run


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return a device's streaming multiprocessors: the number of persistent programs to launch."""
    if device.type != "cuda":
        return 4  # under the interpreter, which runs programs one after the other
    return torch.cuda.get_device_properties(device).multi_processor_count


_arrivals: dict[tuple[torch.device, int], Tensor] = {}


def arrival_counter(device: torch.device) -> Tensor:
    """Return a () int32 zero that the programs of a launch increment to find the last to finish.

    The last program sets it back to zero, which saves a launch for that. Each stream has one
    counter, since launches of one stream run one after the other. A CUDA graph gets its own, since
    it may be replayed beside other work of the stream that it was captured on.
    """
    if str(device) == "cuda":  # no index: the current one
        device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.zeros((), dtype=torch.int32, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if (device, stream) not in _arrivals:
        _arrivals[device, stream] = torch.zeros((), dtype=torch.int32, device=device)
    return _arrivals[device, stream]
