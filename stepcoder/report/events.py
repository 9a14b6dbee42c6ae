"""TensorBoard's event file: numbers by step, on the disk as soon as they are written.

torch's SummaryWriter writes on a thread of its own, which prints a traceback where a disk is full.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """One open file of events in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Make folder and file. Raises OSError, as `write` does."""
        folder.mkdir(parents=True)
        # TensorBoard knows a file by its name, and goes on reading where it was.
        name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, wall_time: float, scalars: Iterable[tuple[str, float]]) -> None:
        """Add numbers by name; `wall_time` is in seconds since 1970."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars]
        self._write(Event(step=step, wall_time=wall_time, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
