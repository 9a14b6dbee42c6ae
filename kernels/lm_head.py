"""The LM head's matrix product, reduced to softmax statistics without storing logits.

    z = cap(hidden W^T)                                                       logits, (N, V)

Takes hidden (N, H) and weight (V, H) in bfloat16. Of every (ROWS, VOCAB) tile of z, computed in
float32, only a few float32 numbers a row are written to memory, in base 2 with
x = z log2(e) / temperature: the maximum m of x, the sum of 2^(x-m), and the sum of 2^(x-m) (x-m).
`row_statistics` combines a row's tiles, always in the same order, so that a row's log-probability
does not depend on the other rows or on whether a gradient is taken. On request the tile is stored
too, as the unnormalized probabilities 2^(x-k) in bfloat16 (`exp_logits`): all that the gradient
needs (lm_head_backward). The reference k is any number near the row's log normalizer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcoder.kernels.dispatch import check_alignment, multiprocessors
from stepcoder.kernels.language import (
    INTERPRETED,
    Block,
    Descriptor,
    Pointer,
    Scalar,
    TensorDescriptor,
    constexpr,
    jit,
    tl,
)

LOG2_E = math.log2(math.e)
TARGET_ROWS = 64  # rows of a program of target_products: those of Hopper's matrix instruction
LARGEST = 60.0  # log2 of exp_logits at most, so that nothing overflows in their products


@dataclass(frozen=True)
class Tile:
    """Block shapes and launch settings of `lm_head_tiles`."""

    rows: int
    vocab: int
    hidden: int
    warps: int
    stages: int
    group: int = 16  # row blocks that share W's tiles through the L2 cache
    flatten: bool = True  # one pipelined loop over all tiles: loads run ahead into the next tile


HOPPER = Tile(rows=128, vocab=256, hidden=64, warps=8, stages=3)
SMALL = Tile(rows=128, vocab=128, hidden=32, warps=8, stages=3)  # GPUs with 99 KiB of shared memory
INTERPRETER = Tile(rows=64, vocab=1024, hidden=64, warps=1, stages=1)


@functools.cache
def tile_for(device: torch.device) -> Tile:
    """Return the tile that a device runs."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    return HOPPER if properties.shared_memory_per_multiprocessor > 190_000 else SMALL


@jit()
def _capped(z: Block, softcap: Scalar) -> Block:
    """softcap tanh(z / softcap)."""
    return softcap * (1 - 2 / (1 + tl.exp2(z * (2 * 1.4426950408889634 / softcap))))


