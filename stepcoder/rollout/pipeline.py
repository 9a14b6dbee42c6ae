"""Does the engine's work in order: at once, or on a thread of its own while the learner works.

With `ahead` batches of overlap, the batch of step s is generated with the weights after step
s - 1 - ahead, always: what runs is decided by the order of the calls, never by who is faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedModel

from stepcoder.models.policy import frozen_copy
from stepcoder.models.sharding import gathered, is_sharded
from stepcoder.rollout.engine import Engine
from stepcoder.rollout.rollout import Rollout

T = TypeVar("T")
Interval = tuple[float, float]  # of time.perf_counter, in seconds


@dataclass(frozen=True, slots=True)
class Generated:
    """A step's judged rollouts, and when they were made.

    `judged` are the intervals, disjoint and in order, in which at least one program was judged.
    """

    rollouts: list[Rollout]
    generated: Interval
    judged: Sequence[Interval]


class Pipeline:
    """Owns the engine; batches are begun, and taken in the same order."""

    def __init__(self, engine: Engine, ahead: int) -> None:
        """`ahead` 0 does everything in the caller's thread."""
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, "engine") if ahead else None
        self._begun: deque[Future[Generated]] = deque()
        self._update: Future[None] | None = None  # the newest one with overlap

    def __len__(self) -> int:
        """Return how many batches were begun and not taken."""
        return len(self._begun)

    def begin(self, make: Callable[[], Generated]) -> None:
        """Make a batch after all that was asked for before."""
        self._begun.append(self._submit(make))

    def take(self) -> Generated:
        """Wait for the oldest batch, and return it."""
        return self._begun.popleft().result()

    def pending(self) -> list[Generated]:
        """Wait for every batch that was begun; they can still be taken."""
        return [batch.result() for batch in self._begun]

    def run(self, work: Callable[[], T]) -> T:
        """Do something else with the engine, in order, and wait for it."""
        return self._submit(work).result()

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Generate with these weights from the next `begin` on.

        With overlap the weights are copied now, because the policy goes on changing, and sent when
        the batches begun before are done.
        """
        if is_copied := is_sharded(policy):
            policy = gathered(policy, device=policy.device)
        if self._thread is None:
            self.engine.update_weights(policy)
            return
        snapshot = policy if is_copied else frozen_copy(policy)
        self._update = self._submit(lambda: self.engine.update_weights(snapshot))

    def close(self) -> None:
        """End the engine, and whatever still waits for it."""
        self.engine.close()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._thread is None:
            done: Future[T] = Future()
            done.set_result(work())
            return done

        update = self._update

        def unless_broken() -> T:
            if update is not None:
                update.result()  # raises its error: nothing may be generated with the old weights
            return work()

        return self._thread.submit(unless_broken)


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """Return the union of intervals as disjoint ones, in order."""
    union: list[Interval] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union
