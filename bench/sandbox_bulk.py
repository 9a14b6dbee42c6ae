"""The attack suite in bulk: python bench/sandbox_bulk.py --count 100000 [--seed 0] [--minutes 10].

Mixes mutated hostile programs with honest ones and says how many were forged, harmed or left behind
something; exit status 1 if any.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from attacks.test_bulk import HOSTILE  # noqa: E402
from attacks.test_forging import FORGERIES  # noqa: E402
from helpers import bulk  # noqa: E402

from stepcoder.sandbox import Judge  # noqa: E402

SLICE = 2000


def main() -> int:
    """Run the mix in slices until the count or the time is reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="programs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after this time")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    mix: Iterator[bulk.Mixed] = bulk.programs(arguments.seed, arguments.count, FORGERIES, HOSTILE)
    began, done, total, broken = time.monotonic(), 0, {}, []
    with Judge(arguments.workers) as judge:
        bulk.run(judge, bulk.programs(arguments.seed + 1, 60, FORGERIES, HOSTILE))
        before = bulk.footprint()
        while done < arguments.count and time.monotonic() - began < 60 * arguments.minutes:
            statuses, found = bulk.run(judge, islice(mix, SLICE))
            done += statuses.total()
            broken += found
            for name, count in statuses.items():
                total[name] = total.get(name, 0) + count
            rate = done / (time.monotonic() - began)
            print(f"{done} programs, {rate:.0f}/s, {len(broken)} broken promises", flush=True)
        after = bulk.footprint()
    left = bulk.footprint()
    print(json.dumps(total))
    print(f"before: {before}\nafter:  {after}\nclosed: {left.processes} processes")
    for line in broken:
        print(line)
    leaked = after.processes > before.processes or after.descriptors > before.descriptors
    leaked |= bool(after.scratch - before.scratch) or left.processes > 0
    return int(bool(broken) or leaked)


if __name__ == "__main__":
    sys.exit(main())
