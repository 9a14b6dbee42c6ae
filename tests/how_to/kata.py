"""A further form of problem files: records with `instructions`, `solution` and `cases`."""

from __future__ import annotations

from typing import Any

from stepcoder.problems.fields import field


def from_kata(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of our own schema. Raises BrokenRecordError that names the field.

    A case is [arguments, result].
    """
    name = field(record, "function", str)
    cases = field(record, "cases", list)
    return {
        "task_id": field(record, "task_id", str),
        "prompt": field(record, "instructions", str),
        "starter_code": record.get("stub") or "",
        "entry_point": name,
        "canonical_solution": field(record, "solution", str),
        "tests": {
            "kind": "call",
            "inputs": [case[0] for case in cases],
            "outputs": [case[1] for case in cases],
        },
        "source": "Kata",
        "split": record.get("split"),
    }
