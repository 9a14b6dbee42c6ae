"""The embedded suite: 4,680 small programming problems that ship with StepCoder as data.

`problems()` loads them; `python -m stepcoder.suite --out FILE` writes them as plain JSONL. The
generator of the file, which no user needs, is in tests/suite_generator/ of the repository.
"""

from __future__ import annotations

import functools
from pathlib import Path

from stepcoder.problems.problem import Problem, load_problems

FILE = Path(__file__).with_name("problems.jsonl.gz")


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Return the suite, the same problems in the same order each time."""
    return load_problems(FILE, strict=True).problems
