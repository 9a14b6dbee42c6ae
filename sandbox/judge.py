"""The judge: takes programs with tests, gives verdicts.

Owns the event loop's thread, the workers, and one Python thread that turns what the runs left into
verdicts (the design note "sandbox", section 5).
"""

from __future__ import annotations

import asyncio
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
from stepcoder.sandbox.program import CallTests, Limits, Program, Submission, Tests
from stepcoder.sandbox.requests import MAX_SOURCE_BYTES, job_of, source_too_large
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict
from stepcoder.sandbox.verdicts import verdict_of

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

    Cancelling a future, or the task that awaits a verdict, ends its program. After a fork, the
    child must make a judge of its own: the parent's raises RuntimeError there.
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits = Limits(),  # noqa: B008
        isolation: Literal["warn", "full"] = "warn",
        hash_seed: int = 0,
    ) -> None:
        """Start the event loop; workers start when there is work for them.

        Raises:
            IsolationError: `isolation` is "full" and this machine refuses a layer.
            ValueError: `isolation` is neither "warn" nor "full".
        """
        if isolation not in ("warn", "full"):
            raise ValueError(f'isolation is {isolation!r}; it must be "warn" or "full"')
        self.workers = workers or len(os.sched_getaffinity(0))
        self.limits = limits
        self._service = _Service(self.workers, hash_seed, full_isolation=isolation == "full")
        self._finalizer = weakref.finalize(self, self._service.close)
        if isolation == "full":
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
        """Queue a program and return the future of its verdict."""
        return self.submit_all(Submission(program, tests, limits))

    def submit_all(self, submission: Submission) -> Future[Verdict]:
        """Queue a submission, which may say more than `submit` takes. Raises ValueError."""
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
        return await asyncio.wrap_future(self.submit(program, tests, limits))

    async def map_async(
        self, submissions: Iterable[Submission] | AsyncIterable[Submission]
    ) -> AsyncIterator[tuple[int, Verdict]]:
        """Do as `map` does, without blocking the event loop. Takes async iterables too."""
        source = _asynchronous(submissions)
        in_flight: dict[asyncio.Future[Verdict], int] = {}
        arriving: asyncio.Task[Submission] | None = asyncio.create_task(_next(source))
        count = 0
        try:
            while arriving or in_flight:
                # A slow source must not hold up the verdicts of what it already gave.
                room = arriving is not None and len(in_flight) < 4 * self.workers
                waited: set[asyncio.Future[Any]] = {*in_flight}
                if arriving and room:
                    waited.add(arriving)
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if arriving and arriving in done:
                    try:
                        future = asyncio.wrap_future(self.submit_all(arriving.result()))
                    except StopAsyncIteration:
                        arriving = None
                    else:
                        in_flight[future] = count
                        count += 1
                        arriving = asyncio.create_task(_next(source))
                for ended in done & in_flight.keys():
                    yield in_flight.pop(ended), ended.result()
        finally:
            for waiting in in_flight:
                waiting.cancel()
            if arriving:
                arriving.cancel()


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


class _Service:
    """What a judge owns; apart from it so that a forgotten judge can be collected and closed."""

    def __init__(self, workers: int, hash_seed: int, *, full_isolation: bool) -> None:
        numpy_folder = _numpy_folder()
        self._numpy_installed = bool(numpy_folder)
        self._loop = _launcher.EventLoop(
            _worker_command("bare", "", hash_seed),
            _worker_command("numpy", numpy_folder, hash_seed),
            workers,
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Submission, Future[Verdict]]] = {}
        self._ids = itertools.count()
        self._closed = False
        self._warned = False
        self._full_isolation = full_isolation
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._finish, name="judge", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        if os.getpid() != self._owner:
            raise RuntimeError("this judge belongs to the parent process; make one of your own")
        future: Future[Verdict] = Future()
        if source_too_large(submission):
            future.set_result(_refused(submission))
            return future
        job = job_of(submission, limits, numpy_installed=self._numpy_installed)
        job.id = next(self._ids)
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed")
            self._waiting[job.id] = (submission, future)
        self._loop.submit(job)
        future.add_done_callback(partial(self._stop_if_cancelled, job.id))
        return future

    def _stop_if_cancelled(self, job_id: int, future: Future[Verdict]) -> None:
        if future.cancelled() and os.getpid() == self._owner:
            self._loop.cancel(job_id)

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._closed = True
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
                    submission, future = self._waiting.pop(result.id)
                if future.cancelled():
                    continue
                try:
                    verdict = verdict_of(submission, result.runs)
                except Exception as error:
                    _logger.exception("the judge failed on a submission")
                    verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=repr(error))
                if self._full_isolation and (missing := self.missing_layers()):
                    error_text = str(IsolationError(missing))
                    verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=error_text)
                _settle(future, verdict)

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


def _numpy_folder() -> str:
    """Return the folder that numpy is imported from, or "" if it is not installed."""
    spec = importlib.util.find_spec("numpy")
    return str(Path(spec.origin).resolve().parent.parent) if spec and spec.origin else ""


def _refused(submission: Submission) -> Verdict:
    message = f"the source is larger than {MAX_SOURCE_BYTES >> 20} MiB"
    test = TestVerdict(Status.COMPILE_ERROR, message=message)
    return Verdict(Status.COMPILE_ERROR, tests=(test,) * len(submission.tests), message=message)
