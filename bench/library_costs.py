"""What each library of a judge costs: a worker's start and memory, and each run that imports it.

    python bench/library_costs.py numpy sortedcontainers sympy scipy pandas networkx

Times are CPU times of a worker and of the runs that it forked, which other load changes little. A
run calls a function that returns its argument; the first line has no import. Memory is the worker's
share (Pss), with the child that waits for the next run; a run's peak is what its verdict says, of
which the limit counts only what comes on top of the worker's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stepcoder.sandbox import CallTests, Judge, Limits, Program

RUNS = 200


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(c) for task in tasks for c in (task / "children").read_text().split()]


def cpu_ms(pid: int) -> float:
    """Return the CPU time of a process and of those children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    names = sys.argv[1:]
    print("| import | start, CPU ms | a run, CPU ms | worker, MiB | run's peak, MiB |")
    print("|---|---|---|---|---|")
    for name in ["", *names]:
        program = Program(f"import {name or 'sys'}\ndef f(x): return x", "f")
        tests, limits = CallTests(([1],), (1,)), Limits(wall_s=60.0)
        with Judge(1, limits, libraries=names) as judge:
            peak = judge.run(program, tests).peak_memory_bytes
            (worker,) = children(os.getpid())
            start = cpu_ms(worker)
            for _ in range(RUNS):
                assert judge.run(program, tests).passed
            run = (cpu_ms(worker) - start) / RUNS
            memory = sum(map(pss_mib, [worker, *children(worker)]))
        print(f"| {name or '-'} | {start:.0f} | {run:.2f} | {memory:.0f} | {peak / 2**20:.0f} |")


if __name__ == "__main__":
    main()
