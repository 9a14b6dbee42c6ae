"""Attention over packed segments, registered with transformers as `stepcoder_packed`.

Takes the (1, heads, T, K) queries, keys and values of prompts and responses that lie end to end,
and gives the causal attention of each row (a prompt with one response) by itself. A `Packing`
says what lies where; any decoder of transformers hands it on as a keyword, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

PACKED = "stepcoder_packed"


@dataclass(frozen=True)
class Packing:
    """B rows in S segments of T tokens: a prompt is followed by the responses that share it."""

    starts: Tensor  # (S,) int64, first position of each segment
    ends: Tensor  # (S,) int64, position after its last
    prompt_of: Tensor  # (S,) int64, the prompt of each segment; a prompt's is itself
    responses: Tensor  # (B,) int64, each row's response segment

    @classmethod
    def of(cls, cu_seqlens: Tensor, is_response: Tensor) -> Packing:
        """Read `cu_seqlens` (S+1,) and `is_response` (S,); the first segment is a prompt."""
        bounds = cu_seqlens.long()
        segments = torch.arange(len(is_response), device=bounds.device)
        last_prompt = torch.where(is_response, 0, segments).cummax(0).values
        return cls(bounds[:-1], bounds[1:], last_prompt, segments[is_response])

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each segment, (S,) int64."""
        return self.ends - self.starts

    @cached_property
    def prompts(self) -> Tensor:
        """Each row's prompt segment, (B,) int64."""
        return self.prompt_of[self.responses]

    @cached_property
    def position_ids(self) -> Tensor:
        """Place (T,) of every token in its row, int64."""
        first = torch.zeros_like(self.lengths)  # the place of each segment's first token
        first[self.responses] = self.lengths[self.prompts]
        places = torch.arange(int(self.ends[-1]), device=first.device)
        return places + (first - self.starts).repeat_interleave(self.lengths)

    @cached_property
    def padded_prompts(self) -> Padded:
        """Every prompt once, attending to itself."""
        return Padded.of(self, self.prompts.unique_consecutive())

    @cached_property
    def padded_responses(self) -> Padded:
        """Every response, attending to its prompt and itself."""
        return Padded.of(self, self.responses)

    @cached_property
    def unpadded(self) -> Tensor:
        """Place of each token in the two padded forms, flattened end to end, (T,) int64."""
        place = torch.zeros_like(self.position_ids)
        parts = (self.padded_prompts, self.padded_responses)
        real = torch.cat([part.real.flatten() for part in parts]).nonzero().squeeze(-1)
        place[torch.cat([part.queries.flatten() for part in parts])[real]] = real
        return place


@dataclass(frozen=True)
class Padded:
    """N segments padded on the right, with the keys that each may see."""

    queries: Tensor  # (N, Q) int64, positions of a segment's own tokens; padding repeats the last
    keys: Tensor  # (N, L) int64, positions of its row's tokens up to its own last one
    distance: Tensor  # (N, 1, Q, L) int64, places from a key to a query; negative: not visible
    real: Tensor  # (N, Q) bool, False at padding

    @cached_property
    def causal(self) -> Tensor:
        """Which keys each query sees, (N, 1, Q, L) bool: the same in every layer."""
        return self.distance >= 0

    @classmethod
    def of(cls, packing: Packing, segments: Tensor) -> Padded:
        """Pad `segments` (N,): all prompts or all responses."""
        lengths, prompts = packing.lengths, packing.prompt_of[segments]
        before = torch.where(prompts == segments, 0, lengths[prompts])[:, None]  # (N, 1)
        own = lengths[segments, None]
        query_places = torch.arange(int(own.max()), device=own.device)
        key_places = torch.arange(int((before + own).max()), device=own.device)
        start, last = packing.starts[segments, None], packing.ends[segments, None] - 1
        in_prompt = packing.starts[prompts, None] + key_places
        in_segment = (start + key_places - before).minimum(last)
        return cls(
            queries=(start + query_places).minimum(last),
            keys=torch.where(key_places < before, in_prompt, in_segment),
            distance=((before + query_places)[..., None] - key_places)[:, None],
            real=query_places < own,
        )


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001 (transformers' signature)
    query: Tensor,  # (1, heads, T, K)
    key: Tensor,  # (1, kv_heads, T, K)
    value: Tensor,  # (1, kv_heads, T, K)
    attention_mask: Tensor | None,  # noqa: ARG001 (rows come by their packing)
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row; returns (1, T, heads, K).

    Segments are padded for this operation alone, prompts apart from responses, because a response
    asks with its own tokens only. Everything else in the model stays packed.
    """

    def attend(part: Padded) -> Tensor:
        query_NHQK = query[0][:, part.queries].transpose(0, 1)
        key_NHLK, value_NHLK = (s[0][:, part.keys].transpose(0, 1) for s in (key, value))
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key_NHLK = key_NHLK.repeat_interleave(groups, dim=1)
            value_NHLK = value_NHLK.repeat_interleave(groups, dim=1)
        visible = part.causal
        if sliding_window is not None:
            visible = visible & (part.distance < sliding_window)
        out_NHQK = torch.nn.functional.scaled_dot_product_attention(
            query_NHQK, key_NHLK, value_NHLK, attn_mask=visible, dropout_p=dropout, scale=scaling
        )
        return out_NHQK.transpose(1, 2).flatten(0, 1)  # (N * Q, H, K)

    parts = (packing.padded_prompts, packing.padded_responses)
    return torch.cat([attend(part) for part in parts])[packing.unpadded][None], None


AttentionInterface.register(PACKED, packed_attention)
