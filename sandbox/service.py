"""What a judge owns: the event loop with its workers, the jobs in flight, and the grading thread.

The event loop (C++) runs jobs on workers in a thread of its own. The grading thread takes what the
runs left and turns it into verdicts, or into the next job of a submission (`pending`).

asyncio is imported only where it is used: it takes a third of the time to the first verdict.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import sys
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from stepcoder.sandbox import _launcher
from stepcoder.sandbox.admission import FairSemaphore
from stepcoder.sandbox.checkers import Interactor
from stepcoder.sandbox.grading import Runs
from stepcoder.sandbox.jobs import MAX_SOURCE_BYTES, build_job, source_too_large
from stepcoder.sandbox.libraries import Libraries
from stepcoder.sandbox.native import Builds, Built, not_built
from stepcoder.sandbox.pending import Pending, first_job
from stepcoder.sandbox.program import Limits, Program, StdinTests, Submission
from stepcoder.sandbox.testlib import checker_program
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

_logger = logging.getLogger("stepcoder.sandbox")

_LAYERS = {
    _launcher.LAYER_USER_NAMESPACE: "a user namespace",
    _launcher.LAYER_MOUNT_NAMESPACE: "a file system of its own",
    _launcher.LAYER_NETWORK_NAMESPACE: "a network namespace (sockets are still refused)",
    _launcher.LAYER_PID_NAMESPACE: "a pid namespace",
    _launcher.LAYER_OWN_UID: "a user id of its own",
    _launcher.LAYER_READABLE_FILES: "Landlock (programs can read what this user can read)",
}


class IsolationError(RuntimeError):
    """This machine refuses a layer of the sandbox, and the caller asked for full isolation."""

    def __init__(self, missing: str) -> None:
        """Say which layers are missing."""
        super().__init__(
            f"full isolation is unavailable: this machine refuses {missing}; "
            'allow it or use isolation="warn"'
        )


class Service:
    """Queues submissions and settles the futures of their verdicts.

    Apart from the Judge, so that a judge that nobody refers to can be collected and closed.
    """

    def __init__(
        self,
        workers: int,
        hash_seed: int,
        max_queued: int,
        libraries: Libraries,
        *,
        full_isolation: bool,
    ) -> None:
        """Start the event loop and the grading thread."""
        self._libraries = libraries
        self._loop = _launcher.EventLoop(
            worker_command(hash_seed),
            native_command("native"),
            native_command("compiler"),
            _arena_preload(),
            workers,
        )
        self.builds = Builds()
        self._lock = threading.Lock()
        self._in_flight: dict[int, tuple[Pending, Future[Any]]] = {}
        self._admission = FairSemaphore(max_queued)
        self._ids = itertools.count()
        self._closed = False
        self._warned = False
        self._full_isolation = full_isolation
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._grade_results, name="judge", daemon=True)
        self._admission.reentrant_thread = self._thread
        self._thread.start()

    def submit(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        """Queue a submission; block while the queue is full."""
        self._check_owner()
        self._admission.acquire()
        return self._enqueue(submission, limits)

    async def submit_async(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        """Do as `submit` does without blocking the event loop."""
        self._check_owner()
        await self._admission.acquire_async()
        return self._enqueue(submission, limits)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("this judge belongs to the parent process; make one of your own")

    def _enqueue(self, submission: Submission, limits: Limits) -> Future[Verdict]:
        """Start on an admitted submission."""
        future: Future[Verdict] = Future()
        try:
            refused = self._refused(submission)
            if refused is None:
                self._start(first_job(submission, limits), future)
                return future
        except BaseException:
            self._admission.release()
            raise
        self._admission.release()
        future.set_result(refused)
        return future

    def _refused(self, submission: Submission) -> Verdict | None:
        """Return the verdict of a submission that cannot be run, None for any other."""
        status, message = Status.COMPILE_ERROR, ""
        if source_too_large(submission):
            message = f"the source is larger than {MAX_SOURCE_BYTES >> 20} MiB"
        elif message := self._libraries.missing_in_tests(submission):
            status = Status.INFRASTRUCTURE_ERROR
        test = TestVerdict(status, message=message)
        return Verdict(status, (test,) * len(submission.tests), message) if message else None

    def _start(self, pending: Pending, future: Future[Any]) -> None:
        """Hand a job to the event loop, once its programs are compiled."""
        tests = pending.submission.tests
        missing = {}
        if pending.job:
            job = pending.job
        else:
            job = build_job(
                pending.submission, pending.limits, self._libraries, apart=pending.apart
            )
            if isinstance(tests, StdinTests) and isinstance(tests.checker, Interactor):
                missing["tester_binary"] = checker_program(tests.checker)
        if job.runner == _launcher.Runner.NATIVE:
            missing["binary"] = pending.submission.program
        self._build(missing, job, pending, future)

    def _build(
        self,
        missing: dict[str, Program],
        job: _launcher.Job,
        pending: Pending,
        future: Future[Any],
    ) -> None:
        """Compile the next of the programs that a job needs; then go on."""
        if not missing:
            self._hand_over(job, pending, future)
            return
        name, program = missing.popitem()

        def go_on(build: Future[Built | Verdict]) -> None:
            built = build.result()
            room = pending.limits.memory_bytes + _launcher.UNUSED_BYTES
            fits = isinstance(built, Built) and built.memory_bytes <= room
            if isinstance(built, Built) and (fits or program is not pending.submission.program):
                setattr(job, name, built.binary)
                try:
                    self._build(missing, job, pending, future)
                    return
                except Exception as error:  # the judge was closed
                    built = Verdict(Status.INFRASTRUCTURE_ERROR, message=str(error))
            is_checker = pending.job is not None or name == "tester_binary"
            verdict = not_built(built, pending.submission, is_checker=is_checker)
            self._settle_with(future, verdict)

        self.builds.of(program, self._start).add_done_callback(go_on)

    def _hand_over(self, job: _launcher.Job, pending: Pending, future: Future[Any]) -> None:
        job.id = next(self._ids)
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed")
            self._in_flight[job.id] = (pending, future)
        self._loop.submit(job)
        future.add_done_callback(partial(self._stop_if_cancelled, job.id))

    def _stop_if_cancelled(self, job_id: int, future: Future[Verdict]) -> None:
        if future.cancelled() and os.getpid() == self._owner:
            self._loop.cancel(job_id)

    def _grade_results(self) -> None:
        """Turn finished jobs into verdicts or further jobs, until the judge is closed."""
        while True:
            results = self._loop.next(3600.0)
            if not results:
                with self._lock:
                    if self._closed:
                        return
            for result in results:
                self._warn()
                with self._lock:
                    pending, future = self._in_flight.pop(result.id)
                self._finish(pending, result.runs, future)

    def _finish(self, pending: Pending, runs: Runs, future: Future[Any]) -> None:
        """Settle the future of a finished job, or start the submission's next job."""
        if pending.job and pending.job.runner == _launcher.Runner.COMPILER:
            try:
                built = pending.finish(runs)
            except Exception as error:
                _logger.exception("the judge failed on a compiled program")
                built = Verdict(Status.INFRASTRUCTURE_ERROR, message=repr(error))
            _settle(future, built)  # tells the submissions that wait for it
            return
        if future.cancelled():
            self._admission.release()
            return
        try:
            outcome = pending.finish(runs)
            if isinstance(outcome, Pending):
                self._start(outcome, future)
                return
            verdict = outcome
        except Exception as error:
            if not self._closed:
                _logger.exception("the judge failed on a submission")
            verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=repr(error))
        if self._full_isolation and (missing := self.missing_layers()):
            error_text = str(IsolationError(missing))
            verdict = Verdict(Status.INFRASTRUCTURE_ERROR, message=error_text)
        self._settle_with(future, verdict)

    def _settle_with(self, future: Future[Verdict], verdict: Verdict) -> None:
        """Give an admitted submission its verdict."""
        self._admission.release()
        _settle(future, verdict)

    def close(self) -> None:
        """End the workers and both threads; unsettled futures get an infrastructure error."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._closed = True
        self._admission.close()
        self._loop.close()
        self.builds.forget()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            in_flight, self._in_flight = self._in_flight, {}
        for _, future in in_flight.values():
            _settle(future, Verdict(Status.INFRASTRUCTURE_ERROR, message="the judge was closed"))

    def layers(self) -> dict[str, bool]:
        """Return the layers of the sandbox, and whether every worker so far has them."""
        missing = self._loop.missing_layers
        return {text: not missing & bit for bit, text in _LAYERS.items()}

    def missing_layers(self) -> str:
        """Return the layers that some worker lacks, "" if none."""
        return ", ".join(text for text, is_there in self.layers().items() if not is_there)

    def _warn(self) -> None:
        """Log once what this machine refuses."""
        if self._warned or self._full_isolation:
            return
        self._warned = True
        if why := self._loop.cgroups.missing:
            # Not a missing layer: the resource limits hold without them.
            _logger.info("the sandbox's workers have no cgroups of their own: %s", why)
        if layers := self.missing_layers():
            _logger.warning("the sandbox runs without %s, which this machine refuses", layers)


def _settle(future: Future[Any], verdict: Any) -> None:
    """Give a future its verdict, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(verdict)


