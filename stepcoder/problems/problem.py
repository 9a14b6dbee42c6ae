"""Problems: what is asked, how it is tested, and one correct program.

Takes the path of a file or folder in any form of `formats`, or rows from elsewhere; gives Problems,
and a line for every record that is broken. Also here: the split into training and validation, and
the fingerprint by which a resumed run knows its data again.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from stepcoder.problems.fields import ProblemRecord, check_entry_point
from stepcoder.problems.files import Row, read_rows
from stepcoder.problems.formats import FORMS, form_of, renamed, to_schema
from stepcoder.problems.names import called_name, entry_point_in
from stepcoder.problems.schema import BrokenRecordError, ProblemSchema, read_record, read_tests
from stepcoder.problems.source import parse
from stepcoder.sandbox.checkers import Tolerance
from stepcoder.sandbox.program import CallTests, CodeTests, Program, Tests

# Names of one set: ours, EvalPlus' and those of its releases.
_SAME_NAMES = (("MBPP", "Mbpp", "MBPPPlus", "MbppPlus"), ("HumanEval", "HumanEvalPlus"))


@dataclass(frozen=True, slots=True)
class Problem:
    r"""A programming problem with its tests and one correct program.

    `prompt` is the description in words. `starter_code` is what a solution begins with: often a
    `def` line, sometimes empty. `canonical_solution` is a whole program, "" in sets that publish
    none; their problems are trained on at stage 0 alone. `entry_point` is what the tests call (see
    `sandbox.Program.entry_point`), None for programs that read stdin. `preamble` is code that runs
    before every solution, such as the imports of APPS. `split` is "train", "validation" or a name
    of the data set's own, such as "eval"; it says where the problem is used.

    Example:
        Problem(
            task_id="MBPP/602",
            prompt="Write a function that doubles a number.",
            starter_code="def double(x):\n",
            canonical_solution="def double(x):\n    return 2 * x\n",
            tests=CallTests(inputs=([1], [2.5]), outputs=(2, 5.0)),
            entry_point="double",
            source="MBPP",
            difficulty="introductory",
            split="train",
        )
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
    """A file or record cannot be read: one line that says where, what is wrong, and the fix."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The problems of a file in order, and one line for each record that was skipped.

    `reasons` counts the latter by what is wrong, the most frequent first.
    """

    problems: tuple[Problem, ...]
    skipped: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)


def load_problems(
    path: str | Path,
    *,
    strict: bool = False,
    validation_share: float = 0.0,
    columns: Mapping[str, str] | None = None,
) -> LoadReport:
    """Load every problem of a file or folder (`files`); see `problems_of` for the rest.

    A file that cannot be read, or holds no problem, raises ProblemError.
    """
    path = Path(path)
    options: dict[str, Any] = {"strict": strict, "validation_share": validation_share}
    try:
        return problems_of(read_rows(path), str(path), columns=columns, **options)
    except ProblemError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ProblemError(f"{path} cannot be read ({error})") from None


def problems_of(
    rows: Iterable[Row],
    source: str,
    *,
    strict: bool = False,
    validation_share: float = 0.0,
    columns: Mapping[str, str] | None = None,
) -> LoadReport:
    """Return the problems of rows from anywhere (`files.rows_of`: of plain dicts).

    The form is recognised from the records themselves, in which `columns` are renamed first. If
    nothing names a record's split, `split_of(task_id, validation_share)` decides. A broken record
    is skipped and reported. `source` is where the rows come from, for messages.

    Raises:
        ProblemError: there is no row, or no row has a column of `columns`; with `strict`, a record
            is broken.
    """
    problems: dict[str, Problem] = {}
    skipped: list[str] = []
    reasons: Counter[str] = Counter()
    unseen = set((columns or {}).values())
    form: str | None = None
    for where, record, part in rows:
        try:
            if isinstance(record, BrokenRecordError):
                raise record
            if isinstance(record, Problem):  # of a loader of the user's own
                problem, tests = record, getattr(record, "tests", None)
                if not isinstance(tests, Tests):
                    raise BrokenRecordError("Problem.tests are none of stepcoder.sandbox")
            elif not isinstance(record, dict):
                raise BrokenRecordError(f"{type(record).__name__} is no dict and no Problem")
            else:
                unseen -= record.keys()
                record = renamed(record, columns or {})
                # A record without tests is taken to have the form of the record before it.
                form = form_of(record) or form
                if form is None:
                    raise BrokenRecordError(f"no field of a known form ({', '.join(FORMS)})")
                problem = problem_of(to_schema(record, form, part), validation_share)
            if problem.canonical_solution:
                check_entry_point(problem.entry_point, problem.canonical_solution)
            if problem.task_id in problems:
                raise BrokenRecordError(f"task_id {problem.task_id!r} was used before")
        except BrokenRecordError as error:
            line = f"{source} {where}: {error}; fix the record or leave it out"
            if strict:
                raise ProblemError(line) from None
            skipped.append(line)
            reasons[_kind_of(str(error))] += 1
        else:
            problems[problem.task_id] = problem
    if not problems and not skipped:
        raise ProblemError(f"{source} holds no problem")
    if unseen:
        raise ProblemError(f'{source}: no record has the column "{min(unseen)}", which is renamed')
    return LoadReport(tuple(problems.values()), tuple(skipped), dict(reasons.most_common()))


