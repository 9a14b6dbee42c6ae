"""Attention over packed rows, registered with transformers as `stepcoder_packed`.

Prompts and responses lie end to end in one sequence of T tokens, and a row is a prompt with one of
its responses. From (1, heads, T, K) queries, keys and values (K: the width of a head) this computes
causal attention within each row. A `Packing` holds the bounds of the segments; the decoders of
transformers pass it on to the attention as a keyword argument. On CUDA this is flash attention over
ragged segments, elsewhere PyTorch's scaled dot-product attention (SDPA) over padded ones.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "stepcoder_packed"
CACHED = "stepcoder_cached"

T = TypeVar("T")


def moved(thing: Any, device: torch.device) -> Any:
    """Copy a tensor, or a dataclass of tensors, to a device; nobody waits for CUDA.

    The copy of what can be `planned` has what it was copied from as its `host`.
    """
    if isinstance(thing, Tensor):
        cuda = device.type == "cuda"
        return (thing.pin_memory() if cuda else thing).to(device, non_blocking=cuda)
    if not is_dataclass(thing):
        return thing
    names = (field.name for field in fields(thing) if field.name != "host")
    copies = {name: moved(getattr(thing, name), device) for name in names}
    if hasattr(thing, "host"):
        copies["host"] = thing.host or thing
    return replace(thing, **copies)  # type: ignore[type-var]


def planned(compute: Callable[[Any], T]) -> cached_property[T]:
    """Make a cached property that is computed on the CPU, and copied to its object's device.

    Where the object is on a GPU its `host` is the same on the CPU. Sizes that depend on values are
    known there; the GPU would have to finish all that it was given before it could tell them.
    """

    @wraps(compute)
    def of(thing: Any) -> Any:
        host = thing.host
        return compute(thing) if host is None else moved(getattr(host, name), thing.device)

    name = compute.__name__
    return cached_property(of)


@dataclass(frozen=True)
class Packing:
    """The segments of B rows in T packed tokens: each prompt, followed by its responses."""

    starts: Tensor  # (S,) int64, first position of each segment
    ends: Tensor  # (S,) int64, position after each segment's last
    prompt_of: Tensor  # (S,) int64, the prompt segment of each segment; a prompt's is itself
    responses: Tensor  # (B,) int64, the response segment of each row
    host: Packing | None = None  # the same on the CPU; None: this is there itself

    @classmethod
    def of(cls, cu_seqlens: Tensor, is_response: Tensor) -> Packing:
        """Build from bounds (S+1,) int32 and `is_response` (S,) bool; the first is a prompt."""
        bounds = cu_seqlens.long()
        segments = torch.arange(len(is_response), device=bounds.device)
        last_prompt = torch.where(is_response, 0, segments).cummax(0).values
        return cls(bounds[:-1], bounds[1:], last_prompt, segments[is_response])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.starts.device

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each segment, (S,) int64."""
        return self.ends - self.starts

    @cached_property
    def prompts(self) -> Tensor:
        """Each row's prompt segment, (B,) int64."""
        return self.prompt_of[self.responses]

    @cached_property
    def prefix(self) -> Tensor:
        """Tokens of its row before each segment, (S,) int64: a response's prompt."""
        segments = torch.arange(len(self.starts), device=self.starts.device)
        return torch.where(self.prompt_of == segments, 0, self.lengths[self.prompt_of])

    @planned
    def position_ids(self) -> Tensor:
        """Position of every token within its row, (T,) int64."""
        positions = torch.arange(int(self.ends[-1]), device=self.ends.device)
        return positions + (self.prefix - self.starts).repeat_interleave(self.lengths)

    @planned
    def ragged(self) -> Ragged:
        """Every segment with its keys, for flash attention."""
        return Ragged.of(self)

    @planned
    def padded_prompts(self) -> Padded:
        """Every prompt once; its keys are its own tokens."""
        return Padded.of(self, self.prompts.unique_consecutive())

    @planned
    def padded_responses(self) -> Padded:
        """Every response; its keys are its prompt's tokens and its own."""
        return Padded.of(self, self.responses)

    @planned
    def unpad_index(self) -> Tensor:
        """Index of each token in padded prompts and responses, both flattened, (T,) int64."""
        index = torch.zeros_like(self.position_ids)
        parts = (self.padded_prompts, self.padded_responses)
        tokens = torch.cat([part.is_token.flatten() for part in parts]).nonzero().squeeze(-1)
        index[torch.cat([part.queries.flatten() for part in parts])[tokens]] = tokens
        return index


