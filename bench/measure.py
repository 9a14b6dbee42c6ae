"""Times and memory of one operation on a CUDA device.

Takes a function without arguments; gives medians in milliseconds, from CUDA events or, for
operations shorter than their launch, from replays of a CUDA graph.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable

import torch

DRY = os.environ.get("STEPCODER_BENCH_DRY") == "1"  # see conftest.py
DEVICE = torch.device("cpu" if DRY else "cuda")

L2_FLUSH = 256 << 20  # bytes written between cold runs: several times the L2 cache


@functools.cache
def _flush() -> torch.Tensor:
    return torch.empty(L2_FLUSH, dtype=torch.int8, device="cuda")


def milliseconds(run: Callable[[], object], cold: bool = False, budget_ms: float = 400) -> float:
    """Median time of a run over about `budget_ms`, at least 5 runs after 2 to warm up."""
    if DRY:
        began = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - began)
    for _ in range(2):
        run()
    once = _events(run, 1, cold)[0]
    return statistics.median(_events(run, max(5, min(200, int(budget_ms / max(once, 0.01)))), cold))


def _events(run: Callable[[], object], count: int, cold: bool) -> list[float]:
    pairs = []
    for _ in range(count):
        if cold:
            _flush().zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in pairs]


def graph_milliseconds(run: Callable[[], object], copies: int = 20) -> float:
    """Time of one run inside a graph of `copies`: without the gaps between launches."""
    if DRY:
        return milliseconds(run)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            run()
    return milliseconds(graph.replay, budget_ms=100) / copies


def extra_bytes(run: Callable[[], object]) -> int:
    """Peak memory of a run beyond what was there before it and what is left after it."""
    run()
    if DRY:
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    kept = max(torch.cuda.memory_allocated() - before, 0)
    del result
    return torch.cuda.max_memory_allocated() - before - kept


def machine() -> dict[str, str]:
    """Return what a row must say of where it was measured."""
    import triton

    return {
        "gpu": "dry" if DRY else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
    }
