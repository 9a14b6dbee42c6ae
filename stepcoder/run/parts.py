"""The parts of a checkpoint that several processes write, each its own (PyTorch's DCP).

The state then holds, in the place of a tensor of which each process has a part, an empty one of its
shape; the parts are in files beside it, from which any number of processes read what they need.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from stepcoder.models import ranks


def save_parts(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Write this process's parts of a state's tensors; returns the state without them.

    Its new entry "parts" has the CRC-32 sums of all files by name. Raises OSError in the first
    process, and FirstFailed in the others, where any cannot write.
    """
    parts: dict[str, Tensor] = {}

    def without(key: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        parts[key] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    state = _mapped(without, state)
    try:
        save(parts, storage_writer=FileSystemWriter(folder))
    except CheckpointException as failed:  # in all processes
        if not ranks.is_first():
            raise ranks.FirstFailed from None
        errors = [error for error, _ in failed.failures.values()]
        for error in errors:
            if isinstance(error.__context__ or error, OSError):
                raise error.__context__ or error from None
        raise OSError(None, str(errors[0]).partition("\n")[0], str(folder)) from None
    mine = [*folder.glob(f"__{dist.get_rank()}_*")]
    mine += [folder / ".metadata"] * ranks.is_first()
    sums: list[dict[str, int]] = [{}] * ranks.count()
    dist.all_gather_object(sums, {path.name: checksum(path) for path in mine})
    return {**state, "parts": {name: crc for some in sums for name, crc in some.items()}}


def checksum(path: Path) -> int:
    """Return the CRC-32 sum of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def with_parts(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state whose tensors are whole, or with several processes read what each needs.

    Each of those tensors is empty, and its `read_into` fills a part (`models.sharding.part_of`).
    """
    reader = FileSystemReader(folder)
    metadata = reader.read_metadata()
    reader.read_metadata = lambda *_, **__: metadata  # type: ignore[method-assign]

    def read(key: str, target: Tensor) -> Tensor:
        with warnings.catch_warnings(action="ignore"):  # that the processes do not read together
            load({key: target}, storage_reader=reader, no_dist=True)
        return target

    def filled(key: str, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if ranks.count() == 1:
            return read(key, torch.empty(tensor.shape, dtype=tensor.dtype))
        vars(tensor)["read_into"] = partial(read, key)
        return tensor

    return _mapped(filled, state)  # type: ignore[no-any-return]


def _mapped(function: Callable[[str, Tensor], Tensor], value: Any, key: str = "") -> Any:
    """Return nested values with each tensor replaced by a function of its place and itself."""
    if isinstance(value, Tensor):
        return function(key, value)
    if isinstance(value, dict):
        return {name: _mapped(function, v, f"{key}/{name}") for name, v in value.items()}
    if isinstance(value, list):
        return [_mapped(function, v, f"{key}/{place}") for place, v in enumerate(value)]
    return value