@jit(do_not_specialize=["N"])  # the number of rows differs from call to call
def lm_head_tiles(
    hidden_desc: Descriptor,  # (N, H) bfloat16, blocks (ROWS, HIDDEN)
    weight_desc: Descriptor,  # (V, H) bfloat16, blocks (VOCAB, HIDDEN)
    exp_logits_desc: Descriptor,  # (N, V) bfloat16, blocks (ROWS, VOCAB / 2); unused unless STORE
    references: Pointer,  # (N,) float32: k; unused unless STORE
    partials: Pointer,  # (3, tiles of V, N) float32: m, sum 2^(x-m), sum 2^(x-m) (x-m)
    N: Scalar,
    V: Scalar,
    H: Scalar,
    scale: Scalar,  # log2(e) / temperature
    softcap: Scalar,
    ROWS: constexpr,
    VOCAB: constexpr,
    HIDDEN: constexpr,
    GROUP: constexpr,
    STORE: constexpr,
    SOFTCAP: constexpr,
    LARGEST: constexpr,
    FLATTEN: constexpr,
    UPCAST: constexpr,
) -> None:
    """Compute all tiles of z: each of n persistent programs takes every n-th tile.

    Tiles are numbered in groups of GROUP row blocks, which read the same tiles of W.
    """
    row_blocks = tl.cdiv(N, ROWS)
    vocab_blocks = tl.cdiv(V, VOCAB)
    steps = tl.cdiv(H, HIDDEN)
    tiles = row_blocks * vocab_blocks
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        first_row_block = tile // (GROUP * vocab_blocks) * GROUP
        group = min(row_blocks - first_row_block, GROUP)
        within = tile % (GROUP * vocab_blocks)
        row0 = (first_row_block + within % group) * ROWS
        vocab_block = within // group
        column0 = vocab_block * VOCAB
        z = tl.zeros((ROWS, VOCAB), tl.float32)
        for step in range(steps):
            hidden = hidden_desc.load([row0, step * HIDDEN])
            weight = weight_desc.load([column0, step * HIDDEN])
            if UPCAST:
                hidden, weight = hidden.to(tl.float32), weight.to(tl.float32)
            z = tl.dot(hidden, weight.T, z)

        if SOFTCAP:
            z = _capped(z, softcap)
        # A finite number, so that 2^(x-m) (x-m) is 0 and not NaN in the columns past V.
        z = tl.where(column0 + tl.arange(0, VOCAB)[None, :] < V, z, -1e30)
        rows = row0 + tl.arange(0, ROWS)
        valid = rows < N
        m = tl.max(z, 1) * scale
        x = z * scale - m[:, None]
        e = tl.exp2(x)
        slot = vocab_block * N + rows
        plane = vocab_blocks * N
        tl.store(partials + slot, m, mask=valid)
        tl.store(partials + plane + slot, tl.sum(e, 1), mask=valid)
        tl.store(partials + 2 * plane + slot, tl.sum(e * x, 1), mask=valid)
        if STORE:
            k = tl.load(references + rows, mask=valid, other=0.0)
            e *= tl.exp2(tl.minimum(m - k, LARGEST))[:, None]
            # Stored in two halves: TMA stores from shared memory, and a half needs half as much.
            halves = tl.permute(tl.reshape(e, (ROWS, 2, VOCAB // 2)), (0, 2, 1))
            left, right = tl.split(halves)
            exp_logits_desc.store([row0, column0], left.to(tl.bfloat16))
            exp_logits_desc.store([row0, column0 + VOCAB // 2], right.to(tl.bfloat16))


@jit(do_not_specialize=["N"])
def target_products(
    hidden: Pointer,  # (N, H) bfloat16
    weight: Pointer,  # (V, H) bfloat16
    targets: Pointer,  # (N,) int64
    logits: Pointer,  # (N,) float32: z of the target, NaN for one outside [0, V)
    N: Scalar,
    V: Scalar,
    H: Scalar,
    softcap: Scalar,
    ROWS: constexpr,
    HIDDEN: constexpr,
    SOFTCAP: constexpr,
    UPCAST: constexpr,
) -> None:
    """Multiply each of ROWS rows with its target's row of W: the diagonal of a matrix product.

    The matrix instructions add up a logit's terms in the same order as those of `lm_head_tiles`, so
    that a target's logit is the number that its tile has exponentiated.
    """
    lanes = tl.arange(0, ROWS)
    rows = tl.program_id(0) * ROWS + lanes
    target = tl.load(targets + rows, mask=rows < N, other=-1)
    inside = (target >= 0) & (target < V)
    of_hidden = hidden + rows.to(tl.int64)[:, None] * H
    of_weight = weight + target[:, None] * H
    z = tl.zeros((ROWS, ROWS), tl.float32)
    for first in range(0, H, HIDDEN):
        column = first + tl.arange(0, HIDDEN)[None, :]
        there = inside[:, None] & (column < H)
        states = tl.load(of_hidden + column, mask=there, other=0.0)
        vectors = tl.load(of_weight + column, mask=there, other=0.0)
        if UPCAST:
            states, vectors = states.to(tl.float32), vectors.to(tl.float32)
        z = tl.dot(states, vectors.T, z)
    logit = tl.sum(tl.where(lanes[:, None] == lanes[None, :], z, 0.0), 1)
    if SOFTCAP:
        logit = _capped(logit, softcap)
    tl.store(logits + rows, tl.where(inside, logit, float("nan")), mask=rows < N)


@jit()
def row_statistics(
    partials: Pointer,
    target_logits: Pointer,
    rows: Block,
    N: Scalar,
    vocab_blocks: Scalar,
    scale: Scalar,
    TILES: constexpr,
) -> Block:
    """Combine the tiles of some rows: log-probability and entropy (in nats), base-2 log normalizer.

    The log-probability of a target outside [0, V) is NaN.
    """
    valid = rows < N
    m = tl.full(rows.shape, -1e30, tl.float32)
    total = tl.zeros(rows.shape, tl.float32)  # sum 2^(x-m)
    moment = tl.zeros(rows.shape, tl.float32)  # sum 2^(x-m) (x-m)
    plane = vocab_blocks * N
    for first in range(0, vocab_blocks, TILES):
        block = first + tl.arange(0, TILES)
        slot = block[:, None] * N + rows[None, :]
        keep = (block < vocab_blocks)[:, None] & valid[None, :]
        tile_m = tl.load(partials + slot, mask=keep, other=-1e30)
        tile_total = tl.load(partials + plane + slot, mask=keep, other=0.0)
        tile_moment = tl.load(partials + 2 * plane + slot, mask=keep, other=0.0)
        new_m = tl.maximum(m, tl.max(tile_m, 0))
        down = m - new_m
        moment = (moment + total * down) * tl.exp2(down)
        total *= tl.exp2(down)
        shift = tile_m - new_m[None, :]
        factor = tl.exp2(shift)
        total += tl.sum(factor * tile_total, 0)
        moment += tl.sum(factor * (tile_moment + tile_total * shift), 0)
        m = new_m
    total = tl.where(valid, total, 1.0)
    log_total = tl.log2(total)
    # The same multiply-add as the tile's: what rounding m has added to every x of the row cancels.
    x = tl.fma(tl.load(target_logits + rows, mask=valid, other=0.0), scale, -m)
    logprobs = 0.6931471805599453 * (x - log_total)
    logprobs = tl.where(logprobs > 0, 0.0, logprobs)  # by a rounding; NaN stays
    entropy = 0.6931471805599453 * (log_total - moment / total)
    return logprobs, entropy, m + log_total


def vocab_tiles(vocab: int, device: torch.device) -> int:
    """Return into how many tiles a device splits a row of V logits."""
    return -(-vocab // tile_for(device).vocab)


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Return the logit of each of N rows' target, (N,) float32; NaN for one that is no token."""
    rows, width = hidden.shape
    logits = hidden.new_empty(rows, dtype=torch.float32)
    if rows:
        target_products[(-(-rows // TARGET_ROWS),)](
            *(hidden, weight, targets, logits, rows, len(weight), width, softcap),
            ROWS=TARGET_ROWS,
            HIDDEN=64,
            SOFTCAP=bool(softcap),
            UPCAST=INTERPRETED,
        )
    return logits


def launch_tiles(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    softcap: float,
    exp_logits: Tensor | None = None,
    references: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Run `lm_head_tiles` over N > 0 rows and return its partials, (3, tiles of V, N) float32.

    Args:
        hidden: (N, H) bfloat16, contiguous.
        weight: (V, H) bfloat16, contiguous.
        temperature: divides the logits.
        softcap: 0 for none.
        exp_logits: (N, V) bfloat16 to fill with 2^(x-k), row stride a multiple of 8, or None.
        references: (N,) float32, k; with exp_logits.
        tile: other block shapes than the device's own, for tuning.

    Raises:
        ValueError: hidden or weight does not start at a multiple of 16 bytes.
    """
    check_alignment(hidden=hidden, weight=weight)
    rows, width = hidden.shape
    vocab = weight.shape[0]
    tile = tile or tile_for(hidden.device)
    vocab_blocks = -(-vocab // tile.vocab)
    programs = min(multiprocessors(hidden.device), -(-rows // tile.rows) * vocab_blocks)
    partials = torch.empty(3, vocab_blocks, rows, device=hidden.device, dtype=torch.float32)
    # TMA gets the strides below: a tensor's own may be arbitrary for a dimension of size 1.
    lm_head_tiles[(programs,)](
        TensorDescriptor(hidden, [rows, width], [width, 1], [tile.rows, tile.hidden]),
        TensorDescriptor(weight, [vocab, width], [width, 1], [tile.vocab, tile.hidden]),
        TensorDescriptor(hidden, [rows, width], [width, 1], [tile.rows, tile.vocab // 2])
        if exp_logits is None
        else TensorDescriptor(
            exp_logits, [rows, vocab], [exp_logits.stride(0), 1], [tile.rows, tile.vocab // 2]
        ),
        partials if references is None else references,
        partials,
        rows,
        vocab,
        width,
        LOG2_E / temperature,
        softcap,
        ROWS=tile.rows,
        VOCAB=tile.vocab,
        HIDDEN=tile.hidden,
        GROUP=tile.group,
        STORE=exp_logits is not None,
        SOFTCAP=bool(softcap),
        LARGEST=LARGEST,
        FLATTEN=tile.flatten,
        UPCAST=INTERPRETED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return partials


def chunks(rows: int, bytes_per_row: int, workspace: int) -> Iterator[slice]:
    """Split N rows into equal multiples of 128 rows that each fit a workspace in bytes."""
    most = max(workspace // bytes_per_row // 128, 1)  # blocks of 128 rows that fit
    blocks = -(-rows // 128)
    pieces = -(-blocks // most)
    size = -(-blocks // max(pieces, 1)) * 128
    for first in range(0, rows, size) if rows else ():
        yield slice(first, min(first + size, rows))
