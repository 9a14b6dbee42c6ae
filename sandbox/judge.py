"""The judge: takes programs with tests, gives verdicts."""

from __future__ import annotations

import itertools
import os
import queue
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, Self

from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.program import CallTests, Limits, Program, Submission, Tests
from stepcoder.sandbox.service import IsolationError, Service
from stepcoder.sandbox.verdict import Verdict


class Judge:
    """Judges programs, `workers` at a time. A context manager; every method is thread-safe.

    `workers` None means one per CPU that this process may use. `limits` apply to submissions that
    bring none of their own. If this machine refuses a layer of the sandbox, `isolation` "warn" logs
    which one and goes on, and "full" raises IsolationError. `hash_seed` is the programs' hash seed,
    on which the order of sets of texts depends. Programs and tests may import the `libraries`, by
    import name, beside the standard library; None means numpy, where it is installed.

    At most `max_queued` programs wait or run; beyond that `submit` blocks and the async methods
    wait. Callbacks of futures, which run on the judge's own thread, never wait.

    Cancelling a future, or the task that awaits a verdict, ends its program. After a fork, the
    child must make a judge of its own: the parent's raises RuntimeError there.
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits = Limits(),  # noqa: B008
        isolation: Literal["warn", "full"] = "warn",
        hash_seed: int = 0,
        max_queued: int = 10_000,
        libraries: Sequence[str] | None = None,
    ) -> None:
        """Start the event loop; workers start with the first jobs.

        Raises:
            IsolationError: `isolation` is "full" and this machine refuses a layer.
            LibraryError: one of the libraries is not installed.
            ValueError: `isolation` is neither "warn" nor "full", or `max_queued` is not positive.
        """
        if max_queued < 1:
            raise ValueError(f"max_queued is {max_queued}; it must be at least 1")
        if isolation not in ("warn", "full"):
            raise ValueError(f'isolation is {isolation!r}; it must be "warn" or "full"')
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits = limits
        full = isolation == "full"
        self._service = Service(
            self.workers, hash_seed, max_queued, Libraries(libraries), full_isolation=full
        )
        self._finalizer = weakref.finalize(self, self._service.close)
        if full:
            self._check_isolation()

    def _check_isolation(self) -> None:
        """Judge a program, which shows what this machine refuses."""
        try:
            verdict = self.run(Program("def f(): return 0", "f"), CallTests(([],), (0,)))
            if missing := self._service.missing_layers():
                raise IsolationError(missing)
            if not verdict.passed:
                raise IsolationError(f"a working sandbox ({verdict.message})")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the judge."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the judge."""
        self.close()

    @property
    def compiler_runs(self) -> int:
        """How often C and C++ programs were compiled. Equal ones are compiled once, while kept."""
        return self._service.builds.compiler_runs

    @property
    def layers(self) -> dict[str, bool]:
        """The layers of the sandbox, and whether this machine gave them to the workers so far."""
        return self._service.layers()

    def close(self) -> None:
        """End all workers. Verdicts that are not there yet become infrastructure errors."""
        self._finalizer()

    def submit(
        self, program: Program, tests: Tests, limits: Limits | None = None
    ) -> Future[Verdict]:
        """Queue a program and return the future of its verdict. Blocks while the queue is full."""
        return self.submit_all(Submission(program, tests, limits))

    def submit_all(self, submission: Submission) -> Future[Verdict]:
        """Queue a submission, which has more options than `submit` takes.

        Raises:
            ValueError: the submission makes no sense.
            RuntimeError: the judge is closed, or was closed while this waited.
        """
        return self._service.submit(submission, submission.limits or self.limits)

    def run(self, program: Program, tests: Tests, limits: Limits | None = None) -> Verdict:
        """Judge one program and wait for the verdict."""
        return self.submit(program, tests, limits).result()

    def map(self, submissions: Iterable[Submission]) -> Iterator[tuple[int, Verdict]]:
        """Judge submissions and yield (position, verdict) as they finish.

        `submissions` may be endless: only as many are taken as keep the workers busy. Closing the
        iterator ends the programs that still run.
        """
        finished: queue.SimpleQueue[tuple[int, Future[Verdict]]] = queue.SimpleQueue()
        numbered = enumerate(submissions)
        in_flight: dict[int, Future[Verdict]] = {}
        try:
            while True:
                for index, submission in itertools.islice(
                    numbered, 4 * self.workers - len(in_flight)
                ):
                    future = in_flight[index] = self.submit_all(submission)
                    future.add_done_callback(partial(_announce, finished, index))
                if not in_flight:
                    return
                index, future = finished.get()
                del in_flight[index]
                yield index, future.result()
        finally:
            for future in in_flight.values():
                future.cancel()

    async def run_async(
        self, program: Program, tests: Tests, limits: Limits | None = None
    ) -> Verdict:
        """Judge one program without blocking the event loop; cancelling ends it."""
        import asyncio

        future = await self._submit_async(Submission(program, tests, limits))
        return await asyncio.wrap_future(future)

    async def _submit_async(self, submission: Submission) -> Future[Verdict]:
        return await self._service.submit_async(submission, submission.limits or self.limits)

    async def map_async(
        self, submissions: Iterable[Submission] | AsyncIterable[Submission]
    ) -> AsyncIterator[tuple[int, Verdict]]:
        """Do as `map` does, without blocking the event loop. Takes async iterables too."""
        import asyncio

        source = _asynchronous(submissions)
        in_flight: dict[asyncio.Future[Verdict], int] = {}
        arriving: asyncio.Task[Submission] | None = asyncio.create_task(_next(source))
        entering: asyncio.Task[Future[Verdict]] | None = None
        count = 0
        try:
            while arriving or entering or in_flight:
                # A slow source or a full queue must not hold up verdicts that are ready.
                waited: set[asyncio.Future[Any]] = {*in_flight}
                if entering:
                    waited.add(entering)
                elif arriving and len(in_flight) < 4 * self.workers:
                    waited.add(arriving)
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if entering and entering in done:
                    in_flight[asyncio.wrap_future(entering.result())] = count
                    count += 1
                    entering = None
                if arriving and arriving in done:
                    try:
                        entering = asyncio.create_task(self._submit_async(arriving.result()))
                        arriving = asyncio.create_task(_next(source))
                    except StopAsyncIteration:
                        arriving = None
                for ended in sorted(done & in_flight.keys(), key=in_flight.__getitem__):
                    yield in_flight.pop(ended), ended.result()
        finally:
            for waiting in in_flight:
                waiting.cancel()
            if arriving:
                arriving.cancel()
            if entering and not entering.cancel() and not entering.exception():
                entering.result().cancel()


async def _next(source: AsyncIterator[Submission]) -> Submission:
    return await anext(source)


async def _asynchronous(
    submissions: Iterable[Submission] | AsyncIterable[Submission],
) -> AsyncIterator[Submission]:
    if isinstance(submissions, AsyncIterable):
        async for submission in submissions:
            yield submission
    else:
        for submission in submissions:
            yield submission


def _announce(
    finished: queue.SimpleQueue[tuple[int, Future[Verdict]]], index: int, future: Future[Verdict]
) -> None:
    finished.put((index, future))
