"""Problems from wherever you have them: a function that yields rows, or Problems.

    python -m stepcoder.train data.path=examples/own_loader.py:problems
    python -m stepcoder.evaluate examples/own_loader.py:problems --canonical -o out

Rows are dicts in any form that a problem file may have (docs/evaluate.md). They may come from a
data base, from the hub or, as here, from a few lines of Python. A row that cannot be read is
skipped, and named.
"""

from collections.abc import Iterator
from typing import Any

from stepcoder.problems import Problem
from stepcoder.sandbox import CallTests


def problems() -> Iterator[dict[str, Any] | Problem]:
    """Yield a problem for each multiple of a number, one of them held out, and a last one."""
    for factor in range(2, 12):
        name = f"times_{factor}"
        yield {
            "task_id": f"multiples/{factor}",
            "prompt": f"Write a function that multiplies a number by {factor}.",
            "starter_code": f"def {name}(x):\n",
            "canonical_solution": f"def {name}(x):\n    return {factor} * x\n",
            "entry_point": name,
            "tests": {"kind": "call", "inputs": [[1], [5]], "outputs": [factor, 5 * factor]},
            "split": "validation" if factor == 11 else "train",
        }
    yield Problem(
        task_id="multiples/half",
        prompt="Write a function that halves a number.",
        starter_code="def half(x):\n",
        canonical_solution="def half(x):\n    return x / 2\n",
        tests=CallTests(inputs=([1], [4]), outputs=(0.5, 2.0)),
        entry_point="half",
    )
