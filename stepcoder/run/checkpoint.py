"""Atomic checkpoints: a folder that appears whole or not at all, and the newest one to resume from.

A checkpoint holds `state.pt` (every tensor and number of the run that a resume needs) and `policy/`
(the policy, or its adapters alone, and tokenizer as transformers loads them, for everyone else).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

STATE = "state.pt"
POLICY = "policy"


def save_checkpoint(
    folder: Path,
    name: str,
    state: dict[str, Any],
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    keep: int,
) -> None:
    """Write `folder/name` atomically, then delete all but the newest `keep` checkpoints.

    Everything is written and flushed to disk under a temporary name and then renamed: a process
    killed at any moment leaves either the whole checkpoint or none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / name, folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    torch.save(state, partial / STATE)
    save_model(partial / POLICY, policy, tokenizer)
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    if final.exists():  # the same step again, after a resume from an earlier one
        shutil.rmtree(final)
    partial.rename(final)
    _flush(folder)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a transformers checkpoint, or of a model with adapters those, in peft's format."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, None if there is none yet."""
    return next(reversed(_checkpoints(folder)), None)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state on the CPU (tensors and plain values only: nothing is executed)."""
    state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first: supervised ones before RL ones, then by step."""
    found = [path for path in folder.glob("[!.]*-*") if (path / STATE).exists()]
    return sorted(found, key=lambda path: (path.name.startswith("rl-"), path.name))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
