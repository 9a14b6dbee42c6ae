"""Two thousand hostile and honest programs at once: nothing forged, harmed, hung or left behind.

`python bench/sandbox_bulk.py` runs the same mix for longer, with programs that sleep.
"""

from __future__ import annotations

from attacks.test_dodging import HARNESS, SCRATCH, STATE
from attacks.test_escape import CALLS, OUTSIDE
from attacks.test_exhaustion import ATTACKS, COMPILE_BOMBS, HUGE_VALUES
from attacks.test_forging import FORGERIES as APART
from attacks.test_forging_in_process import FORGERIES as TOGETHER
from attacks.test_forging_in_process import ITS_OWN_TEST
from attacks.test_more_escapes import CRASHES
from helpers import bulk
from helpers.raw_memory import RAW_MEMORY

from stepcoder.sandbox import Judge, Status

# Bodies of a function. Without the newlines: four million lines are mutated slower than judged.
HOSTILE = {
    **{name: source for name, (source, _) in ATTACKS.items()},
    **{name: source for name, source in COMPILE_BOMBS.items() if name != "only newlines"},
    **{value: f"return {value}" for value in HUGE_VALUES},
    **{name: source for name, (source, _) in CRASHES.items()},
    **{call: f"import os\n{call}" for call in CALLS.values()},
    **dict(zip(OUTSIDE, OUTSIDE, strict=True)),
}
# Whole programs that meddle with their run: its phase, clock, lines, files, scratch and value.
_RETURNS = "\ndef f(x): return x\n"
DODGES = {
    **{name: f"import fcntl, os\n{source}{_RETURNS}" for name, source in (SCRATCH | STATE).items()},
    "enters phases": f"""{HARNESS}
def f(x):
    for phase in range(99): launcher.enter_phase(phase)
    while True: launcher.record_value(x, lambda value: value)
""",
    "a phase that never began": f"""{RAW_MEMORY}
def f(x):
    write(board() + PHASE, bytes(4))
    os._exit(113)
""",
    "a phase that did not compile": f"""{RAW_MEMORY}
def f(x):
    write(board() + PHASE, b'\\1\\0\\0\\0')
    raise ValueError
""",
    "lines that it claims": f"""{RAW_MEMORY}
def f(x):
    where = board()
    write(where + read('<Q', where + BITMAPS)[0], b'\\xff' * 16)
    return x
""",
    "a lock": """
import fcntl, os
lock = open(os.__file__)
fcntl.flock(lock, fcntl.LOCK_EX)
def f(x): return x
""",
    "says that its tests are broken": f"""{HARNESS}
launcher.record_error(('E', 'x', None, 'broken'))
os._exit(0)
""",
    "an error in a line that it lacks": f"""{HARNESS}
def f(x):
    launcher.record_error(('E', 'x', 10 ** 9999, None))
    os._exit(0)
""",
    "descriptors under way": """
import os, socket
pair = socket.socketpair()
descriptors = [os.dup(0) for _ in range(50)]
for _ in range(9): socket.send_fds(pair[0], [b'x'], descriptors)
def f(x): return x
""",
    "asks for a process of its own": f"""{HARNESS}
def f(x):
    launcher.record_error(('RefusedError', 'x', None, 'strict'))
    os._exit(0)
""",
    **{
        f"a value nested {depth} deep": f"""
def f(x):
    for _ in range({depth}): x = [x]
    return x
"""
        for depth in (198, 199, 200, 201, 100_000)
    },
    "many Nones": "def f(x): return [None] * 4_000_000\n",
    "one empty set many times": "def f(x): return [set()] * 2_000_000\n",
}
FORGERIES = (
    APART
    | {f"{name}, together": source for name, source in TOGETHER.items()}
    | {name: source for name, (source, _) in ITS_OWN_TEST.items()}
    | DODGES
)
LEAK_BYTES = 48 << 20
# Those that use up their wall limit are in test_exhaustion one by one.
SLEEPERS = {"sleep", "signal pause", "stop signal", "thread bomb", "many small threads"}


def test_a_mix_of_hostile_and_honest_programs() -> None:
    others = bulk.footprint()  # judges of other tests
    awake = {name: source for name, source in HOSTILE.items() if name not in SLEEPERS}
    with Judge(workers=2) as judge:
        # Four kinds of two workers, each with a child that waits.
        before = bulk.warm_up(judge, others.processes + 4 * 2 * 2, FORGERIES, awake)
        found = bulk.run(judge, bulk.programs(0, 2000, FORGERIES, awake))
        after = bulk.footprint_since(before, LEAK_BYTES)
    assert not found.broken, found.broken[:5]
    assert found.statuses.total() == 2000
    assert not found.statuses[Status.NOT_RUN]  # each has a verdict of its own
    assert before.scratch_files == 0
    assert after.is_within(before, LEAK_BYTES), (before, after)
    left = bulk.footprint()
    assert left.processes <= others.processes
    assert left.cgroups <= others.cgroups
