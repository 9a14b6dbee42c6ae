"""A judge in a process of its own, for machines that a test constructs around it.

`python walls_judge.py` reads {"isolation", "programs": {name: [source, expected]}} from stdin and
prints one line of JSON: what is missing, what was logged, and each program's verdict. An honest
program follows each; "harmed" names those after which it was not accepted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from stepcoder.sandbox import (
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
            found["missing"] = judge._service.missing_layers()
            found["cgroups"] = judge._service._loop.cgroups.version
    except IsolationError as error:
        found["refused"] = str(error)
    print(json.dumps({**found, "statuses": statuses, "harmed": harmed}))


if __name__ == "__main__":
    main()
