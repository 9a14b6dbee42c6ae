"""Triton's names for the kernel files, and what stands in for them where Triton is not installed.

A machine without a GPU need not have Triton: the kernel files import all the same and their public
functions run the references. Nothing here is usable then but the names themselves.
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

    def jit(function: Callable[..., Any]) -> Any:
        """Make a Triton kernel of a function."""
else:
    try:
        import triton
        import triton.language as tl
        from triton import jit
        from triton.language import constexpr
        from triton.tools.tensor_descriptor import TensorDescriptor

        HAS_TRITON = True
        # Triton looks annotations up, and takes no name there that is not its own.
        Pointer = Descriptor = Scalar = Block = tl.tensor
    except ImportError:
        HAS_TRITON = False
        triton = tl = TensorDescriptor = None
        constexpr = Pointer = Descriptor = Scalar = Block = None

        def jit(function: Callable[..., Any]) -> Callable[..., Any]:
            """Leave the function alone: it is never called without Triton."""
            return function


# Triton's interpreter runs kernels on the CPU, in numpy. It does bfloat16 arithmetic on the bit
# patterns, without a word; INTERPRETED kernels turn bfloat16 into float32 right after each load.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