@dataclass(frozen=True)
class Padded:
    """N segments padded on the right to Q queries and L keys, for SDPA."""

    queries: Tensor  # (N, Q) int64, positions of a segment's tokens; padding repeats the last
    keys: Tensor  # (N, L) int64, positions of its row's tokens up to the segment's last
    prefix: Tensor  # (N, 1) int64, tokens of a row before its segment
    is_token: Tensor  # (N, Q) bool, False at padding

    def visible(self, window: int | None) -> Tensor:
        """Which keys each query sees, (N, 1, Q, L) bool."""
        query, key = (torch.arange(s.shape[1], device=s.device) for s in (self.queries, self.keys))
        distance = ((self.prefix + query)[..., None] - key)[:, None]  # below 0: the key is later
        causal = distance >= 0
        return causal if window is None else causal & (distance < window)

    @cached_property
    def _biases(self) -> dict[tuple[int | None, torch.dtype], Tensor]:
        return {}

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 for visible keys, else -inf, (N, 1, Q, L); kept, as all layers need it."""
        if (window, dtype) not in self._biases:
            visible = self.visible(window)
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            self._biases[window, dtype] = bias.masked_fill_(~visible, -torch.inf)
        return self._biases[window, dtype]

    @classmethod
    def of(cls, packing: Packing, segments: Tensor) -> Padded:
        """Pad `segments` (N,) int64: all prompts or all responses."""
        prefix, own = packing.prefix[segments, None], packing.lengths[segments, None]  # (N, 1)
        query_index = torch.arange(int(own.max()), device=own.device)
        key_index = torch.arange(int((prefix + own).max()), device=own.device)
        start, last = packing.starts[segments, None], packing.ends[segments, None] - 1
        in_prompt = packing.starts[packing.prompt_of[segments], None] + key_index
        in_segment = (start + key_index - prefix).minimum(last)
        return cls(
            queries=(start + query_index).minimum(last),
            keys=torch.where(key_index < prefix, in_prompt, in_segment),
            prefix=prefix,
            is_token=query_index < own,
        )


@dataclass(frozen=True)
class Ragged:
    """S segments with their keys, without padding, for flash attention.

    The queries are the T tokens in their order: those of segment s are cu_queries[s] to
    cu_queries[s+1]. Its keys are cu_keys[s] to cu_keys[s+1]: a response's prompt, then the segment
    itself. The causal diagonal is aligned to the bottom right: a segment's last query sees its last
    key.
    """

    keys: Tensor  # (total keys,) int64, their positions in the packed tokens
    cu_queries: Tensor  # (S+1,) int32
    cu_keys: Tensor  # (S+1,) int32
    longest_query: int
    longest_key: int

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """What the kernels take after queries, keys and values."""
        return self.cu_queries, self.cu_keys, self.longest_query, self.longest_key

    @classmethod
    def of(cls, packing: Packing) -> Ragged:
        """Lay out all segments of a packing."""
        starts, prefix, prompts = packing.starts, packing.prefix, packing.prompt_of
        key_lengths = prefix + packing.lengths
        bounds = torch.nn.functional.pad(key_lengths.cumsum(0), (1, 0))
        # The segment of each key:
        segment = torch.arange(len(starts), device=starts.device).repeat_interleave(key_lengths)
        index = torch.arange(len(segment), device=segment.device) - bounds[segment]
        in_prompt = index < prefix[segment]
        start = torch.where(in_prompt, starts[prompts[segment]], starts[segment] - prefix[segment])
        return cls(
            keys=start + index,
            cu_queries=torch.cat([starts, packing.ends[-1:]]).int(),
            cu_keys=bounds.int(),
            longest_query=int(packing.lengths.max()),
            longest_key=int(key_lengths.max()),
        )


# From queries (T, heads, K), keys and values (total keys, kv_heads, K), their layout and the factor
# of the scores (None: 1/sqrt(K)) to the output (T, heads, K).
RaggedAttention = Callable[[Tensor, Tensor, Tensor, Ragged, float | None], Tensor]


@cache
def flash_attention() -> RaggedAttention:
    """Return flash attention over ragged segments: flash-attn's if installed, else PyTorch's.

    Both align the causal diagonal to the bottom right, as `Ragged` needs it: flash-attn since 2.1
    (flash_attn_varlen_func) and torch.nn.attention.varlen, which runs the same kernel.
    """
    try:
        return _of_flash_attn(importlib.import_module("flash_attn").flash_attn_varlen_func)
    except (ImportError, AttributeError):  # not installed, or built for another version of PyTorch
        return _of_torch(importlib.import_module("torch.nn.attention.varlen").varlen_attn)


def _of_flash_attn(function: Callable[..., Tensor]) -> RaggedAttention:
    def attend(
        query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scaling: float | None
    ) -> Tensor:
        return function(
            *(query, key, value, *ragged.bounds),
            softmax_scale=scaling,
            causal=True,
            deterministic=True,
        )

    return attend


def _of_torch(function: Callable[..., Tensor]) -> RaggedAttention:
    """Adapt varlen_attn of PyTorch 2.11 and newer.

    Its backward is deterministic under torch.use_deterministic_algorithms.
    """
    grouped = "enable_gqa" in inspect.signature(function).parameters  # 2.12 and newer

    def attend(
        query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, scaling: float | None
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and not grouped:
            key, value = (s.repeat_interleave(groups, dim=1) for s in (key, value))
        return function(
            *(query, key, value, *ragged.bounds),
            scale=scaling,
            window_size=(-1, 0),  # causal
            **({"enable_gqa": True} if grouped else {}),
        )

    return attend


def takes_flash(query: Tensor) -> bool:
    """Return whether flash attention supports these queries (1, heads, T, K)."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def ragged_attention(
    query: Tensor,  # (1, heads, T, K)
    key: Tensor,  # (1, kv_heads, T, K)
    value: Tensor,  # (1, kv_heads, T, K)
    ragged: Ragged,
    scaling: float | None,
) -> Tensor:
    """Causal attention within each row by flash attention; returns (1, T, heads, K)."""
    query_THK, key_THK, value_THK = (s[0].transpose(0, 1) for s in (query, key, value))
    # The gradient of index_select adds up; that of [keys] sorts them first, in each layer anew.
    keys, values = (s.index_select(0, ragged.keys) for s in (key_THK, value_THK))
    return flash_attention()(query_THK, keys, values, ragged, scaling)[None]


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001 (transformers' signature)
    query: Tensor,  # (1, heads, T, K)
    key: Tensor,  # (1, kv_heads, T, K)
    value: Tensor,  # (1, kv_heads, T, K)
    attention_mask: Tensor | None,  # noqa: ARG001 (the packing says what each token sees)
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row; returns (1, T, heads, K).

    Where flash attention is not supported (CPU, float32, dropout, a sliding window, what families
    do to the scores), segments are padded for this operation only, and the rest of the model stays
    packed. Prompts and responses are padded separately, because the queries of a response are its
    own tokens only. Gemma-2 caps its scores: s becomes `softcap` tanh(s / `softcap`). GPT-OSS has
    in every head a sink, `s_aux` (heads,): the score of a key without a value.
    """
    changes_scores = softcap is not None or s_aux is not None
    plain = sliding_window is None and not dropout and not changes_scores
    if plain and query.shape[-1] == value.shape[-1] and takes_flash(query):
        return ragged_attention(query, key, value, packing.ragged, scaling), None

    dtype, groups = query.dtype, query.shape[1] // key.shape[1]
    if not query.is_cuda:  # where SDPA's backward takes twice the time in bfloat16
        wide = torch.promote_types(dtype, torch.float32)
        query, key, value = (s.to(wide) for s in (query, key, value))
    repeated = groups > 1 and (query.is_cuda or changes_scores)  # SDPA can do without on a CPU

    def attend(part: Padded) -> Tensor:
        query_NHQK = query[0][:, part.queries].transpose(0, 1)
        key_NHLK, value_NHLK = (s[0][:, part.keys].transpose(0, 1) for s in (key, value))
        if repeated:
            key_NHLK = key_NHLK.repeat_interleave(groups, dim=1)
            value_NHLK = value_NHLK.repeat_interleave(groups, dim=1)
        if changes_scores:
            scores_NHQL = (query_NHQK @ key_NHLK.mT) * (scaling or query.shape[-1] ** -0.5)
            visible = part.visible(sliding_window)
            weights_NHQL = softmax(scores_NHQL, visible, softcap, s_aux).to(value.dtype)
            out_NHQK = weights_NHQL @ value_NHLK
        else:
            out_NHQK = torch.nn.functional.scaled_dot_product_attention(
                *(query_NHQK, key_NHLK, value_NHLK, part.bias(sliding_window, query.dtype)),
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=not repeated,
            )
        return out_NHQK.transpose(1, 2).flatten(0, 1)  # (N * Q, H, K)

    parts = (packing.padded_prompts, packing.padded_responses)
    out = torch.cat([attend(part) for part in parts])[packing.unpad_index]
    return out[None].to(dtype), None


def softmax(scores: Tensor, visible: Tensor, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Softmax in float32 of the visible ones of scores (N, heads, Q, L), capped and with sinks."""
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is not None:
        sink = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], dim=-1)
    return scores.softmax(-1)[..., : visible.shape[-1]]


def unpacked_attention(model: PreTrainedModel) -> str:
    """Return which attention of transformers computes what the model is: SDPA wherever it can."""
    caps = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)  # SDPA does not
    return "sdpa" if model._supports_sdpa and not caps else "eager"


def cached_attention(
    module: torch.nn.Module,
    query: Tensor,  # (N, heads, Q, K)
    key: Tensor,  # (N, kv_heads, L, K)
    value: Tensor,  # (N, kv_heads, L, K)
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA as transformers calls it, but without a copy of the KV cache for each new token.

    Query heads that share keys become queries of one head, so that keys need not be repeated.
    """
    kv_heads = key.shape[1]
    if query.shape[2] > 1 or query.shape[1] == kv_heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    grouped = query.view(len(query), kv_heads, -1, query.shape[3])
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return out.reshape(len(query), 1, query.shape[1], -1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(CACHED, cached_attention)
AttentionMaskInterface.register(CACHED, sdpa_mask)
