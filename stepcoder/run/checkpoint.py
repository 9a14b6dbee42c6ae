"""Atomic checkpoints: a folder that appears whole or not at all, and the one to resume from.

A checkpoint holds `state.pt` (every tensor and number of the run that a resume needs), `policy/`
(the policy, or its adapters alone, and tokenizer as transformers loads them, for everyone else) and
`critic/` (a critic without adapters: its decoder likewise, and its head, for `model.critic_path`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.errors import RunError, os_errors
from stepcoder.models.lora import adapter_rank
from stepcoder.models.policy import VALUE_HEAD, AnyCritic, Critic

STATE = "state.pt"
POLICY, CRITIC = "policy", "critic"


def save_checkpoint(
    folder: Path,
    name: str,
    state: dict[str, Any],
    policy: PreTrainedModel,
    critic: AnyCritic | None,
    tokenizer: PreTrainedTokenizerBase,
    keep: int,
) -> None:
    """Write `folder/name` atomically, then delete all but the newest `keep` checkpoints.

    Everything is written and flushed to disk under a temporary name and then renamed: a process
    killed at any moment leaves either the whole checkpoint or none. Checkpoints of later steps,
    which a resume found damaged, are deleted too. Raises OSError, also where the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / name, folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        with os_errors(), (partial / STATE).open("wb") as file:
            torch.save(state, file)
        save_model(partial / POLICY, policy, tokenizer)
        if isinstance(critic, Critic) and not adapter_rank(critic.backbone):
            save_model(partial / CRITIC, critic.backbone, tokenizer)
            with os_errors():
                save_file(critic.head.state_dict(), partial / CRITIC / VALUE_HEAD)
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():  # the same step again, after a resume from an earlier one
        shutil.rmtree(final)
    partial.rename(final)
    _flush(folder)
    found = _checkpoints(folder)
    end = found.index(final) + 1
    for old in found[: max(end - keep, 0)] + found[end:]:
        shutil.rmtree(old)


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a transformers checkpoint, or of a model with adapters those, in peft's format."""
    with os_errors():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def replace_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model as `save_model` does in place of an earlier one: never half of it is there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, None if there is none yet."""
    return next((path for path in reversed(_checkpoints(folder)) if (path / STATE).exists()), None)


def newest_state(folder: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the state of the newest whole checkpoint, None if there is none yet.

    `note` is called with a line where newer ones are damaged. Nothing is changed.

    Raises:
        RunError: there are checkpoints, and none is whole.
    """
    damaged: list[str] = []
    for path in reversed(_checkpoints(folder)):
        if _is_whole(path):
            if damaged:
                note(f"{folder}: {', '.join(damaged)} damaged; going on from {path.name}")
            return load_state(path)
        damaged.append(path.name)
    if damaged:
        raise RunError(
            f"{folder}: {', '.join(damaged)} damaged, and no other checkpoint is left; "
            "restore one, or start a new run"
        )
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Return whether everything is there and the state is as it was written, by its CRC-32 sums."""
    try:
        with ZipFile(checkpoint / STATE) as state:
            return (checkpoint / POLICY).is_dir() and state.testzip() is None
    except Exception:  # which one depends on the byte that is wrong
        return False


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state on the CPU (tensors and plain values only: nothing is executed)."""
    state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, oldest first: supervised ones before RL ones, then by step."""
    found = folder.glob("[!.]*-*")
    return sorted(found, key=lambda path: (path.name.startswith("rl-"), path.name))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
