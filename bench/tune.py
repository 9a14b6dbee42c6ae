"""Times other block shapes than the shipped ones: python bench/tune.py on a GPU.

Prints a JSON line a candidate as soon as it is timed. What is best is then written
by hand into kernels/ (HOPPER in lm_head.py and the constants beside each kernel), after
tests/kernels/test_shipped.py agrees.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import measure
import torch
from test_tokens import gae_inputs, loss_inputs, loss_run

from stepcoder.kernels import lm_head, lm_head_backward, packed_gae, token_loss
from stepcoder.kernels.lm_head import Tile, launch_tiles
from stepcoder.kernels.lm_head_backward import RowTerms, Workspace, d_logits

TILES = [
    Tile(rows, vocab, 64, 8, stages, group, flatten)
    for (rows, vocab), stages, group, flatten in itertools.product(
        ((128, 256), (256, 128)), (3, 4), (8, 16), (True, False)
    )
    if not (rows == 256 and stages == 4)
] + [Tile(128, 128, 64, warps, 4, 16, flatten) for warps in (4, 8) for flatten in (True, False)]
SHAPES = [(4096, 4096, 32_256), (4096, 1536, 32_256)]  # rows, H, V: one chunk of a head
GRADIENT = (4096, 151_936)  # rows, V
LENGTHS, TOKENS = ([512] * 32, [2048] * 8192), (2**14, 2**24)
if measure.DRY:
    TILES, SHAPES, GRADIENT = TILES[:1], [(16, 32, 112)], (16, 112)
    LENGTHS, TOKENS = ([4] * 3,), (16,)


def time_or_reason(run: Callable[[], object]) -> float | str:
    """Milliseconds, or why there are none (too much shared memory, say)."""
    try:
        return measure.milliseconds(run, budget_ms=60)
    except Exception as error:  # a candidate that does not launch is a result too
        return f"{type(error).__name__}: {str(error)[:120]}"


def head_tiles() -> Iterator[dict[str, object]]:
    """The matrix product, without and with storing 2^(z-m)."""
    for (rows, width, vocab), store in itertools.product(SHAPES, (False, True)):
        hidden, weight = (
            torch.randn(n, width, device=measure.DEVICE, dtype=torch.bfloat16)
            for n in (rows, vocab)
        )
        weight *= 3 / width**0.5
        exp_logits = weight.new_empty(rows, vocab) if store else None
        references = torch.zeros(rows, device=measure.DEVICE)
        for tile in TILES:
            ms = time_or_reason(
                partial(launch_tiles, hidden, weight, 1.0, 0.0, exp_logits, references, tile)
            )
            yield {"kernel": "lm_head_tiles", "H": width, "store": store, **asdict(tile), "ms": ms}


def gradient_columns() -> Iterator[dict[str, object]]:
    """The pass from 2^(z-m) to d(logits)."""
    rows, vocab = GRADIENT
    weight = torch.randn(vocab, 64, device=measure.DEVICE, dtype=torch.bfloat16)
    hidden = torch.randn(rows, 64, device=measure.DEVICE, dtype=torch.bfloat16)
    targets = torch.randint(vocab, (rows,), device=measure.DEVICE)
    exp_logits = Workspace.create([slice(0, rows)], weight).view(slice(0, rows))
    references = torch.zeros(rows, device=measure.DEVICE)
    launch_tiles(hidden, weight, 1.0, 0.0, exp_logits, references)
    terms = RowTerms(torch.randn(5, rows, device=measure.DEVICE), with_entropy=True)
    shipped = lm_head_backward.COLUMNS
    for columns in (1024, 2048, 4096, 8192):
        lm_head_backward.COLUMNS = columns
        ms = time_or_reason(lambda: d_logits(exp_logits, references, terms, targets, 1.0, 0.0))
        yield {"kernel": "logits_gradient", "columns": columns, "ms": ms}
    lm_head_backward.COLUMNS = shipped


def token_blocks() -> Iterator[dict[str, object]]:
    """GAE's and the PPO losses' blocks, at a small and a large number of tokens."""
    device = measure.DEVICE
    shipped = packed_gae.BLOCK, packed_gae.WARPS, token_loss.BLOCK
    for lengths in LENGTHS:
        inputs = gae_inputs(lengths, device)
        for block, warps in ((512, 4), (1024, 4), (1024, 8), (2048, 8), (2048, 16)):
            packed_gae.BLOCK, packed_gae.WARPS = block, warps
            ms = measure.graph_milliseconds(partial(packed_gae.gae, *inputs))
            yield {"kernel": "gae", "T": sum(lengths), "block": block, "warps": warps, "ms": ms}
    for tokens in TOKENS:
        run = loss_run(token_loss.ppo_loss, loss_inputs(tokens, device))
        for block in (256, 512, 1024, 2048):
            token_loss.BLOCK = block
            ms = measure.graph_milliseconds(run)
            yield {"kernel": "ppo_loss", "T": tokens, "block": block, "ms": ms}
    packed_gae.BLOCK, packed_gae.WARPS, token_loss.BLOCK = shipped


def main() -> None:
    """Run all candidates, and print each one's row as soon as it is measured."""
    if not measure.DRY:
        assert lm_head.tile_for(measure.DEVICE) == lm_head.HOPPER, "tune on a Hopper GPU"
    for row in itertools.chain(head_tiles(), gradient_columns(), token_blocks()):
        print(json.dumps(measure.machine() | row), flush=True)


if __name__ == "__main__":
    main()
