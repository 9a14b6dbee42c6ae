"""Judging programs: a file of problems and a file of samples to a file of verdicts.

    python examples/judge_a_file.py FOLDER

writes both files to a folder and runs what you would run on your own:

    python -m stepcoder.judge samples.jsonl --problems problems.jsonl -o verdicts.jsonl
"""

import json
import sys
from pathlib import Path

from stepcoder.judge.command import main as judge

PROBLEMS = [
    {
        "task_id": "double",
        "prompt": "Write a function that doubles a number.",
        "starter_code": "def double(x):\n",
        "canonical_solution": "def double(x):\n    return 2 * x\n",
        "entry_point": "double",
        "tests": {"kind": "call", "inputs": [[1], [-3]], "outputs": [2, -6]},
    },
]
SAMPLES = [
    {"task_id": "double", "completion": "    return x + x\n"},  # goes on from the starter code
    {"task_id": "double", "solution": "def double(x):\n    return x ** 2\n"},
    {"task_id": "double", "solution": "def double(x):\n    while True: pass\n"},
    {"task_id": "double", "solution": "import os\nos._exit(0)\n"},
]


def main(folder: Path) -> list[str]:
    """Judge the samples, and return the verdicts' statuses."""
    paths = {name: str(folder / f"{name}.jsonl") for name in ("problems", "samples", "verdicts")}
    for name, records in (("problems", PROBLEMS), ("samples", SAMPLES)):
        Path(paths[name]).write_text("".join(json.dumps(record) + "\n" for record in records))
    judge([paths["samples"], "--problems", paths["problems"], "-o", paths["verdicts"]])
    _, *lines = Path(paths["verdicts"]).read_text().splitlines()  # the first names the inputs
    return [json.loads(line)["status"] for line in lines]


if __name__ == "__main__":
    sys.stdout.write("\n".join(main(Path(sys.argv[1]))) + "\n")
