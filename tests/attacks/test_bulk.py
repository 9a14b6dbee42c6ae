"""Two thousand hostile and honest programs at once: nothing forged, harmed, hung or left behind.

`python bench/sandbox_bulk.py` runs the same mix as long as one likes.
"""

from __future__ import annotations

from attacks.test_exhaustion import ATTACKS
from attacks.test_forging import FORGERIES
from helpers import bulk

from stepcoder.sandbox import Judge

# Those that use up their wall limit, by sleeping, are in test_exhaustion one by one.
SLEEPERS = {"sleep", "signal pause", "stop signal", "thread bomb"}
HOSTILE = {name: source for name, (source, _) in ATTACKS.items() if name not in SLEEPERS}


def test_a_mix_of_hostile_and_honest_programs() -> None:
    others = bulk.footprint().processes  # judges of other tests
    with Judge(workers=2) as judge:
        bulk.run(judge, bulk.programs(1, 60, FORGERIES, HOSTILE))  # both kinds of workers are up
        before = bulk.footprint()
        statuses, broken = bulk.run(judge, bulk.programs(0, 2000, FORGERIES, HOSTILE))
        after = bulk.footprint()
    assert not broken, broken[:5]
    assert statuses.total() == 2000
    assert after.processes <= before.processes
    assert after.descriptors <= before.descriptors
    assert after.scratch_files == before.scratch_files == 0
    assert after.memory_bytes < before.memory_bytes + (48 << 20)
    assert bulk.footprint().processes <= others
