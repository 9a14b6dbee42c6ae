"""Notices that another of torchrun's processes was killed, hangs or is out of reach.

The others would wait for it for hours: whether the first process generates or hangs cannot be seen
from outside. So each tells the others every second that it lives, through the store by which
torchrun's processes found each other. The first one listens to all, the others to the first one.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread, Timer
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from stepcoder.errors import RunError
from stepcoder.models import ranks

BEAT_S = 1.0
SILENT = 20  # beats of ours without one of the other: whoever is paused himself accuses nobody
SILENT_AFTER_LOSS = 4  # the same once a connection broke
LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)
DONE = "done"
GO_ON = "--resume goes on from the newest checkpoint"


class _Watch(Thread):
    """Tells that this process lives, and ends it where one that it listens to does not."""

    def __init__(self) -> None:
        super().__init__(name="peers", daemon=True)
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        self.store = PrefixStore(f"stepcoder {attempt}", TCPStore(*place, is_master=False))
        self.patience, self.ended = SILENT, Event()

    def run(self) -> None:
        # What process ids count for: this boot of this machine, this namespace.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
        rank = dist.get_rank()
        heard, silent = dict[int, str](), Counter[int]()
        try:
            for beat in count():
                self.store.set(str(rank), f"{beat} {os.getpid()} {place} {platform.node()}")
                if self.ended.wait(BEAT_S):
                    return self.store.set(str(rank), DONE)
                for peer in range(1, ranks.count()) if rank == 0 else (0,):
                    tag = self.store.get(str(peer)).decode()
                    silent[peer] = silent[peer] + 1 if tag == heard.get(peer) != DONE else 0
                    heard[peer] = tag
                    if silent[peer] >= self.patience:
                        _, pid, where, node = tag.split(" ", 3)
                        with suppress(ProcessLookupError):
                            if where == place:  # torchrun would wait for it
                                os.kill(int(pid), signal.SIGKILL)
                        what = "was killed, hangs or is out of reach"
                        self._leave(f"process {peer} (pid {pid} on {node}) {what}")
        except RuntimeError:
            self._leave("torchrun of the first machine ended, or is out of reach")

    def _leave(self, why: str) -> NoReturn:
        with suppress(RuntimeError):  # the store may be gone
            if self.store.add("said", 1) > 1:
                os._exit(2)
        sys.stderr.write(f"stepcoder.train: {why}; {GO_ON}\n")
        os._exit(2)


@contextmanager
def watched() -> Iterator[None]:
    """Watch the other processes, if there are any, for as long as the `with` block lasts.

    Raises:
        RunError: a connection broke because another process ended, which has said why.
    """
    if ranks.count() == 1:
        yield
        return
    watch = _Watch()
    watch.start()

    def hurry(*_: object) -> None:
        watch.patience = SILENT_AFTER_LOSS
        Timer(2 * SILENT_AFTER_LOSS * BEAT_S, os._exit, (128 + signal.SIGTERM,)).start()

    # Outside of the loop, which has handlers of its own: where one process was killed, torchrun
    # ends the others at once, and one of them is to say what happened.
    signal.signal(signal.SIGTERM, hurry)
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        watch.patience = SILENT_AFTER_LOSS
        watch.join(2 * SILENT_AFTER_LOSS * BEAT_S)  # it ends this process if one was killed
        raise RunError(f"another process failed, and says why; {GO_ON}") from None
    finally:
        watch.ended.set()
        watch.join()