def worker_command(hash_seed: int) -> list[str]:
    """Return what starts a worker; the event loop appends its libraries, its slot and its role."""
    command = _guest_command("worker.py")
    # The launcher sets hash seed 0. posix_spawn takes a path, so that of env is written out.
    return ["/usr/bin/env", f"PYTHONHASHSEED={hash_seed}", *command] if hash_seed else command


def native_command(kind: str) -> list[str]:
    """Return the command that starts a worker for C and C++ programs, or for their compiler."""
    return [*_guest_command("native_worker.py"), kind, os.environ.get("PATH", os.defpath)]


def _guest_command(script: str) -> list[str]:
    """Return what runs a script of `guest` with the extension as its first argument."""
    if not sys.executable:
        raise RuntimeError("sys.executable is empty: the sandbox needs an interpreter to start")
    worker = str(Path(__file__).resolve().parent / "guest" / script)
    extension = str(Path(_launcher.__file__).resolve())
    # The launcher sets the environment. -I would ignore the hash seed in it.
    return [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8", worker, extension]


def _arena_preload() -> str:
    """Return the library that workers load before all others, "" if it was not built."""
    spec = importlib.util.find_spec("stepcoder.sandbox._arena_preload")
    return str(Path(spec.origin).resolve()) if spec and spec.origin else ""
