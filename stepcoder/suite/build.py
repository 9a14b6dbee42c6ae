"""Builds the suite's problems from its families and the inputs chosen for them (tests.jsonl)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepcoder.problems import Problem
from stepcoder.sandbox.program import CallTests
from stepcoder.suite.families import FAMILIES
from stepcoder.suite.family import Instance, conditionals, instances

CHOSEN = Path(__file__).with_name("tests.jsonl")
PER_FAMILY = 60


def all_instances() -> Iterator[Instance]:
    """Yield the instances of all families, each solution once."""
    seen: set[str] = set()
    for family in FAMILIES:
        for instance in instances(family, PER_FAMILY):
            if instance.key not in seen:
                seen.add(instance.key)
                yield instance


def difficulty(solution: str) -> str:
    """Return easy, medium or hard by the number of conditional statements."""
    count = conditionals(solution)
    return "easy" if count <= 3 else "medium" if count == 4 else "hard"


def to_problem(instance: Instance, inputs: list[list[Any]]) -> Problem:
    """Return the instance with its tests; the expected outputs are what its solution returns."""
    namespace: dict[str, Any] = {}
    exec(instance.solution, namespace)
    solve = namespace[instance.family.name]
    return Problem(
        task_id=instance.task_id,
        prompt=instance.description,
        starter_code=instance.family.starter,
        canonical_solution=instance.solution,
        tests=CallTests(tuple(inputs), tuple(solve(*args) for args in inputs)),
        entry_point=instance.family.name,
        source=f"suite/{instance.family.topic}",
        difficulty=difficulty(instance.solution),
        split=instance.split,
    )


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Return the suite, the same problems in the same order each time.

    Raises LookupError if a family was changed without choosing its tests again.
    """
    with CHOSEN.open(encoding="utf-8") as file:
        chosen = {record["task_id"]: record.get("inputs") for record in map(json.loads, file)}
    found = []
    for instance in all_instances():
        if instance.task_id not in chosen:
            raise LookupError(
                f"{CHOSEN.name} has no tests for {instance.task_id}; the families have changed: "
                "run python -m stepcoder.suite.choose"
            )
        inputs = chosen[instance.task_id]
        if inputs is not None:
            found.append(to_problem(instance, inputs))
    return tuple(found)
