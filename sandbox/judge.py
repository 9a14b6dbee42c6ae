"""The judge: takes programs with tests, gives verdicts.

Owns the event loop's thread, the workers, and one Python thread that turns what the runs left into
verdicts (the design note "sandbox", section 5).

asyncio is imported only where it is used: it takes a third of the time to the first verdict.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import queue
import sys
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.by_value import ByValue, by_value
from stepcoder.sandbox.checking import CHECKER_LIMITS, Asked, asked, asks_checker
from stepcoder.sandbox.program import CallTests, Limits, Program, Submission, Tests
from stepcoder.sandbox.requests import MAX_SOURCE_BYTES, job_of, source_too_large
from stepcoder.sandbox.room import Room
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict
from stepcoder.sandbox.verdicts import has_no_value, verdict_of

_logger = logging.getLogger("stepcoder.sandbox")

_LAYERS = {
    1: "a user namespace",
    2: "a file system of its own",
    4: "a network namespace (sockets are still refused)",
    8: "a pid namespace",
    16: "a user id of its own",
    32: "Landlock (programs can read what this user can read)",
}


class IsolationError(RuntimeError):
    """This machine refuses a layer of the sandbox, and the caller asked for full isolation."""

    def __init__(self, missing: str) -> None:
        """Say which layers are missing."""
        super().__init__(
            f"full isolation is not to be had here: this machine refuses {missing}; "
            'allow it or use isolation="warn"'
        )


class Judge:
    """Judges programs, `workers` at a time. A context manager; every method is thread-safe.

    `workers` None takes one per CPU that this process may use. `limits` hold for submissions that
    bring none of their own. `isolation` says what happens where this machine refuses a layer of the
    sandbox: "warn" logs which one and goes on, "full" raises IsolationError. `hash_seed` is that of
    the programs: another one gives sets of texts another order.

    At most `max_queued` programs wait or run: until there is room `submit` blocks and the async
    methods wait. Callbacks of futures that run on the judge's own thread are let in at once.

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
    ) -> None:
        """Start the event loop; workers start when there is work for them.

        Raises:
            IsolationError: `isolation` is "full" and this machine refuses a layer.
            ValueError: `isolation` is neither "warn" nor "full", or `max_queued` is not positive.
        """
        if max_queued < 1:
            raise ValueError(f"max_queued is {max_queued}; it must be at least 1")
        if isolation not in ("warn", "full"):
            raise ValueError(f'isolation is {isolation!r}; it must be "warn" or "full"')
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits = limits
        full = isolation == "full"
        self._service = _Service(self.workers, hash_seed, max_queued, full_isolation=full)
        self._finalizer = weakref.finalize(self, self._service.close)
        if full:
            self._check_isolation()

    def _check_isolation(self) -> None:
        """Start a worker, which shows what this machine refuses."""
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

    def close(self) -> None:
        """End all workers. Verdicts that are still awaited become infrastructure errors."""
        self._finalizer()

    def submit(
        self, program: Program, tests: Tests, limits: Limits | None = None
    ) -> Future[Verdict]:
        """Queue a program and return the future of its verdict. Blocks while the queue is full."""
        return self.submit_all(Submission(program, tests, limits))

    def submit_all(self, submission: Submission) -> Future[Verdict]:
        """Queue a submission, which may say more than `submit` takes.

        Raises:
            ValueError: the submission makes no sense.
            RuntimeError: the judge is closed, or was while this waited for room.
        """
        return self._service.submit(submission, submission.limits or self.limits)

    def run(self, program: Program, tests: Tests, limits: Limits | None = None) -> Verdict:
        """Judge one program and wait for the verdict."""
        return self.submit(program, tests, limits).result()

    def map(self, submissions: Iterable[Submission]) -> Iterator[tuple[int, Verdict]]:
        """Judge submissions and yield (position, verdict) as they finish.

        Takes from `submissions` only so far ahead as keeps the workers busy: they may be endless.
        Programs that still run when the iterator is closed are ended.
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
                # A slow source, or a full queue, must not hold up the verdicts that are there.
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


# A submission, or what is asked in its place.
_Whose = Submission | Asked | ByValue


class _Service:
    """What a judge owns; apart from it so that a forgotten judge can be collected and closed."""

    def __init__(
        self, workers: int, hash_seed: int, max_queued: int, *, full_isolation: bool
    ) -> None:
        numpy_folder = _numpy_folder()
        self._numpy_installed = bool(numpy_folder)
        self._loop = _launcher.EventLoop(
            _worker_command("bare", "", hash_seed),
            _worker_command("numpy", numpy_folder, hash_seed),
            workers,
            _preload(),
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[_Whose, Future[Verdict]]] = {}
        self._room = Room(max_queued)
        self._ids = itertools.count()
        self._closed = False
        self._warned = False
        self._full_isolation = full_isolation
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._finish, name="judge", daemon=True)
        self._room.exempt = self._thread
        self._thread.start()

    def submit(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        self._check_owner()
        self._room.enter()
        return self._submit(submission, limits)

    async def submit_async(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        self._check_owner()
        await self._room.enter_async()
        return self._submit(submission, limits)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("this judge belongs to the parent process; make one of your own")

    def _submit(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        """Queue a submission that has taken its place."""
        future: Future[Verdict] = Future()
        try:
            if not source_too_large(submission):
                self._queue(by_value(submission, limits) or submission, limits, future)
                return future
        except BaseException:
            self._room.leave()
            raise
        self._room.leave()
        future.set_result(_refused(submission))
        return future

    def _queue(self, whose: _Whose, limits: Limits, future: Future[Verdict]) -> None:
        """Hand a submission, or the question that stands for it now, to the event loop."""
        submission = whose if isinstance(whose, Submission) else whose.question
        job = job_of(submission, limits, numpy_installed=self._numpy_installed)
        job.id = next(self._ids)
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed")
            self._waiting[job.id] = (whose, future)
        self._loop.submit(job)
        future.add_done_callback(partial(self._stop_if_cancelled, job.id))

    def _stop_if_cancelled(self, job_id: int, future: Future[Verdict]) -> None:
        if future.cancelled() and os.getpid() == self._owner:
            self._loop.cancel(job_id)

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._closed = True
        self._room.close()
        self._loop.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            _settle(future, Verdict(Status.INFRASTRUCTURE_ERROR, message="the judge was closed"))

    def missing_layers(self) -> str:
        """Return the layers that some worker could not have, "" if none."""
        missing = self._loop.missing_layers
        return ", ".join(text for bit, text in _LAYERS.items() if missing & bit)

    def _finish(self) -> None:
        """Turn finished jobs into verdicts until the judge is closed."""
        while True:
            results = self._loop.next(3600.0)
            if not results:
                with self._lock:
                    if self._closed:
                        return
            for result in results:
                self._warn()
                with self._lock:
                    whose, future = self._waiting.pop(result.id)
                if future.cancelled():
                    self._room.leave()
                    continue
                try:
                    if isinstance(whose, Asked):
                        verdict = whose.verdict(result.runs)
                    elif isinstance(whose, ByValue):
                        if has_no_value(result.runs):
                            self._queue(whose.submission, whose.limits, future)
                            continue
                        verdict = verdict_of(whose.question, result.runs)
                    elif self._asks(whose, result.runs, future):
                        continue
                    else:
                        verdict = verdict_of(whose, result.runs)
                except Exception as error:
                    if not self._closed:
                        _logger.exception("the judge failed on a submission")
                    verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=repr(error))
                if self._full_isolation and (missing := self.missing_layers()):
                    error_text = str(IsolationError(missing))
                    verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=error_text)
                self._room.leave()
                _settle(future, verdict)

    def _asks(
        self, submission: Submission, runs: list[_launcher.RunResult], future: Future[Verdict]
    ) -> bool:
        """Queue the question to a checker of its own; False where there is none to ask."""
        if not asks_checker(submission.tests) or (question := asked(submission, runs)) is None:
            return False
        self._queue(question, CHECKER_LIMITS, future)
        return True

    def _warn(self) -> None:
        if self._warned or self._full_isolation:
            return
        self._warned = True
        if why := self._loop.cgroups.missing:
            # No layer that is missing: the resource limits hold alone.
            _logger.info("the sandbox's workers have no cgroups of their own: %s", why)
        if layers := self.missing_layers():
            _logger.warning("the sandbox runs without %s, which this machine refuses", layers)


def _settle(future: Future[Verdict], verdict: Verdict) -> None:
    """Give a future its verdict, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(verdict)


