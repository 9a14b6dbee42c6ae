"""Builds the suite's problems from its families and the inputs chosen for them (tests.jsonl)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from stepcoder.problems import Problem
from stepcoder.sandbox.program import CallTests
from stepcoder.suite.generator.families import FAMILIES
from stepcoder.suite.generator.family import Instance, conditionals, instance

CHOSEN = Path(__file__).with_name("tests.jsonl")


def difficulty(solution: str) -> str:
    """Return easy, medium or hard by the number of conditional statements."""
    count = conditionals(solution)
    return "easy" if count <= 3 else "medium" if count == 4 else "hard"


def to_problem(built: Instance, inputs: list[list[Any]]) -> Problem:
    """Return the instance with its tests; the expected outputs are what its solution returns."""
    namespace: dict[str, Any] = {}
    exec(built.solution, namespace)
    solve = namespace[built.family.name]
    return Problem(
        task_id=built.task_id,
        prompt=built.description,
        starter_code=built.family.starter,
        canonical_solution=built.solution,
        tests=CallTests(tuple(inputs), tuple(solve(*args) for args in inputs)),
        entry_point=built.family.name,
        source=f"suite/{built.family.topic}",
        difficulty=difficulty(built.solution),
        split=built.split,
    )


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Return the suite, the same problems in the same order each time.

    Raises LookupError if a family was changed without choosing its tests again.
    """
    families = {family.name: family for family in FAMILIES}
    found = []
    for line in CHOSEN.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        family = families[record["task_id"].split("/")[1]]
        built = instance(family, record["phrases"])
        if built.task_id != record["task_id"]:
            raise LookupError(
                f"{CHOSEN.name} was made for {record['task_id']}, the family now gives "
                f"{built.task_id}: run python -m stepcoder.suite.generator.choose"
            )
        found.append(to_problem(built, record["inputs"]))
    return tuple(found)
