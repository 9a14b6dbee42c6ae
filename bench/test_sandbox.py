"""The judge against other executors: runs a second, latency, memory, coverage, a long queue, start.

One program at a time (concurrency 1) or two; peers run in a pool of as many processes, which is how
their own harnesses use them. Every row has the load average, to tell whether the machine was quiet.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sandbox_peers

from stepcoder.sandbox import CallTests, Judge, Limits, Program, StdinTests, Submission

pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).parents[1]
SECONDS = 2.0
TRIVIAL = Submission(Program(sandbox_peers.RIGHT, "f"), CallTests(([1],), (2,)))
STDIN = Submission(
    Program("print(sum(map(int, input().split())))"),
    StdinTests(tuple(f"{i} {i + 1}" for i in range(10)), tuple(str(2 * i + 1) for i in range(10))),
)

# CPU-heavy bodies: loops, calls, strings, dicts, numbers.
HEAVY = {
    "loops": "    s = 0\n    for i in range(400 * n):\n        s += i * i % 7\n    return s\n",
    "calls": "    def g(k):\n        return k if k < 2 else g(k - 1) + g(k - 2)\n"
    "    return [g(14) for _ in range(n // 10)][-1]\n",
    "strings": "    t = ''\n    for i in range(60 * n):\n        t = (t + str(i))[-99:]\n"
    "    return t\n",
    "dicts": "    d = {}\n    for i in range(150 * n):\n"
    "        d[i % 997] = d.get(i % 997, 0) + i\n"
    "    return sum(d.values())\n",
    "sieve": "    p = [True] * (60 * n)\n    for i in range(2, len(p)):\n        if p[i]:\n"
    "            for j in range(i * i, len(p), i):\n                p[j] = False\n"
    "    return sum(p)\n",
}
SIZE = 500


def record(benchmark: Any, **row: object) -> None:
    benchmark.extra_info.update(
        python=sys.version.split()[0], cpus=os.cpu_count(), load=os.getloadavg()[0], **row
    )
    benchmark.pedantic(lambda: None, rounds=1)


def endless(submission: Submission, seconds: float) -> Iterator[Submission]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield submission


def rate(judge: Judge, submission: Submission, seconds: float = SECONDS) -> float:
    assert judge.run(submission.program, submission.tests).passed
    began = time.monotonic()
    passed = sum(verdict.passed for _, verdict in judge.map(endless(submission, seconds)))
    return passed / (time.monotonic() - began)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_runs_a_second(benchmark, concurrency):
    with Judge(workers=concurrency) as judge:
        runs = rate(judge, TRIVIAL)
    record(benchmark, figure="runs", provider="ours", concurrency=concurrency, runs_per_s=runs)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("name", sandbox_peers.NAMES)
def test_runs_a_second_of_a_peer(benchmark, name, concurrency):
    command = [sys.executable, sandbox_peers.__file__, name, str(concurrency), str(SECONDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0
    runs = float(done.stdout.splitlines()[-1])
    record(benchmark, figure="runs", provider=name, concurrency=concurrency, runs_per_s=runs)


@pytest.mark.parametrize("name", ["trivial", "stdin, 10 tests"])
def test_latency(benchmark, name):
    submission = TRIVIAL if name == "trivial" else STDIN
    times = []
    with Judge(workers=1) as judge:
        for _ in range(20 + 500):
            began = time.perf_counter()
            assert judge.run(submission.program, submission.tests).passed
            times.append(1e3 * (time.perf_counter() - began))
    cuts = statistics.quantiles(times[20:], n=100)
    record(benchmark, figure="latency", program=name, p50_ms=cuts[49], p99_ms=cuts[98])


def _resident(pid: int) -> int:
    """Bytes that this process alone would give back (proportional share of what is shared)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_below(child)]
    return found


def test_memory_of_a_worker(benchmark):
    with Judge(workers=1) as judge:
        for _ in range(100):
            assert judge.run(TRIVIAL.program, TRIVIAL.tests).passed
        size = sum(map(_resident, _below(os.getpid())))
    record(benchmark, figure="memory", worker_mib=size / 2**20)


def test_ten_thousand_queued_programs(benchmark):
    with Judge(workers=2) as judge:
        few = rate(judge, TRIVIAL)
        began = time.monotonic()
        futures = [judge.submit_all(TRIVIAL) for _ in range(10_000)]
        queued_s = time.monotonic() - began
        assert all(future.result().passed for future in futures)
        many = 10_000 / (time.monotonic() - began)
    record(benchmark, figure="queue", few_per_s=few, many_per_s=many, queued_s=queued_s)


def test_first_verdict(benchmark):
    script = (
        "from stepcoder.sandbox import CallTests, Judge, Program\n"
        "with Judge(workers=1) as judge:\n"
        "    assert judge.run(Program('def f(x): return x', 'f'), CallTests(([1],), (1,))).passed\n"
    )
    times = []
    for _ in range(11):
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment)
        times.append(time.monotonic() - began)
    record(benchmark, figure="start", first_verdict_s=statistics.median(times[1:]))


COVERAGE = {
    "plain": ("", ""),
    "coverage.py": (
        "import coverage\nc = coverage.Coverage(data_file=None, include=['*/body.py'])\n"
        "c.start()\n",
        "c.stop()\n",
    ),
    "slipcover": (
        "import slipcover\nc = slipcover.Slipcover()\n",
        "",
    ),
}


def _timed_alone(tool: str, source: str, folder: Path) -> float:
    """CPU seconds of f(SIZE) under a coverage tool, in a process of its own."""
    (folder / "body.py").write_text(source)
    start, stop = COVERAGE[tool]
    load = f"namespace = {{}}\ncode = compile(open({str(folder / 'body.py')!r}).read(), "
    load += f"{str(folder / 'body.py')!r}, 'exec')\n"
    if tool == "slipcover":
        load += "code = c.instrument(code)\n"
    script = (
        f"import time\n{start}{load}exec(code, namespace)\n"
        f"t = time.process_time()\nnamespace['f']({SIZE})\nt = time.process_time() - t\n"
        f"{stop}print(t)\n"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(done.stderr.splitlines()[-1])
        times.append(float(done.stdout))
    return min(times)


@pytest.mark.parametrize("tool", ["ours", "coverage.py", "slipcover"])
def test_coverage_overhead(benchmark, tool, tmp_path):
    slowdowns = {}
    with Judge(workers=1, limits=Limits(cpu_s=30.0, wall_s=60.0)) as judge:
        for name, body in HEAVY.items():
            source = f"def f(n):\n{body}"
            plain = _timed_alone("plain", source, tmp_path)
            if tool == "ours":
                program = Program(source, "f")
                tests = CallTests(([SIZE],), (None,))  # any value: only its time counts
                took = min(judge.run(program, tests).tests[0].cpu_s for _ in range(3))
            else:
                took = _timed_alone(tool, source, tmp_path)
            slowdowns[name] = took / plain
    mean = math.exp(statistics.fmean(map(math.log, slowdowns.values())))
    record(benchmark, figure="coverage", provider=tool, slowdown=mean, each=json.dumps(slowdowns))
