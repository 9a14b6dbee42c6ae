"""The judge against other executors: `pytest bench/test_sandbox.py`, under five minutes.

Speed, latency, coverage, memory, a long queue, start, whole problem sets. Prints one table and
writes bench/results/sandbox-DATE.json and plots. A peer that is not installed is left out and named
(bench/setup_peers.sh brings all). BENCH_PYTHONS: further interpreters for the cost of coverage.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sandbox_peers
import sandbox_report

from stepcoder.problems.problem import load_problems, program_of
from stepcoder.sandbox import CallTests, Judge, Limits, Program, StdinTests, Submission

pytestmark = pytest.mark.filterwarnings("default")

# Peers that start an interpreter would otherwise compile at each start what others have cached.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("STEPCODER_DATA", ROOT.parent / "shared" / "data"))
SECONDS = 2.0
ROUNDS = 3
QUEUED = 10_000
TRIVIAL = Submission(Program(sandbox_peers.RIGHT, "f"), CallTests(([1],), (2,)))
SUM = Program("print(sum(map(int, input().split())))")
LINES = tuple(f"{i} {i + 1}" for i in range(10))
PASSING = Submission(SUM, StdinTests(LINES, tuple(str(2 * i + 1) for i in range(10))))
FAILING = Submission(SUM, StdinTests(LINES, tuple(str(-i - 1) for i in range(10))))

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[Rows]:
    """Every figure that was measured; at the end a table, a file and plots."""
    found: Rows = []
    load = os.getloadavg()[0]
    yield found
    if not found:
        return
    RESULTS.mkdir(exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"sandbox-{date}.json"
    machine = {
        "machine": f"{os.cpu_count()}-core {os.uname().machine}",
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load_before": load,
        "date": date,
    }
    path.write_text(json.dumps({**machine, "rows": found}, indent=1) + "\n")
    sandbox_report.plots(found, path)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\n" + "\n".join(sandbox_report.table(found)))
        print(f"\nload average before: {load:.1f}; written to {path} and plots beside it")


def endless(submission: Submission, seconds: float) -> Iterator[Submission]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield submission


def rate(judge: Judge, seconds: float = SECONDS) -> float:
    assert all(verdict.passed for _, verdict in judge.map([TRIVIAL] * 100))  # starts the workers
    began = time.monotonic()
    passed = sum(verdict.passed for _, verdict in judge.map(endless(TRIVIAL, seconds)))
    return passed / (time.monotonic() - began)


def peer_rate(name: str, concurrency: int) -> float:
    command = [sys.executable, sandbox_peers.__file__, name, str(concurrency), str(SECONDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0
    return float(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_runs_a_second(rows: Rows, concurrency: int) -> None:
    with Judge(workers=concurrency) as judge:
        runs = statistics.median(rate(judge) for _ in range(ROUNDS))
    rows.append({"figure": "runs", "who": "ours", "concurrency": concurrency, "per_s": runs})


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("name", sandbox_peers.NAMES)
def test_runs_a_second_of_a_peer(rows: Rows, name: str, concurrency: int) -> None:
    runs = peer_rate(name, concurrency)
    rows.append({"figure": "runs", "who": name, "concurrency": concurrency, "per_s": runs})


@pytest.mark.parametrize(
    ("name", "submission"),
    [("one call", TRIVIAL), ("10 stdin tests, pass", PASSING), ("10 stdin tests, fail", FAILING)],
)
def test_latency(rows: Rows, name: str, submission: Submission) -> None:
    count = 1000 if submission is TRIVIAL else 300
    times = []
    with Judge(workers=1) as judge:
        for _ in range(20 + count):
            began = time.perf_counter()
            verdict = judge.run(submission.program, submission.tests)
            times.append(1e3 * (time.perf_counter() - began))
            assert verdict.passed is (submission is not FAILING)
            assert "not run" not in {test.status for test in verdict.tests}
    cuts = statistics.quantiles(times[20:], n=100)
    rows.append({"figure": "latency", "name": name, "percentiles_ms": cuts})


def memory_kib(pid: int | str, field: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(field)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(c) for task in tasks for c in (task / "children").read_text().split()]


def test_memory_of_a_worker(rows: Rows) -> None:
    # With the child that waits for the worker's next run.
    with Judge(workers=2) as judge:
        list(judge.map([TRIVIAL] * 200))
        workers = children(os.getpid())
        assert len(workers) == 2
        processes = workers + [child for worker in workers for child in children(worker)]
        assert len(processes) == 4
        pss = sum(memory_kib(pid, "Pss") for pid in processes) / 2 / 1024
        dirty = sum(memory_kib(pid, "Pss_Dirty") for pid in processes) / 2 / 1024
    rows.append({"figure": "memory", "pss_mib": pss, "private_mib": dirty})


def test_ten_thousand_queued_programs(rows: Rows) -> None:
    with Judge(workers=2) as judge:
        few = rate(judge)
        before = memory_kib("self", "Rss")
        began = time.monotonic()
        futures = [judge.submit_all(TRIVIAL) for _ in range(QUEUED)]
        queued_s = time.monotonic() - began
        queued_kib = memory_kib("self", "Rss") - before
        assert all(future.result().passed for future in futures)
        many = QUEUED / (time.monotonic() - began)
    rows.append(
        {
            "figure": "queue",
            "programs": QUEUED,
            "few_per_s": few,
            "many_per_s": many,
            "submit_s": queued_s,
            "memory_mib": queued_kib / 1024,
        }
    )


def test_import_and_first_verdict(rows: Rows) -> None:
    script = (
        "from stepcoder.sandbox import CallTests, Judge, Program\n"
        "with Judge(workers=1) as judge:\n"
        "    assert judge.run(Program('def f(x): return x', 'f'), CallTests(([1],), (1,))).passed\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for who, code in (("ours", script), ("python -c pass", "pass")):
        times = []
        for _ in range(11):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            times.append(time.monotonic() - began)
        rows.append({"figure": "start", "who": who, "seconds": statistics.median(times[1:])})


def submissions_of(*names: str) -> list[Submission]:
    if not DATA.is_dir():
        pytest.skip(f"no problem sets at {DATA} (set STEPCODER_DATA)")
    problems = [p for name in names for p in load_problems(DATA / name).problems]
    return [Submission(program_of(p, p.canonical_solution), p.tests) for p in problems]


def seconds_of(submissions: Sequence[Submission]) -> tuple[float, int]:
    """Return the median time of a few rounds after one to warm up, and how many passed."""
    times = []
    with Judge(workers=2, limits=Limits(cpu_s=10.0, wall_s=60.0)) as judge:
        for _ in range(1 + ROUNDS):
            began = time.monotonic()
            passed = sum(verdict.passed for _, verdict in judge.map(submissions))
            times.append(time.monotonic() - began)
    return statistics.median(times[1:]), passed


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("HumanEval", ["humaneval.jsonl"]),
        ("HumanEval + MBPP", ["humaneval.jsonl", "mbpp.jsonl"]),
    ],
)
def test_canonical_solutions(rows: Rows, name: str, files: list[str]) -> None:
    submissions = submissions_of(*files)
    seconds, passed = seconds_of(submissions)
    row = {"name": name, "seconds": seconds, "passed": passed, "programs": len(submissions)}
    rows.append({"figure": "sets", **row})
    assert passed == len(submissions)


PYTHONS = [sys.executable, *filter(None, os.environ.get("BENCH_PYTHONS", "").split(":"))]


@pytest.mark.parametrize("python", PYTHONS)
def test_cost_of_executed_lines(rows: Rows, python: str) -> None:
    script = Path(sandbox_peers.__file__).with_name("sandbox_coverage.py")
    done = subprocess.run([python, str(script)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for who, each in found["slowdowns"].items():
        rows.append({"figure": "coverage", "who": who, "python": found["python"], "each": each})
