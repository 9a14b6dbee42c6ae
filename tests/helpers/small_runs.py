"""Runs of a second: a tiny decoder on few problems."""

import json
from pathlib import Path

from stepcoder.train import main

SMALL = [
    "threads=1",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "model.kv_heads=1",
    "model.vocabulary=320",
    "sft.batch_size=8",
    "rollout.tasks_per_step=4",
    "rollout.samples_per_task=2",
    "rollout.max_new_tokens=24",
    "eval.limit=4",
    "sandbox.workers=1",
    "data.validation_share=0.0",
]


def constant_problems(path: Path, answers=(3, 3, 3, 3, 1, 2, 4, 5)) -> Path:
    """Problems that all read the same and want a number: what a policy can learn is the odds."""
    records = [
        {
            "task_id": f"constant/{place}",
            "prompt": "Give a number.",
            "starter_code": "def f(x):\n",
            "canonical_solution": f"def f(x):\n    return {answer}\n",
            "entry_point": "f",
            "tests": {"kind": "call", "inputs": [[0], [1]], "outputs": [answer, answer]},
            "split": "train",
        }
        for place, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run(folder: Path, *overrides: str, command: tuple[str, ...] = ()) -> int:
    named = [] if command else [f"run_dir={folder}"]
    return main([*command, *SMALL, *named, *overrides])
