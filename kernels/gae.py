"""Generalised advantage estimation over packed rows."""

from stepcoder.kernels.reference import gae

__all__ = ["gae"]
