"""The attack suite in bulk: python bench/sandbox_bulk.py --count 100000 -o bulk.json.

Mixes mutated hostile programs with honest ones (tests/helpers/bulk.py) and reports how many were
forged, harmed, hung or left something behind; exit status 1 if any. The same command resumes where
it stopped.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from attacks.test_bulk import FORGERIES, HOSTILE  # noqa: E402
from helpers import bulk  # noqa: E402

from stepcoder.sandbox import Judge  # noqa: E402

SLICE = 1000
# A slice takes seconds; one that has not ended after this is a hang of the judge itself.
SLICE_PATIENCE_S = 900.0
LEAK_BYTES = 64 << 20


def main() -> int:
    """Run the mix in slices until the count or the time is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="programs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=120, help="stop after this time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("bulk.json"))
    arguments = parser.parse_args()
    state: dict[str, Any] = {
        "seed": arguments.seed,
        "done": 0,
        "seconds": 0.0,
        "statuses": {},
        "longest_s": 0.0,
        "broken": [],
        "leaks": [],
    }
    if arguments.output.exists():
        state = json.loads(arguments.output.read_text())
        if state["seed"] != arguments.seed:
            parser.error(f"{arguments.output} is of seed {state['seed']}; choose another -o")
    until = time.monotonic() + 60 * arguments.minutes
    closed_before = bulk.footprint()
    with Judge(arguments.workers) as judge:
        # Four kinds of workers, each with a child that waits.
        processes = closed_before.processes + 4 * 2 * arguments.workers
        before = bulk.warm_up(judge, processes, FORGERIES, HOSTILE)
        while state["done"] < arguments.count and time.monotonic() < until:
            _slice(judge, state, min(SLICE, arguments.count - state["done"]))
            state["leaks"] += _leaks(before)
            arguments.output.write_text(json.dumps(state, indent=1))
            rate = state["done"] / state["seconds"]
            left = (arguments.count - state["done"]) / rate / 60
            print(
                f"{state['done']} of {arguments.count}, {rate:.0f}/s, {left:.0f} min left, "
                f"{len(state['broken'])} broken promises, {len(state['leaks'])} leaks",
                flush=True,
            )
    closed = bulk.footprint()
    left_over = closed.processes - closed_before.processes + closed.cgroups - closed_before.cgroups
    print(json.dumps(state["statuses"]), f"longest hostile program: {state['longest_s']:.1f} s")
    print(
        *state["broken"],
        *state["leaks"],
        f"processes and cgroups left behind: {left_over}",
        sep="\n",
    )
    return int(bool(state["broken"] or state["leaks"] or left_over > 0))


def _slice(judge: Judge, state: dict[str, Any], count: int) -> None:
    began = time.monotonic()
    faulthandler.dump_traceback_later(SLICE_PATIENCE_S, exit=True)
    # A slice's programs depend on its start alone, so a resumed run draws the same ones.
    mix = bulk.programs(f"{state['seed']} {state['done']}", count, FORGERIES, HOSTILE)
    found = bulk.run(judge, mix)
    faulthandler.cancel_dump_traceback_later()
    for name, times in found.statuses.items():
        state["statuses"][name] = state["statuses"].get(name, 0) + times
    state["broken"] += found.broken
    state["longest_s"] = max(state["longest_s"], found.longest_s)
    state["done"] += count
    state["seconds"] += time.monotonic() - began


def _leaks(before: bulk.Footprint) -> list[str]:
    after = bulk.footprint_since(before, LEAK_BYTES)
    if after.is_within(before, LEAK_BYTES):
        return []
    return [f"leak: {asdict(before)} became {asdict(after)}"]


if __name__ == "__main__":
    sys.exit(main())
