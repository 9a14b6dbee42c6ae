"""One Problem type, its loader, its split into training and validation, and its fingerprint.

Takes the path of a file or folder of problems in any form of `problem_formats`, gives Problems and
a line for every record that is broken.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stepcoder.problems.asserts import split_asserts
from stepcoder.problems.formats import (
    FORMS,
    TESTS_SCHEMA,
    BrokenRecordError,
    Record,
    check_entry_point,
    field,
    form_of,
    read_records,
    to_schema,
)
from stepcoder.sandbox.checkers import Checker, checker_of
from stepcoder.sandbox.compare import FLOAT_TOLERANCE
from stepcoder.sandbox.program import CallTests, Program, StdinTests, Tests, UnittestTests


@dataclass(frozen=True, slots=True)
class Problem:
    """A programming problem with its tests and one correct program.

    `prompt` is the description in words; `starter_code` is what a solution is to begin with (often
    a `def` line, may be empty); `canonical_solution` is a whole program; `entry_point` is what the
    tests call (see `sandbox.Program.entry_point`), None for programs that read stdin.
    """

    task_id: str
    prompt: str
    starter_code: str
    canonical_solution: str
    tests: Tests
    entry_point: str | None = None
    preamble: str = ""
    source: str = ""
    difficulty: str = "unknown"
    split: str = "train"


class ProblemError(ValueError):
    """A record that cannot be read: one line that says where, what, and what to do."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a file held: its problems in order, and one line for each record that was skipped."""

    problems: tuple[Problem, ...]
    skipped: tuple[str, ...] = ()


def load_problems(
    path: str | Path, *, strict: bool = False, validation_share: float = 0.0
) -> LoadReport:
    """Load every problem of a file or folder; the form is recognised from the records themselves.

    Where the form names no split, `split_of(task_id, validation_share)` decides. A broken record
    is skipped and reported, or with `strict` raises ProblemError; so does a file that cannot be
    read or holds no record of a known form.
    """
    path = Path(path)
    problems: dict[str, Problem] = {}
    skipped: list[str] = []
    form: str | None = None
    try:
        for where, record in read_records(path):
            try:
                if isinstance(record, BrokenRecordError):
                    raise record
                # A record without its tests is taken for one of the form of those before it.
                form = form_of(record) or form
                problem = _problem(record, form, validation_share)
                if problem.task_id in problems:
                    raise BrokenRecordError(f"task_id {problem.task_id!r} was used before")
            except BrokenRecordError as error:
                line = f"{path} {where}: {error}; fix the record or leave it out"
                if strict:
                    raise ProblemError(line) from None
                skipped.append(line)
            else:
                problems[problem.task_id] = problem
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ProblemError(f"{path} cannot be read ({error})") from None
    if not problems and not skipped:
        raise ProblemError(f"{path} holds no problem")
    return LoadReport(tuple(problems.values()), tuple(skipped))


def _problem(record: Record, form: str | None, validation_share: float) -> Problem:
    if form is None:
        raise BrokenRecordError(f"no field of a known form ({', '.join(FORMS)})")
    record = to_schema(record, form)
    task_id = field(record, "task_id", str)
    solution = field(record, "canonical_solution", str)
    entry_point = record.get("entry_point") or None
    check_entry_point(entry_point, solution)
    return Problem(
        task_id=task_id,
        prompt=field(record, "prompt", str),
        starter_code=record.get("starter_code") or "",
        canonical_solution=solution,
        tests=tests_of(field(record, "tests", dict, TESTS_SCHEMA)),
        entry_point=entry_point,
        preamble=record.get("preamble") or "",
        source=record.get("source") or "",
        difficulty=record.get("difficulty") or "unknown",
        split=record.get("split") or split_of(task_id, validation_share),
    )


def tests_of(record: Record) -> Tests:
    """Return the tests of a record of our own schema. Raises BrokenRecordError, a ValueError."""
    kind = record.get("kind")
    alone = _flag(record, "process_per_test")
    if kind == "assert":
        try:
            tests = split_asserts(field(record, "code", str))
        except SyntaxError as error:
            raise BrokenRecordError(f"the tests do not parse ({error})") from None
        return replace(tests, process_per_test=True) if alone else tests
    if kind == "unittest":
        names = record.get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BrokenRecordError('field "names" of the tests is no list of texts')
        shared = _flag(record, "shared_process")
        try:
            return UnittestTests(field(record, "code", str), tuple(names), shared, alone)
        except ValueError as error:
            raise BrokenRecordError(str(error)) from None
    if kind not in ("call", "stdin"):
        raise BrokenRecordError(f'field "tests" has kind {kind!r} (expected {TESTS_SCHEMA})')
    inputs, outputs = field(record, "inputs", list), field(record, "outputs", list)
    if not inputs or len(inputs) != len(outputs):
        raise BrokenRecordError(f'field "tests" has {len(inputs)} inputs, {len(outputs)} outputs')
    if kind == "call":
        if not all(isinstance(value, list) for value in inputs):
            raise BrokenRecordError("an input of a call test is no list of arguments")
        tolerance = record.get("float_tolerance", FLOAT_TOLERANCE)
        if type(tolerance) not in (int, float):
            raise BrokenRecordError('field "float_tolerance" of the tests is no number')
        return CallTests(tuple(inputs), tuple(outputs), tolerance, _checker(record), alone)
    if not all(isinstance(value, str) for value in inputs + outputs):
        raise BrokenRecordError("an input or output of a stdin test is no text")
    return StdinTests(tuple(inputs), tuple(outputs), checker=_checker(record))


def _flag(record: Record, name: str) -> bool:
    value = record.get(name, False)
    if not isinstance(value, bool):
        raise BrokenRecordError(f'field "{name}" of the tests is neither true nor false')
    return value


def _checker(record: Record) -> Checker | None:
    try:
        return checker_of(record.get("checker"))
    except ValueError as error:
        raise BrokenRecordError(str(error)) from None


def program_of(problem: Problem, source: str) -> Program:
    """Return a program that answers a problem, ready for the judge."""
    return Program(source, problem.entry_point, problem.preamble)


def split_of(task_id: str, validation_share: float) -> str:
    """Return "validation" for about this share of all task ids, "train" for the others.

    The answer depends on the id alone: it is the same on every machine and in every order, and a
    larger share only moves problems from train to validation.
    """
    digest = hashlib.sha256(task_id.encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < validation_share * 2**64 else "train"


# Fields that the tests of older problems did not have: without them their fingerprints stay.
_UNSAID = {"checker": None, "process_per_test": False}


def fingerprint(problems: Iterable[Problem]) -> str:
    """Return a hash of all that the problems hold, as hex; their order does not matter."""
    digests = sorted(_digest(problem) for problem in problems)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(problem: Problem) -> bytes:
    values = [getattr(problem, field.name) for field in fields(problem)]
    return hashlib.sha256(_stable(values).encode("utf-8", "surrogatepass")).digest()


def _stable(value: Any) -> str:
    """Return a text that is equal for equal plain data, sets included, in every process."""
    if isinstance(value, (set, frozenset)):
        return f"{{{','.join(sorted(map(_stable, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_stable(k)}:{_stable(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{','.join(map(_stable, value))}]"
    if hasattr(value, "__dataclass_fields__"):
        said = [f.name for f in fields(value) if f.name not in _UNSAID]
        said += [name for name, unsaid in _UNSAID.items() if getattr(value, name, unsaid) != unsaid]
        return type(value).__name__ + _stable([getattr(value, name) for name in said])
    return repr(value)
