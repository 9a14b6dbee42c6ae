"""Files of a command that may be killed at any moment and goes on when it is called again.

A file is either replaced as a whole, or records are appended to it (JSONL). `Journal` is a folder
of such records, with the settings that they depend on. `locked` keeps a folder for one process.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from stepcoder.errors import InputError, RunError

SETTINGS = "settings.json"

Record = dict[str, Any]


def replace_file(file: Path, text: str) -> None:
    """Write a file so that a kill or a full disk leaves either the old one or the new one."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a folder; the kernel releases it when the process ends, however it ends.

    Raises RunError with the text `refusal` where another process holds it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(refusal) from None
        except OSError:
            pass  # a file system without locks
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder. Raises OSError if it cannot be asked."""
    if not (folder / ".lock").exists():
        return False
    try:
        with locked(folder, ""):
            return False
    except RunError:
        return True


def read_lines(path: Path) -> list[Any]:
    """Return the records of a JSONL file, without a last one that was not written whole.

    Raises OSError, or ValueError for a line that is not JSON. A missing file holds no record.
    """
    data = path.read_bytes() if path.is_file() else b""  # a device or pipe is only written
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def open_to_append(path: Path) -> IO[str]:
    """Open a JSONL file at its end, and cut off a last record that was not written whole."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def append(file: IO[str], record: Record) -> None:
    """Write a record, so that a kill of this process no longer loses it."""
    file.write(json.dumps(record) + "\n")
    file.flush()


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def files_fingerprint(*paths: Path, also: str = "") -> str:
    """Return a hash of files, of all files in folders, and of a text. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update(also.encode())
    return digest.hexdigest()


class Journal:
    """A folder with the records of a command; a context manager while records are added.

    `journal[name]` holds the records of a file by key, those of an earlier start included.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        names: Sequence[str],
        key: Callable[[Record], Any],
        kind: str,
        foreign: Iterable[Path],
    ) -> None:
        """Open the folder, or go on with the one of an earlier start.

        Args:
            folder: is made if it is missing.
            settings: all that the records depend on, as JSON data.
            names: of the files, relative to the folder.
            key: returns what identifies a record within its file.
            kind: what the folder holds, for messages, such as "a cleaning".
            foreign: files that a folder without settings must not hold: they would be overwritten.

        Raises:
            InputError: the folder was made with other settings, or holds other files.
        """
        self._folder, self._key = folder, key
        self._files: dict[str, IO[str]] = {}
        try:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _settle(folder, settings, kind, foreign)
            self._records = {name: {key(r): r for r in read_lines(folder / name)} for name in names}
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"-o {folder}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"-o {folder}: its files are damaged; choose another folder") from None

    def __getitem__(self, name: str) -> Mapping[Any, Record]:
        """Return the records of a file by key."""
        return self._records[name]

    def __enter__(self) -> Self:
        """Open the files."""
        self._files = {name: open_to_append(self._folder / name) for name in self._records}
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def add(self, name: str, record: Record) -> None:
        """Append a record to a file."""
        append(self._files[name], record)
        self._records[name][self._key(record)] = record


def _settle(folder: Path, settings: Mapping[str, Any], kind: str, foreign: Iterable[Path]) -> None:
    """Write the settings into a new folder, or compare them with those of an earlier start."""
    path = folder / SETTINGS
    if not path.exists():
        if any(file.exists() for file in foreign):
            raise InputError(f"-o {folder} holds other files; choose another folder")
        replace_file(path, json.dumps(settings, indent=1) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in {**before, **settings}:
        was, now = before.get(name), settings.get(name)
        if was != now:
            raise InputError(
                f"-o {folder} holds {kind} with other settings ({name} was {was!r}, is {now!r}); "
                "choose another folder, or remove it"
            )
