"""Generalised advantage estimation (GAE) over packed rows, in one launch for any row lengths.

The definition is `reference.gae` (Schulman et al., arXiv 1506.02438). With
S_t = values_t + lambda advantages_t the recursion from right to left has a single number as its
state, which masked tokens pass on unchanged:

    S_t = (1 - lambda) values_t + lambda rewards_t + gamma lambda S_next
    advantages_t = rewards_t - values_t + gamma S_next,     S_next past a row's end: its bootstrap

A program loads a tile of BLOCK packed tokens once and scans it with the maps S -> a S + b; a row's
last token has a = 0. Only a tile in which no row ends needs the S of the tile to its right before
it can give its own to the one on its left. Programs take the tiles from right to left in the order
in which they start, so that none waits for one that has not started.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepcoder.kernels import reference
from stepcoder.kernels.dispatch import check_tokens, on_its_device, use_triton
from stepcoder.kernels.language import Block, Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.reference import AdvantageStatistics

BLOCK, WARPS = 2048, 8  # tokens of a program's tile


@jit()
def _after(a: Block, b: Block, a_left: Block, b_left: Block) -> Block:
    """Compose the map S -> a S + b with that of the token to its left, which is applied second."""
    return a_left * a, _apply(a_left, b_left, b)


@jit()
def _apply(a: Block, b: Block, state: Block) -> Block:
    """a S + b, where a = 0 keeps even a NaN from the row to the right."""
    return tl.where(a == 0, b, a * state + b)


@jit()
def _row_of(cu_seqlens: Pointer, tokens: Block, first_row: Scalar, past_row: Scalar) -> Block:
    """Return each token's row by binary search: the last row that starts at or before the token."""
    row = tl.zeros_like(tokens) + first_row
    span = past_row - first_row
    while span > 1:
        half = span // 2
        row = tl.where(tl.load(cu_seqlens + row + half) <= tokens, row + half, row)
        span -= half
    return row


@jit()
def _send(state: Block, place: Pointer) -> None:
    """Write a float32 as one word that is not 0: its reader sees all of it or nothing."""
    bits = state.to(tl.int32, bitcast=True).to(tl.int64)
    tl.atomic_xchg(place, (bits << 32) + 1, sem="relaxed")


