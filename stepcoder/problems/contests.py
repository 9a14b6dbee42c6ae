"""Contest problems of sets that bring their own tests, as records of our own schema.

LiveCodeBench (arXiv 2403.07974), open-r1/codeforces, CodeContests (arXiv 2203.07814) and
CodeContests+ (arXiv 2506.05817). Their programs read stdin, but for LiveCodeBench's functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepcoder.problems.fields import ProblemRecord, entry_point_of, field, fitting_solution
from stepcoder.problems.layouts import read_layout
from stepcoder.problems.schema import BrokenRecordError

_PYTHON = (3, "PYTHON3", "python3", "py3")  # as CodeContests and CodeContests+ name Python 3


def from_livecodebench(record: ProblemRecord) -> ProblemRecord:
    """Return a row of LiveCodeBench, which has no solution."""
    prompt = field(record, "question_content", str)
    starter = field(record, "starter_code", str) if record.get("starter_code") else ""
    tests, name, preamble = read_layout(record, prompt)
    return {
        "task_id": field(record, "question_id", str),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": entry_point_of(name, starter),
        "tests": tests,
        "preamble": preamble,
        "source": "LiveCodeBench",
        "difficulty": record.get("difficulty"),
        "split": "eval",
    }


def from_codeforces(record: ProblemRecord) -> ProblemRecord:
    """Return a row of open-r1/codeforces: its checker, its files in place of stdin, no solution.

    Interactive problems are refused: their tests are no expected outputs.
    """
    if record.get("interaction_format"):
        raise BrokenRecordError("an interactive problem, which needs an interactor")
    parts = ("description", "input_format", "output_format", "note")
    prompt = "\n\n".join(str(record[name]) for name in parts if record.get(name))
    tests = read_layout(field(record, "official_tests", list), prompt).tests
    if record.get("generated_checker"):
        source = field(record, "generated_checker", str)
        tests["checker"] = {"kind": "program", "source": source, "convention": "open-r1"}
    if record.get("input_mode") == "file":
        tests |= {"input_file": "input.txt", "output_file": "output.txt"}
    return {
        "task_id": f"codeforces/{field(record, 'id', str)}",
        "prompt": prompt,
        "tests": tests,
        "source": "open-r1/codeforces",
        "difficulty": record.get("rating"),
    }


def from_code_contests(record: ProblemRecord) -> ProblemRecord:
    """Return a row of CodeContests, with all three kinds of its tests.

    The solution is the first in Python 3, "" where there is none.
    """
    prompt = field(record, "description", str)
    cases: list[ProblemRecord] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        cases += _rows(record.get(name) or [], name, "input", "output")
    if not cases:
        raise BrokenRecordError('"public_tests", "private_tests" and "generated_tests" are empty')
    tests, _, preamble = read_layout(cases, prompt)
    for name in ("input_file", "output_file"):
        if record.get(name) not in (None, "", "stdin", "stdout"):
            tests[name] = field(record, name, str)
    solutions = _rows(record.get("solutions") or [], "solutions", "language", "solution")
    return {
        "task_id": field(record, "name", str),
        "prompt": prompt,
        "canonical_solution": _in_python(solutions, "solution"),
        "tests": tests,
        "preamble": preamble,
        "source": "CodeContests",
        "difficulty": str(record.get("cf_rating") or "") or None,
    }


def from_code_contests_plus(record: ProblemRecord) -> ProblemRecord:
    """Return a row of CodeContests+ (the configurations 1x to 5x), with its testlib checker.

    Raises:
        BrokenRecordError: no test, or no testlib.h beside the data, which the checker includes.
    """
    prompt = field(record, "description", str)
    tests, _, preamble = read_layout(field(record, "test_cases", list), prompt)
    if record.get("checker"):
        headers = record.get("headers") or {}
        source = field(record, "checker", str)
        if "testlib.h" in source and not headers:
            raise BrokenRecordError(
                "its checker includes testlib.h; lay that file beside the data (github.com/"
                "MikeMirzayanov/testlib)"
            )
        tests["checker"] = {"kind": "testlib", "source": source, "headers": headers}
    solutions = _rows(record.get("correct_submissions") or [], "correct_submissions", "language")
    return {
        "task_id": f"{record.get('source') or 'codecontests+'}/{record.get('id')}",
        "prompt": prompt,
        "canonical_solution": _in_python(solutions, "code"),
        "tests": tests,
        "preamble": preamble,
        "source": "CodeContests+",
    }


def _rows(value: Any, name: str, *columns: str) -> list[ProblemRecord]:
    """Return a list of objects, which `datasets` and parquet may hold as an object of columns."""
    if isinstance(value, dict):
        lists = [field(value, column, list) for column in columns]
        if len(set(map(len, lists))) > 1:
            raise BrokenRecordError(f'field "{name}" has columns of different lengths')
        value = [dict(zip(columns, items, strict=True)) for items in zip(*lists, strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BrokenRecordError(f'field "{name}" is no list of objects')
    return value


def _in_python(solutions: list[ProblemRecord], key: str) -> str:
    """Return the first program in Python 3 that parses, "" for none."""

    def programs() -> Iterator[Any]:
        return (each.get(key) for each in solutions if each.get("language") in _PYTHON)

    return fitting_solution(programs(), None, "")[0]
