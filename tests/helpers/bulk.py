"""A mix of hostile and honest programs: mutated attacks, and checks of all verdicts.

Takes a seed and a count, gives submissions with the verdict that an honest one must get, and checks
a judge with them: nothing forged, nobody harmed, nothing left behind.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers import cgroups

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Checker,
    Custom,
    Exact,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Submission,
    Tests,
    Tolerance,
    UnittestTests,
    Unordered,
)

# Occurs in no program of the suite, so that none finds it in its own source.
SECRET = 8_352_907_416
LIMITS = Limits(cpu_s=0.02, wall_s=0.5, memory_bytes=64 << 20, output_bytes=1 << 14)
# Many times the limits, for busy machines.
HANG_S = 30.0
HONEST_LIMITS = Limits(cpu_s=10.0, wall_s=120.0)

CHECKERS: tuple[Checker | None, ...] = (
    None,
    Exact(),
    Tolerance(),
    Unordered(),
    Custom("def check(input, expected, got): return got == expected"),
)
UNITTEST = """
import unittest
class T(unittest.TestCase):
    def test(self):
        got = f({x})
        self.assertEqual(got, {right})
"""

HONEST = (
    "def f(x):\n    return x * 2 + 1\n",
    "def f(x):\n    s = 1\n    for _ in range(x):\n        s += 2\n    return s\n",
    "import math\ndef f(x): return math.gcd(2 * x + 1, 2 * x + 1)\n",
    "def f(x):\n    d = {i: 2 * i + 1 for i in range(50)}\n    return d[x]\n",
    "from functools import lru_cache\n@lru_cache(None)\n"
    "def g(n): return 1 if n == 0 else g(n - 1) + 2\ndef f(x): return g(x)\n",
    "class A:\n    def __init__(self, x): self.x = x\n    def go(self): return self.x * 2 + 1\n"
    "def f(x): return A(x).go()\n",
)


@dataclass(frozen=True, slots=True)
class Mixed:
    """One program of the mix; an honest one must be accepted, a hostile one never."""

    submission: Submission
    honest: bool
    name: str


def programs(
    seed: int | str, count: int, forgeries: Mapping[str, str], attacks: Mapping[str, str]
) -> Iterator[Mixed]:
    """Yield `count` programs; the same for the same seed.

    Half are honest, two in five forgeries, one in ten attacks on the machine, which take the most
    time: each may use 20 ms of CPU, or half a second if it sleeps.
    """
    rng = random.Random(seed)
    forgery_names, attack_names = sorted(forgeries), sorted(attacks)
    for _ in range(count):
        if rng.random() < 0.5:
            yield _honest(rng)
        elif rng.random() < 0.8:
            name = rng.choice(forgery_names)
            yield _hostile(rng, name, _mutated(rng, forgeries[name], forgeries))
        else:
            name = rng.choice(attack_names)
            lines = "".join(f"    {line}\n" for line in attacks[name].splitlines())
            yield _hostile(rng, name, _mutated(rng, f"def f(x):\n{lines}", forgeries))


def _honest(rng: random.Random) -> Mixed:
    source, x = rng.choice(HONEST), rng.randrange(50)
    right = 2 * x + 1
    choices: list[tuple[Program, Tests]] = [
        (Program(source, "f"), CallTests(([x], [1]), (right, 3))),
        (Program(source, "f"), AssertTests((f"assert f({x}) == {right}",))),
        (Program(source, "f"), AssertTests((f"got = f({x})\nassert got == {right}",))),
        (Program(source, "f"), UnittestTests(UNITTEST.format(x=x, right=right))),
        (
            Program(f"{source}print(f(int(input())))\n"),
            StdinTests((f"{x}\n",), (f"{right}\n",)),
        ),
    ]
    program, tests = rng.choice(choices)
    return Mixed(Submission(program, tests, HONEST_LIMITS), honest=True, name="honest")


def _hostile(rng: random.Random, name: str, source: str) -> Mixed:
    choices: list[Tests] = [
        CallTests(([2], [3]), (SECRET, SECRET), checker=rng.choice(CHECKERS)),
        AssertTests((f"assert f(2) == {SECRET}",)),
        AssertTests((f"got = f(2)\nassert got == {SECRET}",)),
        UnittestTests(UNITTEST.format(x=2, right=SECRET)),
        StdinTests(("2\n",), (f"{SECRET}\n",)),
    ]
    tests = rng.choice(choices)
    return Mixed(Submission(Program(source, "f"), tests, LIMITS), honest=False, name=name)


def _mutated(rng: random.Random, source: str, others: Mapping[str, str]) -> str:
    """Return a program cut, doubled, joined with another or wrapped, or as it is."""
    lines = source.splitlines(keepends=True)
    match rng.randrange(6):
        case 0:
            del lines[rng.randrange(len(lines))]
        case 1:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        case 2:
            return others[rng.choice(sorted(others))] + source
        case 3:
            guarded = "".join(f"    {line}" for line in lines)
            return f"try:\n{guarded}\nexcept BaseException: pass\n"
        case 4:
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class Found:
    """How often each status came, a line for each broken promise, the longest hostile program."""

    statuses: Counter[str]
    broken: list[str]
    longest_s: float


def run(judge: Judge, mix: Iterator[Mixed]) -> Found:
    """Judge a mix: honest programs must be accepted, hostile ones refused, and end."""
    kept: dict[int, Mixed] = {}

    def submissions() -> Iterator[Submission]:
        for index, mixed in enumerate(mix):
            kept[index] = mixed
            yield mixed.submission

    statuses: Counter[str] = Counter()
    broken = []
    longest_s = 0.0
    for index, verdict in judge.map(submissions()):
        mixed = kept.pop(index)
        statuses[str(verdict.status)] += 1
        if not mixed.honest:
            longest_s = max(longest_s, verdict.wall_s)
        what = ""
        if verdict.status is Status.INFRASTRUCTURE_ERROR:
            what = "infrastructure error"
        elif mixed.honest != verdict.passed:
            what = "harmed" if mixed.honest else "forged"
        elif not mixed.honest and verdict.wall_s > HANG_S:
            what = f"hung for {verdict.wall_s:.0f} s"
        source = mixed.submission.program.source
        lines = source.count("\n") + source.count("\r") + 1
        if max(verdict.executed_lines, default=0) > lines:
            what = "claimed lines"
        elif mixed.honest and (verdict.tampered or not verdict.executed_lines):
            what = "without lines"
        if what:
            program = str(mixed.submission)[:4000]
            broken.append(f"{what}: {mixed.name}: {verdict.status}: {verdict.message}: {program}")
    return Found(statuses, broken, longest_s)


def warm_up(
    judge: Judge, processes: int, forgeries: Mapping[str, str], attacks: Mapping[str, str]
) -> Footprint:
    """Run mixes until all kinds of workers are up: with and without numpy or tests."""
    for seed in range(1, 9):
        run(judge, programs(f"warm-up {seed}", 400, forgeries, attacks))
        found = footprint()
        if found.processes >= processes:
            break
    return found


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process holds: its descendants, descriptors, memory, scratch files, cgroups."""

    processes: int
    descriptors: int
    memory_bytes: int
    scratch_files: int
    cgroups: int

    def is_within(self, before: Footprint, leak_bytes: int) -> bool:
        """Return whether this is no more than before, but for some bytes; scratch is empty."""
        return (
            self.processes <= before.processes
            and self.descriptors <= before.descriptors
            and self.memory_bytes < before.memory_bytes + leak_bytes
            and self.scratch_files == 0
            and self.cgroups <= before.cgroups
        )


