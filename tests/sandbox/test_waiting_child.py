"""A child that waits for its request has already written to the pages that every run writes to."""

import os
import time
from pathlib import Path

from helpers.processes import children_of

from stepcoder.sandbox import CallTests, Judge, Program

# Without that, a child has seven page faults before it waits: its stack, the code that confines it.
FEW = 20


def test_a_waiting_child_has_had_the_faults_of_a_run() -> None:
    before = set(children_of(os.getpid()))
    with Judge(workers=1) as judge:
        assert judge.run(Program("def f(x): return x", "f"), CallTests(([1],), (1,))).passed
        (worker,) = set(children_of(os.getpid())) - before
        until = time.monotonic() + 20
        while time.monotonic() < until and faults_of_waiting_child(worker) <= FEW:
            time.sleep(0.01)
        assert faults_of_waiting_child(worker) > FEW


def faults_of_waiting_child(worker: int) -> int:
    """Return the page faults of a worker's waiting child, 0 if none waits this moment."""
    for child in children_of(worker):
        name, _, fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")
        if name.partition("(")[2] == "sc-ready":
            return int(fields.split()[7])  # proc(5): minflt
    return 0
