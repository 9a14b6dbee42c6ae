"""Reads the records of problem files, one by one and always in the same order.

Takes a file (.jsonl, .json, .parquet, .arrow, the first two also .gz), a folder of such files, a
folder that `datasets` saved, or an APPS folder; gives each record with its place in words and the
part (train, validation, eval) that the name of its file or split gives it. Rows are read as they
are needed, but for a JSON list, which is read whole.
"""

from __future__ import annotations

import gzip
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from stepcoder.problems.fields import ProblemRecord
from stepcoder.problems.json_text import loads
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.user_code import is_user_code
from stepcoder.user_code import rows_of as user_rows

# The words of a file's name that name its part, as the hub reads them.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "eval"),
}
_PART = re.compile(rf"(?<![a-z])({'|'.join(PARTS)})(?![a-z])")
_NOT_RECORDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_APPS_FILES = ("question.txt", "starter_code.py", "solutions.json", "input_output.json")
_WHITE = b"\xef\xbb\xbf \t\r\n"  # what may stand before JSON


class Row(NamedTuple):
    """A record, or why there is none, its place ("line 17") and the part that its file names."""

    where: str
    record: Any  # a ProblemRecord or a BrokenRecordError; of the user's own function, anything
    part: str = ""


def rows_of(records: Iterable[Any]) -> Iterator[Row]:
    """Yield records that come from no file, numbered."""
    for number, record in enumerate(records, 1):
        yield Row(f"row {number}", _object(record))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield each record of a file, a folder, or FILE.py:NAME, a function of the user's own.

    A `testlib.h` that lies beside the data is given to records with a checker, as `headers`.

    Raises OSError, EOFError, zlib.error or ValueError (not UTF-8, not JSON) if a file itself
    cannot be read, or the library for it is missing; RunError if the user's function fails.
    """
    if is_user_code(str(path)):
        yield from (Row(*row) for row in user_rows(str(path)))
        return
    header = (path if path.is_dir() else path.parent) / "testlib.h"
    headers = {"testlib.h": header.read_text("utf-8")} if header.is_file() else None
    for row in _folder(path) if path.is_dir() else _file(path):
        if headers and isinstance(row.record, dict) and row.record.get("checker"):
            row.record["headers"] = headers
        yield row


def part_named(name: str) -> str:
    """Return the part that the name of a file or split gives its records; "" if it gives none."""
    found = _PART.search(name.lower())
    return PARTS[found[1]] if found else ""


def _folder(path: Path) -> Iterator[Row]:
    if questions := sorted(path.rglob("question.txt")):
        for question in questions:
            folder = question.parent
            yield Row(f"folder {folder.relative_to(path)}", *_apps_folder(folder))
        return
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        yield from _saved_dataset(path)
        return
    files = [file for file in sorted(path.rglob("*")) if _is_data(file.relative_to(path))]
    if not files:
        raise OSError(
            "the folder holds no problem file (.jsonl, .json, .parquet, .arrow) and no APPS "
            "problem (a folder with question.txt)"
        )
    for file in files:
        inside = file.relative_to(path)
        part = next(filter(None, map(part_named, reversed(inside.parts))), "")
        for where, record, _ in _file(file):
            yield Row(f"{inside} {where}", record, part)


def _is_data(inside: Path) -> bool:
    """Return whether a file of a folder holds records; hidden ones are caches."""
    kinds = (".jsonl", ".json", ".parquet", ".arrow", ".jsonl.gz", ".json.gz")
    hidden = any(part.startswith(".") for part in inside.parts)
    return inside.name.endswith(kinds) and inside.name not in _NOT_RECORDS and not hidden


def _file(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        yield from rows_of(_parquet(path))
    elif path.suffix == ".arrow":
        yield from rows_of(_arrow(path))
    else:
        yield from _json(path)


def _json(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON list, a JSON object, or JSON lines."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        begin = file.peek(64).lstrip(_WHITE)[:1]
        if begin == b"{" and ".json" in path.suffixes:
            with suppress(ValueError):  # an object on several lines, or else a line for each
                yield Row("record 1", _object(loads(file.read())))
                return
            file.seek(0)
        if begin == b"[":
            for n, record in enumerate(loads(file.read()), 1):
                if isinstance(record, dict) and "task_id" not in record:
                    record["task_id"] = f"{path.name.split('.')[0]}/{n - 1}"
                yield Row(f"record {n}", _object(record))
            return
        for n, line in enumerate(file, 1):
            if n == 1:
                line.decode()  # a file that begins with something else is no text at all
            if line.strip(_WHITE):
                try:
                    yield Row(f"line {n}", _object(loads(line)))
                except ValueError as error:
                    yield Row(f"line {n}", BrokenRecordError(f"not JSON ({error})"))


def _parquet(path: Path) -> Iterator[Any]:
    parquet = _library("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Any]:
    """Yield the rows of an Arrow file, or of the streams that `datasets` writes."""
    arrow = _library("pyarrow")
    with arrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = arrow.ipc.open_file(source)
            batches = map(file.get_batch, range(file.num_record_batches))
        else:
            source.seek(0)
            batches = iter(arrow.ipc.open_stream(source))
        for batch in batches:
            yield from batch.to_pylist()


def _saved_dataset(path: Path) -> Iterator[Row]:
    """Yield the rows of what `save_to_disk` wrote: a data set, or one for each split."""
    found = _library("datasets").load_from_disk(str(path))
    splits = found if isinstance(found, dict) else {"": found}
    for name in sorted(splits):
        for where, record, _ in rows_of(splits[name]):
            yield Row(f"{name} {where}".strip(), record, part_named(name) or name)


def _library(name: str) -> Any:
    """Return a library that only some files need. Raises OSError that names how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise OSError(f"it needs {package}: pip install {package}, or stepcoder[data]") from None


def _object(record: Any) -> ProblemRecord | BrokenRecordError:
    return record if isinstance(record, dict) else BrokenRecordError("not a JSON object")


def _apps_folder(folder: Path) -> tuple[ProblemRecord | BrokenRecordError, str]:
    """Read one APPS folder into one record with a field for each of its files, and its part."""
    part = folder.resolve().parent.name
    record: ProblemRecord = {"task_id": f"apps/{part}/{folder.resolve().name}"}
    try:
        for name in _APPS_FILES:
            file = folder / name
            record[file.stem] = file.read_bytes().decode() if file.exists() else None
        metadata = folder / "metadata.json"
        record |= loads(metadata.read_bytes()) if metadata.exists() else {}
    except (OSError, ValueError) as error:
        return BrokenRecordError(f"cannot be read ({error})"), ""
    return record, part_named(part)
