"""Stands for ctypes where libraries are loaded: its names without memory or functions behind them.

Some libraries import ctypes for a name that they hardly use. The module itself would hand programs
raw memory and every system call's wrapper.
"""

from __future__ import annotations

from typing import Any


class Nothing:
    """Stands for every type and function, and for what they return."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Take what the real one takes."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Nothing,), {})


def sizeof(_type: Any) -> int:
    """Return the size of a long, which sympy asks for."""
    return 8


def CFUNCTYPE(*_types: Any) -> type:
    """Return a type, whose base scipy takes."""
    return type("CFunctionType", (Nothing,), {})
