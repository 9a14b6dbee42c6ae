"""Imports Triton for the kernel files, or defines placeholders where Triton is not installed.

A machine without a GPU need not have Triton: the kernel files import the placeholders, and their
public functions run `reference`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    HAS_TRITON = True
    triton: Any
    tl: Any
    TensorDescriptor: Any
    constexpr = Any
    Pointer = Any  # a tensor argument of a kernel
    Descriptor = Any  # a TMA descriptor argument of a kernel
    Scalar = Any  # a number argument of a kernel
    Block = Any  # a value inside a kernel

    def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Return what compiles a function as a Triton kernel."""
else:
    try:
        import triton
        import triton.language as tl
        from triton import jit
        from triton.language import constexpr
        from triton.tools.tensor_descriptor import TensorDescriptor

        HAS_TRITON = True
        # Triton evaluates the annotations of a kernel and accepts only its own types there.
        Pointer = Descriptor = Scalar = Block = tl.tensor
    except ImportError:
        HAS_TRITON = False
        triton = tl = TensorDescriptor = None
        constexpr = Pointer = Descriptor = Scalar = Block = None

        def jit(**_: Any) -> Callable[[Callable[..., Any]], Any]:
            """Return what changes nothing: without Triton nothing calls the function."""
            return lambda function: function


# Whether Triton's interpreter runs the kernels on the CPU, with numpy. It silently does bfloat16
# arithmetic on the bit patterns, so kernels that are INTERPRETED convert bfloat16 to float32 right
# after each load.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
