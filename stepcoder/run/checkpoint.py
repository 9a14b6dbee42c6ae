"""Atomic checkpoints: a folder that appears whole or not at all, and the one to resume from.

A checkpoint holds `state.pt` (every tensor and number of the run that a resume needs), `policy/`
(the policy, or its adapters alone, and tokenizer as transformers loads them, for everyone else) and
`critic/` (a critic without adapters: its decoder likewise, and its head, for `model.critic_path`).
Of several processes each writes its parts of the state's tensors to `parts/`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.errors import RunError, os_errors
from stepcoder.models import ranks
from stepcoder.models.lora import adapter_rank
from stepcoder.models.policy import VALUE_HEAD, AnyCritic, Critic
from stepcoder.models.sharding import gathered
from stepcoder.run.parts import checksum, save_parts, with_parts

M = TypeVar("M", bound=nn.Module)
STATE, PARTS = "state.pt", "parts"
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
    which a resume found damaged, are deleted too. All processes call it together; a sharded model
    is gathered in the first one while its folder is written.

    Raises OSError, also where the disk is full.
    """
    final, partial = folder / name, folder / f".{name}.partial"

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def write_state() -> None:
        with os_errors(), (partial / STATE).open("wb") as file:
            torch.save(state, file)

    def write_policy(whole: PreTrainedModel) -> None:
        save_model(partial / POLICY, whole, tokenizer)

    def write_critic(whole: Critic) -> None:
        save_model(partial / CRITIC, whole.backbone, tokenizer)
        with os_errors():
            save_file(whole.head.state_dict(), partial / CRITIC / VALUE_HEAD)

    try:
        ranks.from_first(begin)
        if ranks.count() > 1:
            state = save_parts(partial / PARTS, state)
        ranks.from_first(write_state)
        _of_whole(policy, write_policy)
        if isinstance(critic, Critic) and not adapter_rank(critic.backbone):
            _of_whole(critic, write_critic)
        ranks.from_first(lambda: _publish(partial, final, keep))
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _of_whole(model: M, write: Callable[[M], None]) -> None:
    """Gather a model while the first process writes it."""
    whole = gathered(model)
    ranks.from_first(lambda: write(whole))


def _publish(partial: Path, final: Path, keep: int) -> None:
    """Give a written checkpoint its name, and delete those that it makes superfluous."""
    folder = final.parent
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
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

    The first process looks which one that is, for all. `note` is called with a line where newer
    ones are damaged. Nothing is changed.

    Raises:
        RunError: there are checkpoints, and none is whole.
    """
    found = ranks.from_first(lambda: _newest_whole(folder, note))
    return load_state(found) if found else None


def _newest_whole(folder: Path, note: Callable[[str], None]) -> Path | None:
    damaged: list[str] = []
    for path in reversed(_checkpoints(folder)):
        if _is_whole(path):
            if damaged:
                note(f"{folder}: {', '.join(damaged)} damaged; going on from {path.name}")
            return path
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
            if not (checkpoint / POLICY).is_dir() or state.testzip() is not None:
                return False
        sums = _state_alone(checkpoint, mmap=True).get("parts", {})
        return all(checksum(checkpoint / PARTS / name) == crc for name, crc in sums.items())
    except Exception:  # which one depends on the byte that is wrong
        return False


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state on the CPU (tensors and plain values only: nothing is executed).

    Its parts have an index of DCP's, which is a pickle.
    """
    state = _state_alone(checkpoint, mmap=ranks.count() > 1)  # each takes its part of it
    return with_parts(checkpoint / PARTS, state) if "parts" in state else state


def _state_alone(checkpoint: Path, mmap: bool) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(
        checkpoint / STATE, map_location="cpu", weights_only=True, mmap=mmap
    )
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
