"""The folder of an evaluation: samples and verdicts as they come, so that a killed one goes on.

Takes records one by one, gives back those of an earlier start of the same command. Also reads files
of samples that others wrote.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stepcoder.errors import RunError
from stepcoder.judge.command import InputError
from stepcoder.problems.answers import extract_completion, program_of_answer
from stepcoder.problems.problem import Problem
from stepcoder.report.run_dir import replace_file
from stepcoder.sandbox import Status, Verdict
from stepcoder.sandbox.program import CodeTests, test_text

SETTINGS, SAMPLES, VERDICTS = "settings.json", "samples.jsonl", "verdicts.jsonl"
EXPECTED = '{"task_id": ..., "answer" or "completion" or "solution": ...}'
SHOWN = 500  # characters of a test's input, of what was expected, of what came

Record = dict[str, Any]
Key = tuple[str, int]  # task id, number of the sample


@dataclass(frozen=True, slots=True)
class Sample:
    """One program to judge."""

    problem: Problem
    number: int
    program: str

    @property
    def key(self) -> Key:
        """What names the sample."""
        return self.problem.task_id, self.number


class Store:
    """An open folder; what it holds already is in `samples` and `verdicts`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the folder, or go on with the one of an earlier start.

        Raises:
            InputError: the folder is of another evaluation; the message says what differs.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._settle(settings)
            self.samples = {key_of(r): r for r in read_lines(folder / SAMPLES)}
            self.verdicts = {key_of(r): r for r in read_lines(folder / VERDICTS)}
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
            if any((self.folder / name).exists() for name in (SAMPLES, VERDICTS)):
                raise InputError(f"-o {self.folder} holds other files; choose another folder")
            replace_file(path, json.dumps(settings, indent=1) + "\n")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if changed:
            name = changed[0]
            raise InputError(
                f"-o {self.folder} holds an evaluation with other settings ({name} was "
                f"{before.get(name)!r}, is {settings.get(name)!r}); choose another folder, or "
                "remove it"
            )

    def add(self, name: str, record: Record) -> None:
        """Append a record to one of the two files, and to the disk."""
        file = self._files[name]
        file.write(json.dumps(record) + "\n")
        file.flush()
        (self.samples if name == SAMPLES else self.verdicts)[key_of(record)] = record

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """Hold both files open."""
        for name in (SAMPLES, VERDICTS):
            self._files[name] = (self.folder / name).open("a", encoding="utf-8")
        try:
            yield self
        finally:
            for file in self._files.values():
                file.close()


def key_of(record: Record) -> Key:
    """Return what names the sample of a record."""
    return record["task_id"], record["sample"]


def read_lines(path: Path) -> list[Record]:
    """Read a file of records; a last line that was not written whole is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    return [json.loads(line) for line in data[:whole].splitlines()]


def program_in(record: Record, problem: Problem) -> str:
    """Return the program in a record of ours.

    Raises:
        KeyError: it holds none.
    """
    if "solution" in record:
        return str(record["solution"])
    if "answer" in record:
        return program_of_answer(record["answer"], problem)
    if "given" in record:
        return str(record["given"] + extract_completion(record["completion"]))
    return str(problem.starter_code + record["completion"])


def read_samples(path: Path, problems: Mapping[str, Problem], extract: bool) -> list[Sample]:
    """Read a file of samples: several of a problem are its first, second, ... sample.

    With `extract` a completion or solution is read as a chat answer too.

    Raises:
        InputError: the file or a line of it cannot be used.
    """
    found: list[Sample] = []
    numbers: dict[str, int] = {}
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if line.strip():
                    record = _checked(line, f"{path} line {line_number}", problems)
                    problem = problems[record["task_id"]]
                    if extract and "given" not in record:
                        record["answer"] = next(record[name] for name in _TEXTS if name in record)
                        record.pop("solution", None)
                    number = numbers.get(problem.task_id, 0)
                    numbers[problem.task_id] = number + 1
                    found.append(Sample(problem, number, program_in(record, problem)))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not found:
        raise InputError(f"{path} holds no sample")
    return found


_TEXTS = ("answer", "solution", "completion")


def _checked(line: bytes, where: str, problems: Mapping[str, Problem]) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); expected {EXPECTED}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: not an object; expected {EXPECTED}")
    task_id = record.get("task_id")
    if isinstance(task_id, int):  # MBPP's own numbers
        names = [f"{name}/{task_id}" for name in ("MBPP", "MBPPPlus")]
        task_id = record["task_id"] = next((n for n in names if n in problems), str(task_id))
    if not isinstance(task_id, str):
        raise InputError(f'{where}: field "task_id" is missing; expected {EXPECTED}')
    if task_id not in problems:
        raise InputError(
            f'{where}: field "task_id": no problem {task_id!r}; give the problems that the samples '
            "were made for (--split and --limit leave some out)"
        )
    name = next((name for name in _TEXTS if name in record), None)
    if name is None or not isinstance(record[name], str):
        raise InputError(f'{where}: field "{name or "answer"}" is missing or no text; {EXPECTED}')
    return record


def verdict_record(sample: Sample, verdict: Verdict) -> Record:
    """Return a verdict as JSON data, with the first test that failed."""
    record: Record = {
        "task_id": sample.problem.task_id,
        "sample": sample.number,
        "status": str(verdict.status),
        "passed": verdict.passed,
        "tests": len(verdict.tests),
        "tests_passed": sum(t.status is Status.ACCEPTED for t in verdict.tests),
    }
    if verdict.passed:
        return record
    record |= {"message": verdict.message[:SHOWN], "error_line": verdict.error_line}
    failing = next(
        (i for i, t in enumerate(verdict.tests) if t.status is not Status.ACCEPTED), None
    )
    if failing is not None:
        test, tests = verdict.tests[failing], sample.problem.tests
        shown: Record = {"number": failing + 1, "status": str(test.status), "message": test.message}
        if isinstance(tests, CodeTests):
            shown["test"] = test_text(tests, failing)
        else:
            shown |= {
                "input": repr(tests.inputs[failing]),
                "expected": repr(tests.outputs[failing]),
            }
        shown["got"] = test.got
        record["failing_test"] = {
            key: value[:SHOWN] if isinstance(value, str) else value for key, value in shown.items()
        }
    record["program"] = sample.program
    return record


def fingerprint_of(path: Path) -> str:
    """Return a hash of a file's bytes. Raises RunError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from None
