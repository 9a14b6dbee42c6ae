"""Attention over packed segments, registered with transformers as `stepcoder_packed`.

Takes the (1, heads, T, K) queries, keys and values of prompts and responses that lie end to end,
and gives the causal attention of each row (a prompt with one response) by itself. A `Packing`
says what lies where; any decoder of transformers hands it on as a keyword, unchanged. On CUDA this
is flash attention over ragged segments, elsewhere PyTorch's SDPA over padded ones.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
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
    def ragged(self) -> Ragged:
        """Every segment with its keys, end to end: what flash attention takes."""
        return Ragged.of(self)

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


@dataclass(frozen=True)
class Ragged:
    """S segments as they lie, and beside them the K keys that each may see: its row's so far.

    Segment s asks with tokens cu_queries[s] to cu_queries[s+1], all T of them in their order, and
    sees keys cu_keys[s] to cu_keys[s+1]: its prompt's tokens, if it is a response, then its own.
    Its last query sees its last key, and so on backwards (a diagonal aligned to the bottom right).
    """

    keys: Tensor  # (K,) int64, positions of the keys' tokens
    cu_queries: Tensor  # (S+1,) int32
    cu_keys: Tensor  # (S+1,) int32
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, packing: Packing) -> Ragged:
        """Lay out all segments of a packing."""
        lengths, starts, prompts = packing.lengths, packing.starts, packing.prompt_of
        segments = torch.arange(len(lengths), device=lengths.device)
        before = torch.where(prompts == segments, 0, lengths[prompts])
        seen = before + lengths
        bounds = torch.nn.functional.pad(seen.cumsum(0), (1, 0))
        owner = segments.repeat_interleave(seen)  # (K,)
        place = torch.arange(len(owner), device=owner.device) - bounds[owner]
        in_prompt = place < before[owner]
        start = torch.where(in_prompt, starts[prompts[owner]], starts[owner] - before[owner])
        return cls(
            keys=start + place,
            cu_queries=torch.cat([starts, packing.ends[-1:]]).int(),
            cu_keys=bounds.int(),
            longest_query=int(lengths.max()),
            longest_key=int(seen.max()),
        )


# Of queries (T, heads, K), keys and values (K', kv_heads, K) and their layout: (T, heads, K).
RaggedAttention = Callable[[Tensor, Tensor, Tensor, Ragged, float | None], Tensor]


@cache
def flash_attention() -> RaggedAttention:
    """Flash attention over ragged segments: flash-attn's where installed, else PyTorch's own.

    Both align the causal diagonal to the bottom right, as `Ragged` needs it: flash-attn since 2.1
    (flash_attn_varlen_func), PyTorch in torch.nn.attention.varlen, which runs the same kernel.
    """
    try:
        return _of_flash_attn(importlib.import_module("flash_attn").flash_attn_varlen_func)
    except (ImportError, AttributeError):  # not there, or built for another torch
        return _of_torch(importlib.import_module("torch.nn.attention.varlen").varlen_attn)


def _of_flash_attn(function: Callable[..., Any]) -> RaggedAttention:
    def attend(
        query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scaling: float | None
    ) -> Tensor:
        out: Tensor = function(
            query,
            key,
            value,
            cu_seqlens_q=ragged.cu_queries,
            cu_seqlens_k=ragged.cu_keys,
            max_seqlen_q=ragged.longest_query,
            max_seqlen_k=ragged.longest_key,
            softmax_scale=scaling,
            causal=True,
            deterministic=True,
        )
        return out

    return attend


def _of_torch(function: Callable[..., Any]) -> RaggedAttention:
    """PyTorch 2.11 and newer; its backward is deterministic if PyTorch is told to be."""
    grouped = "enable_gqa" in inspect.signature(function).parameters  # 2.12 and newer

    def attend(
        query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scaling: float | None
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and not grouped:
            key, value = (s.repeat_interleave(groups, dim=1) for s in (key, value))
        out: Tensor = function(
            query,
            key,
            value,
            ragged.cu_queries,
            ragged.cu_keys,
            ragged.longest_query,
            ragged.longest_key,
            scale=scaling,
            window_size=(-1, 0),  # causal
            **({"enable_gqa": True} if grouped else {}),
        )
        return out

    return attend


def takes_flash(query: Tensor) -> bool:
    """Whether flash attention runs on such queries (1, heads, T, K)."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and _has_flash(query.device)
    )


@cache
def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def ragged_attention(
    query: Tensor,  # (1, heads, T, K)
    key: Tensor,  # (1, kv_heads, T, K)
    value: Tensor,  # (1, kv_heads, T, K)
    ragged: Ragged,
    scaling: float | None,
) -> Tensor:
    """Causal attention within each row by flash attention; returns (1, T, heads, K)."""
    query_THK, key_THK, value_THK = (s[0].transpose(0, 1) for s in (query, key, value))
    keys, values = key_THK[ragged.keys], value_THK[ragged.keys]
    return flash_attention()(query_THK, keys, values, ragged, scaling)[None]


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

    Where flash attention does not run (the CPU, float32, a sliding window), segments are padded for
    this operation alone, prompts apart from responses, because a response asks with its own tokens
    only. Everything else in the model stays packed.
    """
    if sliding_window is None and not dropout and takes_flash(query):
        return ragged_attention(query, key, value, packing.ragged, scaling), None

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