def _worker_command(kind: str, numpy_folder: str, hash_seed: int) -> list[str]:
    if not sys.executable:
        raise RuntimeError("sys.executable is empty: the sandbox needs an interpreter to start")
    worker = str(Path(__file__).resolve().parent / "_worker.py")
    extension = str(Path(_launcher.__file__).resolve())
    # The environment is the launcher's own, so -I would only take away its fixed hash seed.
    flags = ["-s", "-S", "-P", "-B", "-X", "utf8"]
    command = [sys.executable, *flags, worker, extension, kind, numpy_folder]
    # The launcher sets seed 0. posix_spawn takes a path, so env's is written out.
    return ["/usr/bin/env", f"PYTHONHASHSEED={hash_seed}", *command] if hash_seed else command


def _preload() -> str:
    """Return the library that workers load before all others, "" where it was not built."""
    spec = importlib.util.find_spec("stepcoder.sandbox._arena_preload")
    return str(Path(spec.origin).resolve()) if spec and spec.origin else ""


def _numpy_folder() -> str:
    """Return the folder that numpy is imported from, or "" if it is not installed."""
    spec = importlib.util.find_spec("numpy")
    return str(Path(spec.origin).resolve().parent.parent) if spec and spec.origin else ""


def _refused(submission: Submission) -> Verdict:
    message = f"the source is larger than {MAX_SOURCE_BYTES >> 20} MiB"
    test = TestVerdict(Status.COMPILE_ERROR, message=message)
    return Verdict(Status.COMPILE_ERROR, tests=(test,) * len(submission.tests), message=message)
