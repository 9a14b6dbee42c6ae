"""Runs of a second: a tiny decoder on few problems, and what two runs' ends have to share."""

import json
from pathlib import Path

import torch

from stepcoder.checkpoint import load_state, newest_checkpoint
from stepcoder.rundir import read_records
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


def states_equal(one: Path, two: Path) -> list[str]:
    """Names of the parts of two checkpoints' states that differ."""

    def flat(value, name=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(inner, f"{name}/{key}")
        elif isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                yield from flat(inner, f"{name}/{number}")
        else:
            yield name, value

    left, right = (dict(flat(load_state(newest_checkpoint(p / "checkpoints")))) for p in (one, two))
    assert left.keys() == right.keys()
    assert len(left) > 50
    return [
        name
        for name, value in left.items()
        if not (
            torch.equal(value, right[name])
            if isinstance(value, torch.Tensor)
            else value == right[name]
        )
    ]


def untimed(folder: Path) -> list[dict]:
    """The records of a run without what depends on the clock."""
    timed = {"time", "timeline", "hidden_judge_share", "tokens_per_s", "slowest_judge_s"}
    timed.add("logged_at")
    return [{k: v for k, v in r.items() if k not in timed} for r in read_records(folder)]
