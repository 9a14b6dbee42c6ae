"""APPS, TACO and APPS+: competition problems with solutions, as records of our own schema.

- APPS (arXiv 2105.09938): a folder a problem, or the rows of its copy on the hub
- TACO (arXiv 2312.14852): the same columns without an id, for which the statement stands
- APPS+ (StepCoder, arXiv 2402.01391): every program is a function

Columns hold JSON in a text, or what it decodes to.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from stepcoder.problems.fields import ProblemRecord, decoded, field, fitting_solution
from stepcoder.problems.layouts import HARNESS_PREAMBLE, read_layout
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.tolerance import number_fields


def from_apps(record: ProblemRecord) -> ProblemRecord:
    """Return a record of APPS or TACO; the solution is the first that fits, "" if there is none."""
    solutions = decoded(record, "solutions", list) if record.get("solutions") else []
    data = decoded(record, "input_output", dict)
    for part in ("inputs", "outputs"):
        field(data, part, list)
    prompt = field(record, "question", str)
    tests, name, preamble = read_layout(data, prompt)
    starter = field(record, "starter_code", str) if record.get("starter_code") else ""
    solution, entry_point = fitting_solution(solutions, name, starter)
    names = (record.get(key) for key in ("task_id", "problem_id", "id"))
    return {
        "task_id": str(next((name for name in names if name is not None), "")),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": entry_point,
        "canonical_solution": solution,
        "tests": tests,
        "preamble": preamble,
        # APPS has no column for where a problem comes from; TACO's names a site.
        "source": "TACO" if "source" in record else "APPS",
        "difficulty": record.get("difficulty"),
    }


def from_apps_plus(record: ProblemRecord) -> ProblemRecord:
    """Return a record of APPS+, where the entry point is always a function.

    It takes the arguments of a test, or takes none and reads stdin.
    """
    starter = field(record, "starter_code", str)
    inputs, outputs = field(record, "inputs", list), field(record, "outputs", list)
    functions = re.findall(r"^\s*(?:async\s+)?def\s+(\w+)", starter, re.MULTILINE)
    owner = re.search(r"^\s*class\s+(\w+)", starter, re.MULTILINE)
    if not functions:
        raise BrokenRecordError('field "starter_code" defines no function')
    kind = "call" if any(isinstance(value, list) for value in inputs) else "stdin"
    if kind == "call":
        if not all(isinstance(value, list) and len(value) == 1 for value in outputs):
            raise BrokenRecordError('field "outputs" holds no list of one-element lists')
        inputs = [_unquoted(value) for value in inputs]
        outputs = [_unquoted(value[0]) for value in outputs]
    prompt = field(record, "prompt", str)
    return {
        "task_id": field(record, "task_id", str),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": f"{owner[1]}().{functions[-1]}" if owner else functions[-1],
        "canonical_solution": record.get("canonical_solution") or "",
        "tests": {"kind": kind, "inputs": inputs, "outputs": outputs}
        | number_fields(kind, outputs, prompt),
        "preamble": HARNESS_PREAMBLE,
        "source": "APPS+",
        "difficulty": record.get("difficulty"),
    }


def _unquoted(value: Any) -> Any:
    """Return plain data with the quotes inside its strings removed: '"ab"' becomes 'ab'."""
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {_unquoted(key): _unquoted(item) for key, item in value.items()}
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value[1:-1]
        return literal if isinstance(literal, str) else value
    return value
