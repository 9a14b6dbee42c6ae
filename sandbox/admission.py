"""Room for so many programs in a judge: who finds none waits, first come first served.

Made for both kinds of waiting, that of threads and that of asyncio tasks.
"""

from __future__ import annotations

import collections
import threading
from concurrent.futures import Future


class Room:
    """Places for `size` programs. Thread-safe.

    The thread whose work makes room, `exempt`, is always let in: it would wait for itself.
    """

    def __init__(self, size: int) -> None:
        """Start empty."""
        self.exempt: threading.Thread | None = None
        self._size = size
        self._held = 0
        self._waiting: collections.deque[Future[None]] = collections.deque()
        self._closed = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Take a place; block until there is one. Raises RuntimeError once the room is closed."""
        if place := self._take():
            try:
                place.result()
            except BaseException:
                self._give_up(place)
                raise

    async def enter_async(self) -> None:
        """Do as `enter` does without blocking the event loop."""
        import asyncio  # see judge.py

        if place := self._take():
            try:
                await asyncio.wrap_future(place)
            except BaseException:
                self._give_up(place)
                raise

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._held -= 1
            if self._waiting:
                self._let_in()

    def close(self) -> None:
        """Let nobody in any more: who waits gets RuntimeError."""
        with self._lock:
            self._closed = True
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():
                    place.set_exception(RuntimeError("the judge is closed"))

    def _take(self) -> Future[None] | None:
        """Take a place, or return the future of one."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the judge is closed")
            if self._held < self._size or threading.current_thread() is self.exempt:
                self._held += 1
                return None
            place: Future[None] = Future()
            self._waiting.append(place)
            return place

    def _let_in(self) -> None:
        """Give what places there are to those who still wait. The lock is held."""
        while self._waiting and self._held < self._size:
            place = self._waiting.popleft()
            if place.set_running_or_notify_cancel():
                self._held += 1
                place.set_result(None)

    def _give_up(self, place: Future[None]) -> None:
        """Wait no longer; a place that came in that very moment is given back."""
        if not place.cancel() and place.exception() is None:
            self.leave()
