"""One, two and four processes of torchrun on a CPU at the same work, beside the simulator's step.

python bench/processes.py FOLDER; a core for each process, or the figures say little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from stepcoder.config import load_config
from stepcoder.plan.simulate import Network, measured_in, parts, seconds
from stepcoder.report.run_dir import CONFIG, read_records

LAYERS, WIDTH = 4, 256
OPTIONS = [
    *("device=cpu", "threads=1", f"model.layers={LAYERS}", f"model.width={WIDTH}"),
    *("model.heads=4", "model.kv_heads=2", "model.vocabulary=1024", "sft.steps=0", "steps=9"),
    *("rollout.tasks_per_step=8", "rollout.samples_per_task=4", "rollout.max_new_tokens=64"),
    *("ppo.tokens_per_microbatch=1024", "ppo.minibatches=1", "ppo.optimizer=adamw"),
    *("eval.limit=1", "eval.every=99", "checkpoint.every=99", "sandbox.workers=1"),
]


def network() -> None:
    """Print what a collective takes, the bytes a second of large ones, and the cores there are."""
    dist.init_process_group("gloo")
    start, before, matrix = time.perf_counter(), time.thread_time(), torch.zeros(256, 256)
    while time.perf_counter() - start < 5:
        matrix = matrix @ matrix
    cores = torch.tensor((time.thread_time() - before) / (time.perf_counter() - start))
    dist.all_reduce(cores)

    def of(size: int, times: int) -> float:
        part = torch.zeros(size // dist.get_world_size())
        whole = torch.zeros(size)
        found = []
        for _ in range(times):
            start = time.perf_counter()
            dist.all_gather_into_tensor(whole, part)
            found.append(time.perf_counter() - start)
        return median(found)

    share = (dist.get_world_size() - 1) / dist.get_world_size()
    figures = {"latency": of(256, 100), "bandwidth": share * (4 << 20) / of(1 << 20, 20) or 1e9}
    figures["cores"] = cores.item()
    if dist.get_rank() == 0:
        print(json.dumps(figures))
    dist.destroy_process_group()


def torchrun(count: int, *command: str) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, f"--nproc-per-node={count}", *command],
        **{"env": environment, "check": True, "text": True, "stdout": subprocess.PIPE},
    ).stdout


def main(folder: Path) -> None:
    """Do the runs that are not there yet, and print what they took."""
    alone = 1.0
    for count in (1, 2, 4):
        out = folder / str(count)
        if not out.exists():
            torchrun(count, "-m", "stepcoder.train", f"run_dir={out}", *OPTIONS)
        records = [r for r in read_records(out) if r["phase"] == "rl"]
        stamps = [r["logged_at"] for r in records[1:-1]]  # not the last, which evaluates
        took = median(b - a for a, b in pairwise(stamps))
        mean = {p: median(r["time"].get(p, 0.0) for r in records[2:-1]) for p in records[1]["time"]}
        seen, config = measured_in(folder / "1"), load_config(folder / "1" / CONFIG, [])
        figures = json.loads(torchrun(count, __file__, "--network"))
        if count == 1:
            alone = figures["cores"]
        at_once = figures["cores"] / alone
        weights = LAYERS * WIDTH**2 * 11.7 + 1024 * WIDTH
        wires = figures["bandwidth"], figures["latency"]
        given = Network(weights, LAYERS, *wires, at_once=at_once)
        planned = seconds(parts(seen, config, given, 1, 1, count), ahead=0)
        split = " ".join(f"{part} {spent:.2f}" for part, spent in mean.items())
        print(
            f"{count} processes: {took:.2f} s/step, {seen.tokens / took:.0f} tokens/s ({split}); "
            f"simulated {planned:.2f} s, {planned / took - 1:+.0%}; {figures['cores']:.2f} cores, "
            f"a collective "
            f"{figures['latency'] * 1e6:.0f} us, {figures['bandwidth'] / 1e9:.2f} GB/s",
            flush=True,
        )


if __name__ == "__main__":
    network() if sys.argv[1] == "--network" else main(Path(sys.argv[1]))