@jit()
def _receive(place: Pointer) -> Block:
    """Wait for what `_send` writes there."""
    word = tl.atomic_add(place, 0, sem="relaxed")
    while word == 0:
        word = tl.atomic_add(place, 0, sem="relaxed")
    return (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@jit(do_not_specialize=["B"])
def gae_rows(
    rewards: Pointer,
    values: Pointer,
    cu_seqlens: Pointer,
    response_mask: Pointer,
    bootstraps: Pointer,  # unused unless BOOTSTRAP
    advantages: Pointer,
    returns: Pointer,
    sums: Pointer,  # (3, programs) float32: transitions, mean, squared distances from it
    statistics: Pointer,  # (3,) float32
    messages: Pointer,  # (2 + programs,) int64 zeros: programs that started, that ended; S by tile
    T: Scalar,
    B: Scalar,
    gamma: Scalar,
    lam: Scalar,
    BOOTSTRAP: constexpr,
    STATISTICS: constexpr,
    BLOCK: constexpr,
    FOLD: constexpr,
) -> None:
    """Compute advantages and returns, one program for each tile of BLOCK tokens."""
    programs = tl.num_programs(0)
    tile = programs - 1 - tl.atomic_add(messages, 1).to(tl.int32)
    lanes = tl.arange(0, BLOCK)
    tokens = tile * BLOCK + lanes
    inside = tokens < T
    kept = inside & (tl.load(response_mask + tokens, mask=inside, other=0) != 0)
    value = tl.load(values + tokens, mask=inside, other=0.0)
    reward = tl.load(rewards + tokens, mask=inside, other=0.0)

    first_and_last = tl.minimum(tile * BLOCK + tl.arange(0, 2) * (BLOCK - 1), T - 1)
    rows = _row_of(cu_seqlens, first_and_last, 0, B)
    row = _row_of(cu_seqlens, tl.minimum(tokens, T - 1), tl.min(rows), tl.max(rows) + 1)
    last = inside & (tokens + 1 == tl.load(cu_seqlens + row + 1, mask=inside, other=0))
    ending = tl.zeros((BLOCK,), tl.float32)
    if BOOTSTRAP:
        ending = tl.load(bootstraps + row, mask=last, other=0.0)
    a = tl.where(kept, gamma * lam, 1.0)
    b = tl.where(kept, value + lam * (reward - value), 0.0)
    a, b = tl.associative_scan(
        (tl.where(last, 0.0, a), tl.where(last, a * ending + b, b)), 0, _after, reverse=True
    )
    first_a = tl.sum(tl.where(lanes == 0, a, 0.0))
    first_b = tl.sum(tl.where(lanes == 0, b, 0.0))
    place = messages + 2 + tile
    carry = 0.0  # S to the right of the tile
    if first_a == 0:
        _send(first_b, place)
    if tile + 1 < programs:
        carry = _receive(place + 1)
    if first_a != 0:
        _send(_apply(first_a, first_b, carry), place)
    # A token's S_next is the S of the token to its right.
    state = tl.gather(_apply(a, b, carry), tl.minimum(lanes + 1, BLOCK - 1), 0)
    next_state = tl.where(last, ending, tl.where(lanes == BLOCK - 1, carry, state))
    advantage = tl.where(kept, reward - value + gamma * next_state, 0.0)
    tl.store(advantages + tokens, advantage, mask=inside)
    tl.store(returns + tokens, tl.where(kept, advantage + value, 0.0), mask=inside)

    if STATISTICS:
        count = tl.sum(tl.where(kept, 1.0, 0.0))
        mean = tl.sum(advantage) / tl.maximum(count, 1.0)
        distance = tl.where(kept, advantage - mean, 0.0)
        tl.store(sums + tile, count)
        tl.store(sums + programs + tile, mean)
        tl.store(sums + 2 * programs + tile, tl.sum(distance * distance))
        tl.debug_barrier()  # all threads have written their sums before the counter is incremented
        if tl.atomic_add(messages + 1, 1, sem="acq_rel") == programs - 1:
            _fold_statistics(sums, statistics, programs, FOLD)


@jit()
def _fold_statistics(sums: Pointer, statistics: Pointer, programs: Scalar, FOLD: constexpr) -> None:
    """Combine counts, means and squared distances of all programs, always in the same order."""
    lanes = tl.arange(0, FOLD)
    counts = tl.zeros((FOLD,), tl.float32)
    totals = tl.zeros((FOLD,), tl.float32)
    for first in range(0, programs, FOLD):
        part = sums + first + lanes
        inside = first + lanes < programs
        count = tl.load(part, mask=inside, other=0.0, cache_modifier=".cg")
        counts += count
        totals += count * tl.load(part + programs, mask=inside, other=0.0, cache_modifier=".cg")
    transitions = tl.sum(counts)
    mean = tl.sum(totals) / tl.maximum(transitions, 1.0)
    spreads = tl.zeros((FOLD,), tl.float32)
    for first in range(0, programs, FOLD):
        part = sums + first + lanes
        inside = first + lanes < programs
        count = tl.load(part, mask=inside, other=0.0, cache_modifier=".cg")
        away = tl.load(part + programs, mask=inside, other=0.0, cache_modifier=".cg") - mean
        spreads += tl.load(part + 2 * programs, mask=inside, other=0.0, cache_modifier=".cg")
        spreads += count * away * away
    tl.store(statistics, transitions)
    tl.store(statistics + 1, mean)
    tl.store(statistics + 2, tl.sum(spreads) / tl.maximum(transitions, 1.0))


def gae(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    gamma: float,
    lam: float,
    bootstraps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over packed rows (arXiv 1506.02438, eq. 16).

    Only tokens of `response_mask` are transitions; others are skipped, and their outputs are zero.

    Args:
        rewards: (T,) reward received on choosing token t; float32 for the kernel.
        values: (T,) value before token t; float32 for the kernel.
        cu_seqlens: (B+1,) int32 row bounds, from 0 to T.
        response_mask: (T,) bool.
        gamma: discount.
        lam: GAE's lambda.
        bootstraps: (B,) float32 value after each row's last transition, for rows that were cut off;
            None means 0: every episode ends with its row.

    Returns:
        advantages (T,) and returns (T,) = advantages + values, zero outside the mask; the kernel's
        carry no gradient.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes or devices do not match.
    """
    if not use_triton("gae", rewards, torch.float32):
        return reference.gae(rewards, values, cu_seqlens, response_mask, gamma, lam, bootstraps)
    inputs = _checked(rewards, values, cu_seqlens, response_mask, bootstraps)
    advantages, returns, _ = _forward(*inputs, gamma, lam, False)
    return advantages, returns


def gae_with_statistics(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    gamma: float,
    lam: float,
    bootstraps: Tensor | None = None,
) -> tuple[Tensor, Tensor, AdvantageStatistics]:
    """`gae`, with the count, mean and variance of its advantages from the same launch."""
    if not use_triton("gae", rewards, torch.float32):
        return reference.gae_with_statistics(
            rewards, values, cu_seqlens, response_mask, gamma, lam, bootstraps
        )
    inputs = _checked(rewards, values, cu_seqlens, response_mask, bootstraps)
    advantages, returns, statistics = _forward(*inputs, gamma, lam, True)
    return advantages, returns, AdvantageStatistics(*statistics.unbind())


def _checked(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    bootstraps: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    device = rewards.device
    check_tokens(
        "gae", device, rewards.shape, rewards=rewards, values=values, response_mask=response_mask
    )
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.device != device:
        raise ValueError(
            f"gae: cu_seqlens is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)} on "
            f"{cu_seqlens.device}; it must be int32 (B+1,) on {device}"
        )
    if bootstraps is not None:
        rows = torch.Size([len(cu_seqlens) - 1])
        check_tokens("gae", device, rows, bootstraps=bootstraps)
        bootstraps = bootstraps.detach().contiguous()
    return (
        rewards.detach().contiguous(),
        values.detach().contiguous(),
        cu_seqlens.contiguous(),
        response_mask.contiguous(),
        bootstraps,
    )


@torch.library.custom_op("stepcoder::gae", mutates_args=())
@on_its_device
def _forward(
    rewards: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    response_mask: Tensor,
    bootstraps: Tensor | None,
    gamma: float,
    lam: float,
    with_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages (T,), returns (T,), statistics (3,); uninitialized unless `with_statistics`."""
    advantages, returns = torch.empty_like(rewards), torch.empty_like(rewards)
    statistics = rewards.new_empty(3)
    programs = max(-(-len(rewards) // BLOCK), 1)
    sums = rewards.new_empty(3, programs) if with_statistics else statistics
    gae_rows[(programs,)](
        rewards,
        values,
        cu_seqlens,
        response_mask,
        rewards if bootstraps is None else bootstraps,
        advantages,
        returns,
        sums,
        statistics,
        torch.zeros(2 + programs, dtype=torch.int64, device=rewards.device),
        len(rewards),
        len(cu_seqlens) - 1,
        gamma,
        lam,
        BOOTSTRAP=bootstraps is not None,
        STATISTICS=with_statistics,
        BLOCK=BLOCK,
        FOLD=1024,
        num_warps=WARPS,
    )
    return advantages, returns, statistics


@_forward.register_fake
def _(rewards: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards), rewards.new_empty(3)
