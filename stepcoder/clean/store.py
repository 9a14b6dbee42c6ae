"""The folder of a cleaning: what each problem gave, as it comes, so that a killed one goes on.

Takes outcomes one by one and gives back those of an earlier start of the same command. The journal
holds them in the order in which they finished; the results do not depend on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stepcoder.clean.comparison import Comparison
from stepcoder.clean.extend import Cleaned
from stepcoder.clean.reasons import Dropped, Reason
from stepcoder.clean.records import Candidate
from stepcoder.clean.verify import Verified
from stepcoder.evaluate.store import read_lines
from stepcoder.judge.command import InputError
from stepcoder.report.run_dir import replace_file

SETTINGS, JOURNAL = "settings.json", "journal"
VERIFIED, EXTENDED = "verified.jsonl", "extended.jsonl"

Record = dict[str, Any]


class Store:
    """An open folder; what it holds already is in `verified` and `extended`, by number."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the folder, or go on with the one of an earlier start.

        Raises:
            InputError: the folder is of another cleaning; the message says what differs.
        """
        self.folder = folder
        journal = folder / JOURNAL
        try:
            journal.mkdir(parents=True, exist_ok=True)
            self._settle(settings)
            self.verified = {record["number"]: record for record in read_lines(journal / VERIFIED)}
            self.extended = {record["number"]: record for record in read_lines(journal / EXTENDED)}
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"-o {folder}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"-o {folder}: its files are damaged; choose another folder") from None
        self._files: dict[str, IO[str]] = {}

    def _settle(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            if any(self.folder.glob("*.jsonl")):
                raise InputError(f"-o {self.folder} holds other files; choose another folder")
            replace_file(path, json.dumps(settings, indent=1) + "\n")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if changed:
            name = changed[0]
            raise InputError(
                f"-o {self.folder} holds a cleaning with other settings ({name} was "
                f"{before.get(name)!r}, is {settings.get(name)!r}); choose another folder, or "
                "remove it"
            )

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """Hold the journal open."""
        for name in (VERIFIED, EXTENDED):
            path = self.folder / JOURNAL / name
            self._files[name] = path.open("a", encoding="utf-8")
        try:
            yield self
        finally:
            for file in self._files.values():
                file.close()

    def add(self, name: str, record: Record) -> None:
        """Append a record to a file of the journal, and to the disk."""
        self._files[name].write(json.dumps(record) + "\n")
        self._files[name].flush()
        (self.verified if name == VERIFIED else self.extended)[record["number"]] = record


def verified_record(candidate: Candidate, outcome: Verified | Dropped) -> Record:
    """Return an outcome as JSON data, with what a repair changed."""
    if isinstance(outcome, Dropped):
        dropped = {"reason": outcome.reason, "detail": outcome.detail}
        return {"number": outcome.number, "dropped": dropped}
    before, after = candidate.record, outcome.candidate.record
    return {
        "number": candidate.number,
        "changes": {key: value for key, value in after.items() if before.get(key) != value},
        "repairs": list(outcome.candidate.repairs),
        "lines": sorted(outcome.executed_lines),
        "checker": outcome.comparison,
    }


def verified_of(candidate: Candidate, record: Record) -> Verified | Dropped:
    """Return what `verified_record` wrote of the same candidate."""
    if "dropped" in record:
        dropped = record["dropped"]
        reason = Reason(dropped["reason"])
        return Dropped(candidate.number, candidate.task_id, reason, dropped["detail"])
    changed = Candidate(
        candidate.number,
        {**candidate.record, **record["changes"]},
        candidate.alternatives,
        tuple(record["repairs"]),
        candidate.normalized,
    )
    return Verified(changed, frozenset(record["lines"]), Comparison(record["checker"]))


def extended_record(number: int, cleaned: Cleaned) -> Record:
    """Return a cleaned problem as JSON data."""
    return {
        "number": number,
        "tests": cleaned.tests if cleaned.generated else None,
        "generated": cleaned.generated,
        "lines": sorted(cleaned.executed_lines),
        "mutants": list(cleaned.mutants),
    }


def extension_of(verified: Verified, record: Record) -> Cleaned:
    """Return what `extended_record` wrote of the same problem."""
    tests = record["tests"] or verified.candidate.record["tests"]
    first, second, third = record["mutants"]
    lines = frozenset(record["lines"])
    return Cleaned(verified, tests, record["generated"], lines, (first, second, third))


def fingerprint_of(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder. Raises OSError."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