def footprint() -> Footprint:
    """Return what this process and those below it hold now."""
    below = descendants(os.getpid())
    pages = sum(_resident_pages(pid) for pid in (os.getpid(), *below))
    descriptors = sum(_entries(f"/proc/{pid}/fd") for pid in (os.getpid(), *below))
    return Footprint(
        processes=len(below),
        descriptors=descriptors,
        memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        scratch_files=_scratch_files(below),
        cgroups=len(cgroups.of_judge()),
    )


def footprint_since(before: Footprint, leak_bytes: int) -> Footprint:
    """Return the footprint once it is no more than before, at the latest after 5 s.

    A worker closes a run's channel a moment after it has reported.
    """
    for _ in range(50):
        after = footprint()
        if after.is_within(before, leak_bytes):
            break
        time.sleep(0.1)
    return after


def _scratch_files(pids: list[int]) -> int:
    """Count the entries of the scratch folders of processes that have one of their own.

    It is /scratch where libraries lie in /tmp, as in a clone there.
    """
    roots = [f"/proc/{pid}/root" for pid in pids if _own_root(pid)]
    folders = (f"{r}/scratch" if os.path.isdir(f"{r}/scratch") else f"{r}/tmp" for r in roots)
    return sum(map(_entries, folders))


def _own_root(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/root/tmp").st_dev != os.stat("/tmp").st_dev
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    except OSError:
        pass
    return found


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


def _entries(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return 0