def _kind_of(reason: str) -> str:
    """Return why a record was skipped without what only this record holds, to count by."""
    reason = re.sub(r'^(field "\w+") is (?!missing).*', r"\1 has another type", reason)
    return re.sub(r"'[^']*'|\b(?<!-)\d[\d,]*", "*", reason.partition(" (")[0])[:120]


def problem_of(record: ProblemRecord, validation_share: float = 0.0) -> Problem:
    """Return the problem of a record of our own schema. Raises BrokenRecordError."""
    fields = vars(read_record(ProblemSchema, record))
    split = fields["split"] or split_of(fields["task_id"], validation_share)
    tests = read_tests(fields["tests"])
    declared = fields["starter_code"] + "\n" + fields["canonical_solution"]
    if isinstance(tests, CallTests) and tests.in_place is None and fields["entry_point"]:
        tests = replace(tests, in_place=_in_place(tests, fields["entry_point"], declared))
    return Problem(**{**fields, "tests": tests, "split": split})


def _in_place(tests: CallTests, entry_point: str, code: str) -> int | None:
    """Return the argument that holds the answer of a function which is declared to return None.

    LeetCode's "do not return anything, modify nums in place": the first list or dict.
    """
    name = re.escape(called_name(entry_point))
    found = re.search(rf"\bdef {name}\([^)]*\)\s*->\s*None\s*:", code)
    if not found or all(output is None for output in tests.outputs):
        return None
    arguments = enumerate(tests.inputs[0])
    return next((i for i, given in arguments if isinstance(given, (list, dict))), None)


def known_as(task_id: str | int, problems: Mapping[str, Problem]) -> list[str]:
    """Return the task ids among `problems` that a sample's own may mean: itself, else other names.

    A problem of MBPP is 602 in the set, "MBPP/602" here, "Mbpp/602" in EvalPlus and, of MBPP+,
    "MBPPPlus/602"; HumanEval's and HumanEval+'s are named likewise. Of several none is meant.
    """
    if str(task_id) in problems:
        return [str(task_id)]
    family, _, number = str(task_id).rpartition("/")
    for names in _SAME_NAMES:
        if family in names or (not family and "MBPP" in names):
            return [f"{name}/{number}" for name in names if f"{name}/{number}" in problems]
    return []


def name_in_set(task_id: str) -> str:
    """Return the one name of a problem that a set and its releases name differently."""
    family, slash, number = task_id.rpartition("/")
    same = next((names[0] for names in _SAME_NAMES if family in names), family)
    return same + slash + number


def with_tolerance(problem: Problem, tolerance: float) -> Problem:
    """Return a problem whose calls and stdout are compared within a tolerance; checkers stay."""
    tests = problem.tests
    if isinstance(tests, CodeTests) or tests.checker is not None:
        return problem
    return replace(problem, tests=replace(tests, checker=Tolerance(tolerance, tolerance)))


def program_of(problem: Problem, source: str) -> Program:
    """Return a program that answers a problem, ready for the judge.

    Where neither a solution nor the starter code shows whether the function is a method of a class
    Solution, the program decides.
    """
    entry_point = problem.entry_point
    shown = problem.canonical_solution or "." in (entry_point or ".")
    if entry_point and not shown and "class Solution" in source:
        with suppress(SyntaxError):
            entry_point = entry_point_in(parse(source), entry_point)
    return Program(source, entry_point, problem.preamble)


def split_of(task_id: str, validation_share: float) -> str:
    """Return "validation" for about this share of all task ids, "train" for the others.

    The answer depends on the id alone: it is the same on every machine and in every order, and a
    larger share only moves problems from train to validation.
    """
    digest = hashlib.sha256(task_id.encode()).digest()
    return "validation" if int.from_bytes(digest[:8]) < validation_share * 2**64 else "train"


# Later fields of tests and checkers. At these values they are left out of fingerprints, so that
# the fingerprints of older runs stay valid.
_DEFAULTS_OMITTED_FROM_FINGERPRINT: dict[str, Any] = {
    "checker": None,
    "process_per_test": False,
    "in_place": None,
    "absolute_tolerance": None,
    "input_file": "",
    "output_file": "",
    "subtasks": (),
}


def fingerprint(problems: Iterable[Problem]) -> str:
    """Return a SHA-256 of all fields of the problems, as hex; their order does not matter."""
    digests = sorted(_digest(problem) for problem in problems)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(problem: Problem) -> bytes:
    values = [getattr(problem, field.name) for field in fields(problem)]
    return hashlib.sha256(_stable(values).encode("utf-8", "surrogatepass")).digest()


def _stable(value: Any) -> str:
    """Return a text of plain data that is the same in every process, for sets too."""
    if isinstance(value, (set, frozenset)):
        return f"{{{','.join(sorted(map(_stable, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_stable(k)}:{_stable(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{','.join(map(_stable, value))}]"
    if hasattr(value, "__dataclass_fields__"):
        omitted = _DEFAULTS_OMITTED_FROM_FINGERPRINT
        names = [f.name for f in fields(value) if f.name not in omitted]
        names += [name for name, plain in omitted.items() if getattr(value, name, plain) != plain]
        return type(value).__name__ + _stable([getattr(value, name) for name in names])
    # Python shows no more than 4,300 digits of an int.
    return hex(value) if type(value) is int and value.bit_length() > 1 << 13 else repr(value)
