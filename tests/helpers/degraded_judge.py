"""A judge in a process of its own, for machines that a test constructs around it.

`python degraded_judge.py` reads {"isolation", "programs": {name: [source, expected]}} from stdin
and prints one line of JSON: what is missing, what was logged, and each program's verdict. An honest
program follows each; "harmed" names those after which it was not accepted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from helpers.processes import children_of  # noqa: E402

from stepcoder.sandbox import (  # noqa: E402
    CallTests,
    IsolationError,
    Judge,
    Limits,
    Program,
    StdinTests,
)

HONEST = Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,))
LIMITS = Limits(cpu_s=0.5, wall_s=15.0, memory_bytes=128 << 20, output_bytes=1 << 16)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


def status_of_a_run(judge: Judge) -> dict[str, str]:
    """Return what the kernel says of a program's process while it sleeps; {} if it saw none."""
    sleep = Program("import time\ndef f(): time.sleep(2)", "f")
    future = judge.submit(sleep, CallTests(([],), (0,)))
    seen: dict[str, str] = {}
    while not future.done():
        for worker in children_of(os.getpid()):
            for run in children_of(worker):
                try:
                    lines = Path(f"/proc/{run}/status").read_text().splitlines()
                except OSError:  # it has ended
                    continue
                seen = dict(line.split(":\t", 1) for line in lines if ":\t" in line) or seen
        time.sleep(0.1)
    return seen


def main() -> None:
    """Judge what stdin asks for."""
    task = json.load(sys.stdin)
    log = Lines()
    logging.getLogger("stepcoder.sandbox").addHandler(log)
    logging.getLogger("stepcoder.sandbox").setLevel(logging.INFO)
    found: dict[str, object] = {"log": log.lines}
    statuses: dict[str, tuple[str, str]] = {}
    harmed = []
    try:
        with Judge(1, LIMITS, task.get("isolation", "warn")) as judge:
            first = judge.run(*HONEST)
            found["first"] = first.status, first.message
            for name, (source, expected) in task.get("programs", {}).items():
                if expected is None:  # a whole program
                    verdict = judge.run(Program(source), StdinTests(("",), ("never",)))
                else:
                    verdict = judge.run(Program(source, "f"), CallTests(([],), (expected,)))
                statuses[name] = verdict.status, verdict.message
                if not judge.run(*HONEST).passed:
                    harmed.append(name)
            if not statuses:
                found["run"] = status_of_a_run(judge)
            found["missing"] = judge._service.missing_layers()
            found["cgroups"] = judge._service._loop.cgroups.version
    except IsolationError as error:
        found["refused"] = str(error)
    print(json.dumps({**found, "statuses": statuses, "harmed": harmed}))


if __name__ == "__main__":
    main()
