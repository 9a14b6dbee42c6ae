"""Adds up the memory of the tensors that are alive while a block runs, on any device.

On PyTorch's meta device, where tensors have shapes and no values, that is the memory which the same
code would take with values.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations made and that are alive: `now`, `peak`."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._made: dict[int, int] = {}  # the bytes of a storage, by its address
        self._known: dict[Any, Any] = {}  # layers repeat: what an operation gives for such inputs

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and take in the storages that are not those of its inputs."""
        key = (function, _described(args), _described(tuple((kwargs or {}).items())))
        if key in self._known:
            outputs = _empty(self._known[key])
            self._take(outputs, set())
            return outputs
        inputs = {t.untyped_storage()._cdata for t in _tensors((args, *(kwargs or {}).values()))}
        outputs = function(*args, **(kwargs or {}))
        found = _tensors(outputs)
        if found and not any(t.untyped_storage()._cdata in inputs or not t.is_meta for t in found):
            self._known[key] = _described(outputs)
        self._take(outputs, inputs)
        return outputs

    def _take(self, outputs: Any, inputs: set[int]) -> None:
        for tensor in _tensors(outputs):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in inputs and key not in self._made:
                self._made[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, key)
        self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self._made.pop(key)

    @contextmanager
    def most(self) -> Iterator[Callable[[], int]]:
        """Have a block say by how much it went at most beyond what was alive at its beginning."""
        start = self.peak = self.now
        yield lambda: self.peak - start


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among an operation's inputs or outputs."""
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in _tensors(v)] if isinstance(values, list | tuple) else []


def _described(values: Any) -> Any:
    """Return inputs or outputs with shape, strides and dtype in the place of tensors, hashable."""
    if isinstance(values, Tensor):
        return values.shape, values.stride(), values.dtype, values.device
    if isinstance(values, list | tuple):
        return tuple(map(_described, values))
    return type(values), values


def _empty(described: Any) -> Any:
    """Return tensors of a description of outputs."""
    if isinstance(described[0], torch.Size):
        shape, strides, dtype, device = described
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return tuple(map(_empty, described))
