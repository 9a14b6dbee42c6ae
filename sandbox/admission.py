"""Bounded, first-in-first-out admission for threads and asyncio tasks.

A judge admits so many programs at a time; callers beyond that wait for their turn.
"""

from __future__ import annotations

import collections
import threading
from concurrent.futures import Future


class FairSemaphore:
    """A semaphore of `size` permits, given out in the order of the requests. Thread-safe.

    `reentrant_thread` never waits: it is the thread that releases the permits.
    """

    def __init__(self, size: int) -> None:
        """Start with all permits free."""
        self.reentrant_thread: threading.Thread | None = None
        self._size = size
        self._held = 0
        self._waiting: collections.deque[Future[None]] = collections.deque()
        self._closed = False
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Take a permit; block until there is one. Raises RuntimeError once closed."""
        if turn := self._take():
            try:
                turn.result()
            except BaseException:
                self._withdraw(turn)
                raise

    async def acquire_async(self) -> None:
        """Do as `acquire` does without blocking the event loop."""
        import asyncio  # see service.py

        if turn := self._take():
            try:
                await asyncio.wrap_future(turn)
            except BaseException:
                self._withdraw(turn)
                raise

    def release(self) -> None:
        """Give a permit back."""
        with self._lock:
            self._held -= 1
            while self._waiting and self._held < self._size:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._held += 1
                    turn.set_result(None)

    def close(self) -> None:
        """Admit nobody any more; all who wait get a RuntimeError."""
        with self._lock:
            self._closed = True
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_exception(RuntimeError("the judge is closed"))

    def _take(self) -> Future[None] | None:
        """Take a permit, or return the future of one."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed")
            if self._held < self._size or threading.current_thread() is self.reentrant_thread:
                self._held += 1
                return None
            turn: Future[None] = Future()
            self._waiting.append(turn)
            return turn

    def _withdraw(self, turn: Future[None]) -> None:
        """Stop waiting; a permit that has come in the meantime is given back."""
        if not turn.cancel() and turn.exception() is None:
            self.release()
