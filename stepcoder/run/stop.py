"""SIGINT and SIGTERM: a run ends between two steps, saved; a second signal ends it at once.

Its state is only whole between steps, so the first signal is noted and `Run.stop_if_asked` acts on
it there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from stepcoder.report.run_dir import METRICS

if TYPE_CHECKING:
    from stepcoder.run.run import Run

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASKED = "stopping when this step is done and saved; a second signal stops at once, without saving"


class Stopped(KeyboardInterrupt):
    """A signal ended the run; the message is one line."""

    def __init__(self, number: int, message: str) -> None:
        """Take the signal's number."""
        super().__init__(message)
        self.status = 128 + number  # as a shell tells it


@contextmanager
def stop_signals(run: Run) -> Iterator[None]:
    """Let the signals stop a run while the `with` block lasts; what is ignored stays ignored.

    Raises Stopped at a second signal; a third one has its default effect.
    """

    stopped: list[Stopped] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if run.stop_signal is not None:
            for one in SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            path = run.run_dir.path
            kept = (path / METRICS).stat().st_size  # a new folder without a record is taken away
            hint = f"; continue with --resume {path}" if kept else ""
            stopped.append(Stopped(number, f"stopped, not saved{hint}"))
            raise stopped[0]
        run.stop_signal = number
        # On a thread of its own: the signal may have come in the middle of a print.
        threading.Thread(target=run.progress.note, args=(ASKED,)).start()

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except Exception:
        # What a signal interrupts may raise an error of its own over it, as torch.save does.
        if stopped:
            raise stopped[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
