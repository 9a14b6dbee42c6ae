"""Generalised advantage estimation (GAE) over packed rows, in one launch for any row lengths.

The definition is `reference.gae` (Schulman et al., arXiv 1506.02438). With
S_t = values_t + lambda advantages_t the recursion from right to left has a single number as its
state, which masked tokens pass on unchanged:

    S_t = (1 - lambda) values_t + lambda rewards_t + gamma lambda S_next
    advantages_t = rewards_t - values_t + gamma S_next,     S_next past a row's end: its bootstrap

A program computes the rows that end in its tile of BLOCK packed tokens (many short rows or one long
one). It goes over them from right to left in blocks of BLOCK tokens, with an associative scan of
S -> a S + b in each block, and carries S to the next block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepcoder.kernels import reference
from stepcoder.kernels.dispatch import arrival_counter, check_tokens, on_its_device, use_triton
from stepcoder.kernels.language import Block, Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.reference import AdvantageStatistics

BLOCK, WARPS = 1024, 8  # tokens of a program's tile, and of each block that it scans
PROBES = 1024  # row bounds that one step of the search compares


@jit()
def _after(a: Block, b: Block, a_left: Block, b_left: Block) -> Block:
    """Compose the map S -> a S + b with that of the token to its left, which is applied second."""
    return a_left * a, a_left * b + b_left


@jit()
def _first_row_ending_after(
    cu_seqlens: Pointer, B: Scalar, token: Scalar, PROBES: constexpr
) -> Block:
    """Return the smallest row r with cu_seqlens[r + 1] > token, B if there is none."""
    low = tl.zeros((), tl.int32)  # every row before this one is known to end at or before token
    width = B + low  # candidates, from low on
    lanes = tl.arange(0, PROBES)
    while width > 0:
        step = tl.cdiv(width, PROBES)
        probes = lanes * step + step - 1  # the last candidate of each of PROBES stretches
        inside = probes < width
        ends = tl.load(cu_seqlens + low + 1 + probes, mask=inside, other=2147483647)
        passed = tl.sum((ends <= token).to(tl.int32)) * step
        low += passed
        width = tl.minimum(step - 1, width - passed)
    return low


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
def _neighbor_maps(
    rewards: Pointer,
    values: Pointer,
    response_mask: Pointer,
    tokens: Block,
    owned: Block,
    last: Block,
    ending: Block,
    gamma: Scalar,
    lam: Scalar,
) -> Block:
    """Return (a, b) of each token's right neighbor, whose S is the token's S_next."""
    follows = owned & ~last
    kept = tl.load(response_mask + tokens + 1, mask=follows, other=0) != 0
    value = tl.load(values + tokens + 1, mask=follows & kept, other=0.0)
    reward = tl.load(rewards + tokens + 1, mask=follows & kept, other=0.0)
    a = tl.where(kept, gamma * lam, 1.0)
    b = value + lam * (reward - value)
    return tl.where(last, 0.0, a), tl.where(last, ending, b)


@jit()
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
    arrivals: Pointer,  # () int32, zero before and after; unused unless STATISTICS
    B: Scalar,
    gamma: Scalar,
    lam: Scalar,
    BOOTSTRAP: constexpr,
    STATISTICS: constexpr,
    BLOCK: constexpr,
    PROBES: constexpr,
    FOLD: constexpr,
) -> None:
    """Compute advantages and returns, one program for each tile of BLOCK tokens."""
    program = tl.program_id(0)
    first_row = _first_row_ending_after(cu_seqlens, B, program * BLOCK, PROBES)
    past_row = _first_row_ending_after(cu_seqlens, B, (program + 1) * BLOCK, PROBES)
    begin = tl.load(cu_seqlens + first_row)
    end = tl.load(cu_seqlens + past_row)
    count, mean, spread = 0.0, 0.0, 0.0
    carry = 0.0  # S to the right of the block; the first block ends with a row and does not use it
    for block in range(tl.cdiv(end - begin, BLOCK)):
        left = end - (block + 1) * BLOCK
        tokens = left + tl.arange(0, BLOCK)
        owned = tokens >= begin
        row = _row_of(cu_seqlens, tokens, first_row, past_row)
        last = tokens + 1 == tl.load(cu_seqlens + row + 1)
        ending = tl.zeros((BLOCK,), tl.float32)
        if BOOTSTRAP:
            ending = tl.load(bootstraps + row, mask=last, other=0.0)
        a, b = _neighbor_maps(
            rewards, values, response_mask, tokens, owned, last, ending, gamma, lam
        )
        a, b = tl.associative_scan((a, b), 0, _after, reverse=True)
        next_state = a * carry + b
        carry = tl.sum(tl.where(tokens == left, next_state, 0.0))

        kept = owned & (tl.load(response_mask + tokens, mask=owned, other=0) != 0)
        value = tl.load(values + tokens, mask=kept, other=0.0)
        reward = tl.load(rewards + tokens, mask=kept, other=0.0)
        advantage = tl.where(kept, reward - value + gamma * next_state, 0.0)
        tl.store(advantages + tokens, advantage, mask=owned)
        tl.store(returns + tokens, advantage + value, mask=owned)
        if STATISTICS:  # the parallel update of mean and squared distances by Chan et al. (1979)
            found = tl.sum(tl.where(kept, 1.0, 0.0))
            block_mean = tl.sum(advantage) / tl.maximum(found, 1.0)
            distance = tl.where(kept, advantage - block_mean, 0.0)
            delta = block_mean - mean
            total = tl.maximum(count + found, 1.0)
            spread += tl.sum(distance * distance) + delta * delta * count * found / total
            mean += delta * found / total
            count += found

    if STATISTICS:
        programs = tl.num_programs(0)
        tl.store(sums + program, count)
        tl.store(sums + programs + program, mean)
        tl.store(sums + 2 * programs + program, spread)
        tl.debug_barrier()  # all threads have written their sums before the counter is incremented
        if tl.atomic_add(arrivals, 1, sem="acq_rel") == programs - 1:
            _fold_statistics(sums, statistics, programs, FOLD)
            tl.store(arrivals, 0)


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
        arrival_counter(rewards.device) if with_statistics else cu_seqlens,
        len(cu_seqlens) - 1,
        gamma,
        lam,
        BOOTSTRAP=bootstraps is not None,
        STATISTICS=with_statistics,
        BLOCK=BLOCK,
        PROBES=PROBES,
        FOLD=1024,
        num_warps=WARPS,
    )
    return advantages, returns, statistics


@_forward.register_fake
def _(rewards: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards), rewards.new_empty(3)
