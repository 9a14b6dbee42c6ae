"""Builds the file of the suite: python -m suite_generator.build, in the folder tests/.

Takes the families and what `choose` chose (chosen.jsonl: the phrases and test inputs of each
problem), gives problems.jsonl.gz in our JSONL form.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from stepcoder.suite import FILE
from suite_generator.families import FAMILIES
from suite_generator.family import Instance, conditionals, instance

CHOSEN = Path(__file__).with_name("chosen.jsonl")


def difficulty(solution: str) -> str:
    """Return easy, medium or hard by the number of conditional statements."""
    count = conditionals(solution)
    return "easy" if count <= 3 else "medium" if count == 4 else "hard"


def to_record(built: Instance, inputs: list[list[Any]]) -> dict[str, Any]:
    """Return an instance with its tests; the expected outputs are what its solution returns."""
    namespace: dict[str, Any] = {}
    exec(built.solution, namespace)
    solve = namespace[built.family.name]
    return {
        "task_id": built.task_id,
        "source": f"suite/{built.family.topic}",
        "license": "Apache-2.0",
        "difficulty": difficulty(built.solution),
        "prompt": built.description,
        "starter_code": built.family.starter,
        "entry_point": built.family.name,
        "canonical_solution": built.solution,
        "tests": {"kind": "call", "inputs": inputs, "outputs": [solve(*args) for args in inputs]},
        "split": built.split,
    }


def build() -> str:
    """Return the suite as JSON lines, the same text in every process and Python version.

    Raises LookupError if a family was changed without choosing its tests again.
    """
    families = {family.name: family for family in FAMILIES}
    lines = []
    for line in CHOSEN.read_text(encoding="utf-8").splitlines():
        chosen = json.loads(line)
        family = families[chosen["task_id"].split("/")[1]]
        built = instance(family, chosen["phrases"])
        if built.task_id != chosen["task_id"]:
            raise LookupError(
                f"{CHOSEN.name} was made for {chosen['task_id']}, the family now gives "
                f"{built.task_id}: run python -m suite_generator.choose"
            )
        lines.append(json.dumps(to_record(built, chosen["inputs"])) + "\n")
    return "".join(lines)


def main() -> None:
    """Write the file; without a time in it, so that equal problems make equal bytes."""
    with gzip.GzipFile(FILE, "wb", mtime=0) as file:
        file.write(build().encode())


if __name__ == "__main__":
    main()
