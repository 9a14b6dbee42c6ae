"""The judge as a resource: streaming, threads, crashes of its workers, nothing left behind."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import cgroups

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    IsolationError,
    Judge,
    Limits,
    Program,
    Status,
    StdinTests,
    Submission,
    _launcher,
)

PROGRAM = Program("def f(x): return x + 1", "f")
ROOT = Path(__file__).parents[2]


def children() -> set[str]:
    """Return the ids of all processes below this one."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        stack = (task / "children").read_text().split()
        while stack:
            pid = stack.pop()
            found.add(pid)
            for below in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    stack += below.read_text().split()
                except OSError:
                    continue
    return found


def test_a_closed_judge_leaves_no_process_descriptor_thread_or_cgroup() -> None:
    def use() -> None:
        with Judge(workers=2) as judge:
            spin = Program("while True: pass")
            judge.submit(spin, StdinTests(("",), ("",)))
            assert judge.run(PROGRAM, CallTests(([1],), (2,))).passed

    use()  # whatever is loaded once is loaded now

    def held() -> tuple[object, ...]:
        descriptors = len(os.listdir("/proc/self/fd"))
        return children(), descriptors, threading.active_count(), cgroups.of_judge()

    before = held()
    for _ in range(3):
        use()
    assert held() == before


def test_what_is_waiting_when_the_judge_closes_is_not_judged() -> None:
    judge = Judge(workers=1)
    futures = [judge.submit(PROGRAM, CallTests(([1],), (2,))) for _ in range(200)]
    judge.close()
    statuses = {future.result(timeout=0).status for future in futures}
    assert statuses <= {Status.ACCEPTED, Status.INFRASTRUCTURE_ERROR}
    with pytest.raises(RuntimeError, match="closed"):
        judge.submit(PROGRAM, CallTests(([1],), (2,)))


def test_a_forgotten_judge_closes_itself() -> None:
    before = children()
    judge = Judge(workers=1)
    assert judge.run(PROGRAM, CallTests(([1],), (2,))).passed
    assert children() != before
    del judge
    assert children() == before


def test_map_streams_and_reads_only_a_little_ahead(judge: Judge) -> None:
    taken = []

    def submissions() -> Iterator[Submission]:
        for i in range(60):
            taken.append(i)
            yield Submission(PROGRAM, CallTests(([i],), (i + 1,)))

    seen = set()
    for index, verdict in judge.map(submissions()):
        assert verdict.passed
        seen.add(index)
        assert len(taken) - len(seen) <= 4 * judge.workers
    assert seen == set(range(60))


def test_many_threads_may_use_one_judge(judge: Judge) -> None:
    with ThreadPoolExecutor(8) as pool:
        verdicts = pool.map(lambda i: judge.run(PROGRAM, CallTests(([i],), (i + 1,))), range(64))
        assert all(verdict.passed for verdict in verdicts)


def test_a_killed_worker_is_replaced_and_its_run_repeated() -> None:
    with Judge(workers=1) as judge:
        assert judge.run(PROGRAM, CallTests(([1],), (2,))).passed
        slow = Program("import time\ndef f(x):\n    time.sleep(0.5)\n    return x\n", "f")
        future = judge.submit(slow, CallTests(([1],), (1,)))
        time.sleep(0.2)
        for pid in Path("/proc/self/task").glob("*/children"):
            for worker in pid.read_text().split():
                os.kill(int(worker), signal.SIGKILL)
        assert future.result().passed


def test_a_worker_that_cannot_start_is_an_infrastructure_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Judge(workers=1) as judge:
        verdict = judge.run(PROGRAM, CallTests(([1],), (2,)))
    assert verdict.status is Status.INFRASTRUCTURE_ERROR
    assert not verdict.passed


def test_no_program_waits_for_a_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/missing/python")
    with Judge(workers=2) as judge:
        futures = [judge.submit(PROGRAM, CallTests(([1],), (2,))) for _ in range(50)]
        statuses = {future.result(timeout=20).status for future in futures}
    assert statuses == {Status.INFRASTRUCTURE_ERROR}


def test_a_fork_of_the_caller_is_told_to_make_its_own_judge() -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from stepcoder.sandbox import *
judge = Judge(workers=1)
program, tests = Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,))
assert judge.run(program, tests).passed
pid = os.fork()
if pid == 0:
    try: judge.run(program, tests)
    except RuntimeError as error: sys.exit(0 if "parent" in str(error) else 2)
    sys.exit(3)
