"""The processes that train one model together, as torchrun starts them.

All run the same loop on the same rollouts, and each computes its share of the microbatches. The
first one alone generates, judges, writes and shows; `from_first` gives the others what it found.
A process that was not started by torchrun is the first and only one, and waits for nobody.
"""

from __future__ import annotations

import io
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stepcoder.errors import RunError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)  # for the others, while the first one generates
ENDED_WITHIN_S = 30  # of the first process to fail: torchrun ends the others


class FirstFailed(RunError):
    """The first process failed, and says so itself."""


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes for as long as the `with` block lasts; gives this one's device.

    Where several fail, one raises its error; the others wait until torchrun ends them with it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    backend = "gloo"  # carries what is not on a GPU, there too
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    store = dist.distributed_c10d._get_default_store()
    speaks = True
    try:
        yield device
        dist.barrier()  # who leaves first takes the connections with it
    except Exception as error:
        # Before the others find out that this one is gone.
        speaks = not isinstance(error, FirstFailed) and store.add("failed", 1) == 1
        if speaks:
            raise
    finally:
        dist.destroy_process_group()
    if not speaks:
        time.sleep(ENDED_WITHIN_S)
        raise SystemExit(2)


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that generates, judges, writes and shows."""
    return int(os.environ.get("RANK", "0")) == 0


def from_first(make: Callable[[], T], known: Sequence[Any] = ()) -> T:
    """Return what the first process makes, in all of them.

    Objects that it holds and all processes have, `known`, in the same order, are not sent: the
    others get their own.

    Raises:
        FirstFailed: it failed; there, its own error.
    """
    if count() == 1:
        return make()
    sent: list[bytes | None] = [None]
    error: BaseException | None = None
    if is_first():
        try:
            made = make()
            sent[0] = _pickled(made, known)
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
    dist.broadcast_object_list(sent, src=0)
    if error is not None:
        raise error
    if is_first():
        return made
    if sent[0] is None:
        raise FirstFailed
    unpickler = pickle.Unpickler(io.BytesIO(sent[0]))
    unpickler.persistent_load = known.__getitem__  # type: ignore[method-assign]
    return unpickler.load()  # type: ignore[no-any-return]


def _pickled(made: Any, known: Sequence[Any]) -> bytes:
    places = {id(one): place for place, one in enumerate(known)}
    pickler = pickle.Pickler(file := io.BytesIO())
    pickler.persistent_id = lambda one: places.get(id(one))  # type: ignore[method-assign]
    pickler.dump(made)
    return file.getvalue()


def from_first_alone(make: Callable[[], T]) -> T | None:
    """Return what the first process makes there, and None in the others. Raises as `from_first`."""
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else None


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes; it is changed in place."""
    if count() > 1:
        dist.all_reduce(tensor)
    return tensor


def lowest(tensor: Tensor) -> Tensor:
    """Return the least of a tensor's values over the processes; it is changed in place."""
    if count() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
    return tensor


def any_of(number: int) -> int:
    """Return the largest of a number that each process has its own of."""
    return -int(lowest(torch.tensor(-number)))


def share(pieces: Sequence[T], costs: Sequence[float]) -> list[tuple[T, bool]]:
    """Return this process's share of some pieces of work, equally many for each of several.

    Every forward and backward pass is a meeting of all processes, so that those with less to do
    must come to it as well: they do a piece once more, marked False, whose result does not count.
    The costliest pieces are dealt first, each to the process with the least to do.
    """
    processes = count()
    most = -(-len(pieces) // processes)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    loads = [0.0] * processes
    for piece in sorted(range(len(pieces)), key=lambda i: -costs[i]):
        free = [p for p in range(processes) if len(dealt[p]) < most]
        chosen = min(free, key=lambda p: loads[p])
        dealt[chosen].append(piece)
        loads[chosen] += costs[piece]
    mine = dealt[dist.get_rank()]
    repeated = [(pieces[-1], False)] * (most - len(mine))
    return [(pieces[i], True) for i in sorted(mine)] + repeated
