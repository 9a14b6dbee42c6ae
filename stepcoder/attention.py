"""Attention over packed rows, registered with transformers as `stepcoder_packed`.

Takes the (1, heads, T, K) queries, keys and values of B rows that lie end to end, and gives the
causal attention of each row by itself. Rows are told apart by `cu_seq_lens_q`, the keyword that
transformers' own flash attention uses, so that any decoder of transformers works unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

PACKED = "stepcoder_packed"


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001 (transformers' signature)
    query: Tensor,  # (1, heads, T, K)
    key: Tensor,  # (1, kv_heads, T, K)
    value: Tensor,  # (1, kv_heads, T, K)
    attention_mask: Tensor | None,  # noqa: ARG001 (rows come by cu_seq_lens_q)
    *,
    cu_seq_lens_q: Tensor,  # (B+1,) int32
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row; returns (1, T, heads, K).

    Rows are padded on the right for this operation alone: a causal query never looks right, so no
    mask is needed and SDPA takes its fast causal path. Everything else in the model stays packed.
    """
    index, valid = row_index(cu_seq_lens_q, max_length_q, query.shape[2])  # (B, L) each
    groups = query.shape[1] // key.shape[1]
    query_BHLK, key_BHLK, value_BHLK = (
        states[0][:, index].transpose(0, 1) for states in (query, key, value)
    )
    if groups > 1:
        key_BHLK = key_BHLK.repeat_interleave(groups, dim=1)
        value_BHLK = value_BHLK.repeat_interleave(groups, dim=1)
    window = _sliding_window_mask(sliding_window, max_length_q, query.device)
    out_BHLK = torch.nn.functional.scaled_dot_product_attention(
        query_BHLK,
        key_BHLK,
        value_BHLK,
        attn_mask=window,
        is_causal=window is None,
        dropout_p=dropout,
        scale=scaling,
    )
    return out_BHLK.transpose(1, 2)[valid][None], None


def row_index(cu_seqlens: Tensor, longest: int, total: int) -> tuple[Tensor, Tensor]:
    """Positions in the packed row of each (row, column) of the padded form, and which are real.

    Returns:
        index (B, L) int64, clamped into [0, total), and valid (B, L) bool.
    """
    columns = torch.arange(longest, device=cu_seqlens.device)
    index = cu_seqlens[:-1, None].long() + columns
    valid = index < cu_seqlens[1:, None]
    return index.clamp(max=total - 1), valid


def _sliding_window_mask(window: int | None, longest: int, device: torch.device) -> Tensor | None:
    """Return the (L, L) mask of a sliding window, None where the window hides nothing."""
    if window is None or window >= longest:
        return None
    positions = torch.arange(longest, device=device)
    distance = positions[:, None] - positions
    return (distance >= 0) & (distance < window)


AttentionInterface.register(PACKED, packed_attention)