assert os.waitpid(pid, 0)[1] == 0
assert judge.run(program, tests).passed
judge.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_importing_the_sandbox_imports_neither_torch_nor_numpy() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import stepcoder.sandbox; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_interpreter_that_exits_without_closing_does_not_hang() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from stepcoder.sandbox import *
judge = Judge(workers=1)
assert judge.run(Program("def f(x): return x + 1", "f"), CallTests(([1],), (2,))).passed
judge.submit(Program("while True: pass"), StdinTests(("",), ("",)))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_run_whose_worker_dies_twice_is_an_infrastructure_error() -> None:
    with Judge(workers=1) as judge:
        slow = Program("import time\ndef f(x):\n    time.sleep(5)\n    return x\n", "f")
        future = judge.submit(slow, CallTests(([1],), (1,)))
        while not future.done():
            for below in Path("/proc/self/task").glob("*/children"):
                for worker in below.read_text().split():
                    os.kill(int(worker), signal.SIGKILL)
            time.sleep(0.05)
        assert future.result().status is Status.INFRASTRUCTURE_ERROR
        assert judge.run(PROGRAM, CallTests(([1],), (2,))).passed


def endless() -> Iterator[Submission]:
    return (Submission(PROGRAM, CallTests(([i],), (i + 1,))) for i in itertools.count())


def test_map_takes_an_endless_input(judge: Judge) -> None:
    verdicts = list(itertools.islice(judge.map(endless()), 50))
    assert all(verdict.passed for _, verdict in verdicts)


def test_map_async_takes_endless_inputs_of_both_kinds(judge: Judge) -> None:
    async def asynchronous() -> AsyncIterator[Submission]:
        for submission in endless():
            yield submission

    async def first(count: int, inputs: Iterator[Submission] | AsyncIterator[Submission]) -> int:
        passed = 0
        async for _, verdict in judge.map_async(inputs):
            passed += verdict.passed
            if passed == count:
                break
        return passed

    assert asyncio.run(first(30, endless())) == 30
    assert asyncio.run(first(30, asynchronous())) == 30


def test_map_async_yields_every_position_once(judge: Judge) -> None:
    async def positions() -> list[int]:
        inputs = itertools.islice(endless(), 40)
        return sorted([index async for index, _ in judge.map_async(inputs)])

    assert asyncio.run(positions()) == list(range(40))


def test_run_async_can_be_cancelled_and_the_judge_goes_on(judge: Judge) -> None:
    async def cancelled() -> bool:
        spin = Program("while True: pass")
        try:
            await asyncio.wait_for(judge.run_async(spin, StdinTests(("",), ("",))), 0.1)
        except TimeoutError:
            return (await judge.run_async(PROGRAM, CallTests(([1],), (2,)))).passed
        return False

    assert asyncio.run(cancelled())


SPIN = Program("def f():\n    while True: pass", "f")
ENDLESS = Limits(cpu_s=600.0, wall_s=600.0)


def test_cancelling_ends_a_program_that_runs_and_forgets_one_that_waits() -> None:
    with Judge(workers=1, limits=ENDLESS) as judge:
        assert judge.run(PROGRAM, CallTests(([1],), (2,))).passed
        running = judge.submit(SPIN, CallTests(([],), (0,)))
        waiting = [judge.submit(SPIN, CallTests(([],), (0,))) for _ in range(3)]
        time.sleep(0.1)
        assert all(future.cancel() for future in [running, *waiting])
        # The only worker is free again, ten minutes before the limits would have freed it.
        assert judge.submit(PROGRAM, CallTests(([1],), (2,))).result(timeout=60.0).passed


def test_cancelling_ends_both_processes_of_an_assert_test() -> None:
    with Judge(workers=1, limits=ENDLESS) as judge:
        tests = AssertTests(("assert f() == 1",))
        future = judge.submit(SPIN, tests)
        while not future.cancelled():
            time.sleep(0.3)
            future.cancel()
        passing = Program("def f(): return 1", "f")
        assert judge.submit(passing, tests).result(timeout=60.0).passed


def test_closing_the_iterator_of_map_ends_what_still_runs() -> None:
    with Judge(workers=2, limits=ENDLESS) as judge:
        first = Submission(PROGRAM, CallTests(([1],), (2,)))
        spins = itertools.repeat(Submission(SPIN, CallTests(([],), (0,))))
        verdicts = judge.map(itertools.chain([first], spins))
        assert next(verdicts)[1].passed
        verdicts.close()  # type: ignore[attr-defined]
        assert judge.submit_all(first).result(timeout=60.0).passed


def test_full_isolation_is_refused_where_a_layer_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refused(_launcher.EventLoop):
        missing_layers = 4

    monkeypatch.setattr(_launcher, "EventLoop", Refused)
    with pytest.raises(IsolationError, match="a network namespace"):
        Judge(workers=1, isolation="full")
