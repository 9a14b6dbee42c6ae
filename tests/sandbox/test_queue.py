"""The bounded queue: callers wait while it is full, except on the judge's own thread."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from stepcoder.sandbox import (
    CallTests,
    Custom,
    Judge,
    Limits,
    Program,
    Status,
    Submission,
    Verdict,
)
from stepcoder.sandbox.admission import FairSemaphore

QUICK = Program("def f(x): return x + 1", "f")
TESTS = CallTests(([1],), (2,))
SPIN = Program("def f(x):\n    while True: pass", "f")
ENDLESS = Limits(cpu_s=600.0, wall_s=600.0)


@pytest.fixture
def full() -> Iterator[tuple[Judge, list[Future[Verdict]]]]:
    """Give a judge with room for two programs, and two that never end."""
    with Judge(workers=1, limits=ENDLESS, max_queued=2) as judge:
        yield judge, [judge.submit(SPIN, TESTS) for _ in range(2)]


def test_submit_blocks_while_the_queue_is_full(
    full: tuple[Judge, list[Future[Verdict]]],
) -> None:
    judge, spins = full
    entered = threading.Event()
    futures = []

    def submit() -> None:
        futures.append(judge.submit(QUICK, TESTS))
        entered.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not entered.wait(0.3)
    assert spins[0].cancel()  # cancelling makes room
    assert entered.wait(10.0)
    thread.join()
    assert not futures[0].done()
    assert spins[1].cancel()
    assert futures[0].result(timeout=30.0).passed


def test_closing_wakes_who_waits_for_room(full: tuple[Judge, list[Future[Verdict]]]) -> None:
    judge, spins = full
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(judge.submit, QUICK, TESTS) for _ in range(4)]
        time.sleep(0.3)
        assert not any(future.done() for future in waiting)
        judge.close()
        for future in waiting:
            with pytest.raises(RuntimeError, match="closed"):
                future.result(timeout=10.0)
    assert {spin.result(timeout=0).status for spin in spins} == {Status.INFRASTRUCTURE_ERROR}


def test_the_event_loop_goes_on_while_tasks_wait_for_room(
    full: tuple[Judge, list[Future[Verdict]]],
) -> None:
    judge, spins = full

    async def run() -> Verdict:
        waiting = asyncio.create_task(judge.run_async(QUICK, TESTS))
        given_up = asyncio.create_task(judge.run_async(QUICK, TESTS))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        for spin in spins:
            spin.cancel()
        return await asyncio.wait_for(waiting, 30.0)

    assert asyncio.run(run()).passed
    assert judge.run(QUICK, TESTS).passed


def test_async_tasks_that_wait_for_room_hear_of_the_end(
    full: tuple[Judge, list[Future[Verdict]]],
) -> None:
    judge, _ = full

    async def run() -> None:
        waiting = asyncio.create_task(judge.run_async(QUICK, TESTS))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(judge.close)
        with pytest.raises(RuntimeError, match="closed"):
            await waiting

    asyncio.run(run())


def test_a_callback_may_submit_however_full_the_queue_is() -> None:
    with Judge(workers=1, max_queued=1) as judge:
        done: Future[Verdict] = Future()

        def again(future: Future[Verdict], left: int = 20) -> None:
            if left == 0:
                done.set_result(future.result())
                return
            follower = judge.submit(QUICK, TESTS)
            other = judge.submit(QUICK, TESTS)  # one more than there is room for
            other.add_done_callback(lambda _: None)
            follower.add_done_callback(lambda f: again(f, left - 1))

        judge.submit(QUICK, TESTS).add_done_callback(again)
        assert done.result(timeout=60.0).passed
        assert judge.run(QUICK, TESTS).passed


@pytest.mark.parametrize("size", [1, 3])
def test_many_threads_pass_through_a_small_queue(size: int) -> None:
    checked = CallTests(([1],), (2,), checker=Custom("def check(i, e, got): return got == e"))
    with Judge(workers=2, max_queued=size) as judge, ThreadPoolExecutor(16) as pool:
        jobs = [TESTS, checked] * 40
        verdicts = list(pool.map(lambda tests: judge.run(QUICK, tests), jobs))
    assert all(verdict.passed for verdict in verdicts)


def test_refused_submissions_take_no_room() -> None:
    with Judge(workers=1, max_queued=1) as judge:
        for _ in range(3):
            with pytest.raises(ValueError, match="no tests"):
                judge.submit(QUICK, CallTests((), ()))
            assert judge.run(Program("#" * (9 << 20), "f"), TESTS).status is Status.COMPILE_ERROR
        assert judge.run(QUICK, TESTS).passed


def test_map_and_its_twin_stay_lazy_in_a_small_queue() -> None:
    taken = itertools.count()
    submissions = (Submission(QUICK, TESTS, tag=next(taken)) for _ in itertools.count())

    async def first(inputs: Iterator[Submission], count: int) -> list[int]:
        verdicts: AsyncIterator[tuple[int, Verdict]] = judge.map_async(inputs)
        return [(await anext(verdicts))[0] for _ in range(count)]

    with Judge(workers=1, max_queued=2) as judge:
        seen = [index for index, _ in itertools.islice(judge.map(submissions), 20)]
        assert sorted(seen) == list(range(20))
        assert next(taken) <= 20 + 4 + 1
        assert sorted(asyncio.run(first(submissions, 20))) == list(range(20))
        assert judge.run(QUICK, TESTS).passed


def test_a_queue_needs_room_for_one() -> None:
    with pytest.raises(ValueError, match="max_queued is 0"):
        Judge(max_queued=0)


def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    semaphore = FairSemaphore(1)
    semaphore.acquire()

    async def run() -> list[int]:
        order: list[int] = []

        async def enter(number: int) -> None:
            await semaphore.acquire_async()
            order.append(number)
            semaphore.release()

        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(enter(number)))
            await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        semaphore.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert asyncio.run(run()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    semaphore.acquire()


def test_a_place_that_comes_as_its_task_is_cancelled_is_not_lost() -> None:
    async def run() -> None:
        for _ in range(50):
            semaphore = FairSemaphore(1)
            semaphore.acquire()
            task = asyncio.create_task(semaphore.acquire_async())
            await asyncio.sleep(0)
            semaphore.release()  # gives the place to the task
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(semaphore.acquire_async(), 5.0)

    asyncio.run(run())
