"""Rows of other trainers' data, as records of our own schema: a prompt, and tests in some layout.

verl's rows (PRIME/Eurus-2, DeepCoder, SkyRL), DeepCoder's own file, PrimeIntellect's verifiable
problems, and whatever `data.columns` names. Most have no solution.
"""

from __future__ import annotations

import re
from typing import Any

from stepcoder.problems.fields import (
    ProblemRecord,
    entry_point_of,
    field,
    fitting_solution,
    message_text,
)
from stepcoder.problems.layouts import parsed, read_layout
from stepcoder.problems.schema import BrokenRecordError

_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


def from_rows(record: ProblemRecord, source: str = "") -> ProblemRecord:
    """Return a record with our fields' names, whose tests may be in any layout of `layouts`.

    Our own records stay as they are. Of a list of solutions the first that fits is taken.
    """
    tests = record.get("tests")
    if isinstance(tests, dict) and "kind" in tests:
        return dict(record)
    given = record.get("prompt")
    prompt = message_text(given) if isinstance(given, list) else field(record, "prompt", str)
    field(record, "tests", object, "tests")
    tests, name, preamble = read_layout(tests, prompt)
    solutions = record.get("canonical_solution") or []
    if not isinstance(solutions, list):
        solutions = [field(record, "canonical_solution", str)]
    starter = str(record.get("starter_code") or "")
    solution, entry_point = fitting_solution(solutions, name, starter)
    return {
        **record,
        "prompt": prompt,
        "canonical_solution": solution,
        "starter_code": starter,
        "entry_point": record.get("entry_point") or entry_point,
        "tests": tests,
        "preamble": record.get("preamble") or preamble,
        "source": record.get("source") or source,
    }


def from_deepcoder(record: ProblemRecord) -> ProblemRecord:
    """Return a row of DeepCoder's own file; `metadata` may name the function."""
    tests = record.get("tests")
    metadata = record.get("metadata")
    if isinstance(metadata, str):
        metadata = parsed(metadata or "null")
    if isinstance(tests, str):
        tests = parsed(tests)
    if isinstance(metadata, dict) and metadata.get("func_name") and isinstance(tests, list):
        tests = [{"metadata": metadata, **case} for case in tests if isinstance(case, dict)]
    solutions = record.get("solutions")
    return from_rows(
        {
            "prompt": record.get("problem"),
            "tests": tests,
            "canonical_solution": [_unfenced(s) for s in solutions]
            if isinstance(solutions, list)
            else _unfenced(solutions),
            "starter_code": record.get("starter_code"),
        },
        "DeepCoder",
    )


def from_primeintellect(record: ProblemRecord) -> ProblemRecord:
    """Return a row of PrimeIntellect's verifiable problems, also of open-r1's copies of them.

    Raises:
        BrokenRecordError: the row is no coding problem in Python, or its tests are broken.
    """
    info = record.get("verification_info")
    if isinstance(info, str):
        info = parsed(info)
    info = field({"verification_info": info}, "verification_info", dict)
    if str(info.get("language") or "python").lower() not in ("python", "python3"):
        raise BrokenRecordError(f"a problem in {info['language']}")
    name = record.get("problem_id") or record.get("in_source_id")
    return from_rows(
        {
            "task_id": str(name or ""),
            "prompt": record.get("prompt"),
            "tests": info.get("test_cases"),
            "canonical_solution": _unfenced(record.get("gold_standard_solution")),
        },
        "PrimeIntellect",
    )


def from_verl(record: ProblemRecord) -> ProblemRecord:
    """Return a row of verl's: a chat as prompt, the tests as ground truth, no solution."""
    truth = field(record, "reward_model", dict).get("ground_truth")
    info = field(record, "extra_info", dict) if record.get("extra_info") else {}
    prompt = message_text(field(record, "prompt", list, "a list of messages"))
    tests, name, preamble = read_layout(truth, prompt)
    starter, source = str(info.get("starter_code") or ""), str(record.get("data_source") or "verl")
    index, split = info.get("index"), str(info.get("split") or "")
    return {
        "task_id": "" if index is None else "/".join(filter(None, (source, split, str(index)))),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": info.get("entry_point") or entry_point_of(name, starter or prompt),
        "tests": tests,
        "preamble": info.get("preamble") or preamble,
        "source": source,
        "split": {"test": "eval", "val": "validation"}.get(split, split),
    }


def _unfenced(solution: Any) -> Any:
    """Return a program without the code fence that some sets have around it."""
    found = _FENCED.search(solution) if isinstance(solution, str) else None
    return found[1] if found else solution
