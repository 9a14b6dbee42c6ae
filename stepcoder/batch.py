"""Rollouts as one packed batch of tokens, and minibatches of it.

A batch is a set of 1-D tensors over T tokens with `cu_seqlens` marking its B rows; nothing is ever
padded. Two masks are kept apart: `response_mask` says which tokens are transitions (chosen by the
policy), `executed_mask` which of those the policy loss trains (FGO).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B packed rows of T tokens. Fields after `task_rewards` are filled in by score and advantages.

    Values of a token sit at its own position; outside `response_mask` they are zero.
    """

    tokens: Tensor  # (T,) int64
    cu_seqlens: Tensor  # (B+1,) int32
    response_mask: Tensor  # (T,) bool
    executed_mask: Tensor  # (T,) bool, a subset of response_mask
    engine_logprobs: Tensor  # (T,) float32, as the sampler reported them
    task_rewards: Tensor  # (B,) float32
    old_logprobs: Tensor | None = None  # (T,) float32, of the policy before the update
    ref_logprobs: Tensor | None = None  # (T,) float32, of the frozen reference
    entropy: Tensor | None = None  # (T,) float32, of the policy before the update
    values: Tensor | None = None  # (T,) float32, of the critic before the update
    advantages: Tensor | None = None  # (T,) float32
    returns: Tensor | None = None  # (T,) float32
    importance: Tensor | None = None  # (T,) float32, truncated engine-mismatch weight

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each row, (B,) int32."""
        return self.cu_seqlens.diff()

    @cached_property
    def position_ids(self) -> Tensor:
        """Positions (T,) that restart at every row, int64."""
        starts = self.cu_seqlens[:-1].repeat_interleave(self.lengths)
        return torch.arange(len(self.tokens), device=self.tokens.device) - starts

    @cached_property
    def response_positions(self) -> Tensor:
        """Positions of the response tokens, (N,) int64."""
        return self.response_mask.nonzero().squeeze(-1)

    @cached_property
    def executed_positions(self) -> Tensor:
        """Positions of the tokens that the policy loss trains, (M,) int64."""
        return self.executed_mask.nonzero().squeeze(-1)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.cu_seqlens) - 1

    def spread(self, values: Tensor) -> Tensor:
        """Place (N,) values of the response tokens at their positions: (T,), zero elsewhere."""
        spread = torch.zeros(len(self.tokens), dtype=values.dtype, device=values.device)
        spread[self.response_positions] = values
        return spread

    def token_index(self, chosen: Sequence[int]) -> Tensor:
        """Positions of all tokens of some rows, row after row, int64."""
        bounds = self.cu_seqlens.tolist()
        index = torch.cat([torch.arange(bounds[row], bounds[row + 1]) for row in chosen])
        return index.to(self.tokens.device)

    def rows(self, chosen: Sequence[int]) -> Batch:
        """Return the batch of some rows, in the order given."""
        index = self.token_index(chosen)
        row_index = torch.as_tensor(chosen, device=self.tokens.device)
        picked: dict[str, Any] = {
            field.name: value[row_index if field.name == "task_rewards" else index]
            for field in fields(self)
            if field.name != "cu_seqlens" and (value := getattr(self, field.name)) is not None
        }
        return Batch(cu_seqlens=cumulative(self.lengths[row_index]), **picked)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        moved: dict[str, Tensor | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in moved.items() if v is not None})


def cumulative(lengths: Tensor) -> Tensor:
    """Turn row lengths (B,) into cu_seqlens (B+1,) int32."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


@dataclass(frozen=True)
class Row:
    """One rollout as token ids: what `pack` puts end to end."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    logprobs: Sequence[float]  # of the response tokens, as the engine reported them
    executed: Sequence[bool]  # of the response tokens
    reward: float


def pack(rows: Sequence[Row]) -> Batch:
    """Put rollouts end to end.

    Raises:
        ValueError: a row without prompt or response tokens (no state precedes its first action).
    """
    for row in rows:
        if not row.prompt_ids or not row.response_ids:
            raise ValueError("a rollout needs at least one prompt token and one response token")
    lengths = torch.tensor([len(r.prompt_ids) + len(r.response_ids) for r in rows])

    def per_token(prompt_value: float, part: str, dtype: torch.dtype) -> Tensor:
        return torch.cat(
            [
                torch.tensor([prompt_value] * len(r.prompt_ids) + list(getattr(r, part)))
                for r in rows
            ]
        ).to(dtype)

    return Batch(
        tokens=torch.cat([torch.tensor([*r.prompt_ids, *r.response_ids]) for r in rows]),
        cu_seqlens=cumulative(lengths),
        response_mask=torch.cat(
            [
                torch.arange(len(r.prompt_ids) + len(r.response_ids)) >= len(r.prompt_ids)
                for r in rows
            ]
        ),
        executed_mask=per_token(0, "executed", torch.bool),
        engine_logprobs=per_token(0.0, "logprobs", torch.float32),
        task_rewards=torch.tensor([r.reward for r in rows], dtype=torch.float32),
    )


def microbatches(batch: Batch, tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Split a batch into pieces of at most `tokens` padded tokens, rows of like length together.

    Yields (row numbers in `batch`, piece); a row longer than `tokens` comes alone. "Padded" because
    attention pads rows to the longest of the piece: sorting by length keeps that waste small.
    """
    lengths = batch.lengths.tolist()
    chosen: list[int] = []
    for row in sorted(range(len(batch)), key=lambda r: (-lengths[r], r)):
        longest = lengths[chosen[0]] if chosen else lengths[row]
        if chosen and longest * (len(chosen) + 1) > tokens:
            yield chosen, batch.rows(chosen)
            chosen = []
        chosen.append(row)
    if chosen:
        yield chosen, batch.rows(chosen)


def minibatches(batch: Batch, count: int, generator: torch.Generator) -> Iterator[Batch]:
    """Split a batch into `count` random minibatches of whole rows (fewer if rows are fewer)."""
    order = torch.randperm(len(batch), generator=generator)
    for chosen in order.tensor_split(min(count, len(batch))):
        yield batch.rows(chosen.tolist())


def with_token_fields(batch: Batch, **per_response: Tensor) -> Batch:
    """Return the batch with (N,) values of the response tokens spread to (T,) fields."""
    return replace(batch, **{name: batch.spread(value) for name, value in per_response.items()})
