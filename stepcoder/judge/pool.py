"""Judges on other hosts as one judge: batches go to whoever is free, and elsewhere if a host fails.

A program is on one host at a time and leaves the pool with one verdict: what a lost host had is
judged by another one, and what it may still answer is not listened to. `over_http` and `over_ray`
are the two kinds of hosts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Condition, Thread
from typing import Protocol

from stepcoder.errors import RunError
from stepcoder.sandbox import Judge, Limits, Submission, Verdict

SLOTS = 3  # batches that a host has at a time, each of at most its workers: one is always ready
RETRY_S = 1.0  # between two looks whether a host is back
PATIENCE_S = 120.0  # without any host


class HostLost(Exception):
    """A host does not answer; the message says why, on one line."""


class Host(Protocol):
    """Where programs are judged, `workers` at a time."""

    name: str
    workers: int

    def judge(self, batch: Sequence[Submission]) -> list[Verdict]:
        """Return the verdicts of some submissions, all of which have limits.

        Raises:
            HostLost: somebody else has to judge them. RunError: nobody can.
        """

    def returned(self) -> bool:
        """Return whether a host that was lost, or has not been asked yet, takes programs."""

    def close(self) -> None:
        """Let the host go."""


class JudgePool(Judge):
    """Some hosts as one judge; a context manager."""

    def __init__(self, hosts: Sequence[Host], limits: Limits, note: Callable[[str], None]) -> None:
        """Begin with the hosts that answer.

        Args:
            hosts: those that do not answer now are used as soon as they do.
            limits: of submissions that bring none.
            note: gets a line when a host is lost or is back.

        Raises:
            RunError: none answers.
        """
        self.limits, self._note = limits, note
        self._hosts = hosts
        self._waiting: deque[tuple[Submission, Future[Verdict]]] = deque()
        self._changed = Condition()
        self._closed: RunError | None = None
        with ThreadPoolExecutor(len(hosts)) as pool:
            there = pool.map(lambda host: host.returned(), hosts)
            self._serving = {host for host, is_there in zip(hosts, there, strict=True) if is_there}
        self._last = time.monotonic()  # when a host was known to serve
        if not self._serving:
            self.close()
            raise RunError(f"no judge answers: {', '.join(host.name for host in hosts)}")
        self.workers = sum(host.workers for host in self._serving)
        for host in hosts:
            for _ in range(SLOTS):
                Thread(target=self._serve, args=(host,), daemon=True, name="judge host").start()

    def close(self) -> None:
        """Let the hosts go; who waits for a verdict gets RunError."""
        self._fail(RunError("the judge is closed"))
        for host in self._hosts:
            host.close()

    def submit_all(self, submission: Submission) -> Future[Verdict]:
        """Queue a submission. Raises RunError after `close`, or if all hosts are lost."""
        future: Future[Verdict] = Future()
        with self._changed:
            if self._closed:
                raise self._closed
            limits = submission.limits or self.limits
            self._waiting.append((replace(submission, limits=limits), future))
            self._changed.notify()
        return future

    async def _submit_async(self, submission: Submission) -> Future[Verdict]:
        return self.submit_all(submission)

    def _serve(self, host: Host) -> None:
        """Judge on a host until the pool is closed."""
        while True:
            if host not in self._serving and not self._wait_for(host):
                return
            batch = self._take(host.workers)
            if not batch:
                return
            try:
                verdicts = host.judge([submission for submission, _ in batch])
            except HostLost as lost:
                self._give_back(host, batch, lost)
            except Exception as error:  # of these programs, whose caller gets it
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), verdict in zip(batch, verdicts, strict=True):
                    future.set_result(verdict)

    def _take(self, most: int) -> list[tuple[Submission, Future[Verdict]]]:
        """Wait for programs and take some that nobody cancelled; none: the pool is closed."""
        taken: list[tuple[Submission, Future[Verdict]]] = []
        with self._changed:
            while not taken and not self._closed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                while self._waiting and len(taken) < most:
                    item = self._waiting.popleft()
                    if item[1].running() or item[1].set_running_or_notify_cancel():
                        taken.append(item)
        return taken

    def _give_back(
        self, host: Host, batch: list[tuple[Submission, Future[Verdict]]], lost: HostLost
    ) -> None:
        with self._changed:
            if self._closed:
                return self._fail(self._closed, batch)
            self._waiting.extendleft(reversed(batch))
            self._changed.notify_all()
            if host in self._serving:
                self._serving.remove(host)
                self._last = time.monotonic()
                self._note(f"judge {host.name} is lost ({lost}); others judge its programs")
        return None

    def _wait_for(self, host: Host) -> bool:
        """Wait until a host is back; False: the pool is closed, or no host came back in time."""
        while not host.returned():
            with self._changed:
                if not self._serving and time.monotonic() > self._last + PATIENCE_S:
                    waited = f"no judge has answered for {PATIENCE_S:.0f} s"
                    self._fail(RunError(f"{waited}; start one of {self._names()}, then go on"))
                if self._changed.wait_for(lambda: self._closed, RETRY_S):
                    return False
        with self._changed:
            if host not in self._serving:
                self._serving.add(host)
                self.workers = max(self.workers, sum(h.workers for h in self._serving))
                self._note(f"judge {host.name} is there")
        return True

    def _names(self) -> str:
        return ", ".join(host.name for host in self._hosts)

    def _fail(
        self, error: RunError, batch: Sequence[tuple[Submission, Future[Verdict]]] = ()
    ) -> None:
        """Take no more programs; those that wait get an error in place of a verdict."""
        with self._changed:
            self._closed = error
            left = [*batch, *self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for _, future in left:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(error)
