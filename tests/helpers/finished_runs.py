"""What two runs have in common: their last checkpoints' states, their records."""

from pathlib import Path

import torch

from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import load_state, newest_checkpoint


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
    for state in (left, right):  # the sum of an index with the folder's name and a random number
        state.pop("/parts/.metadata", None)
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
    timed = {"time", "timeline", "hidden_judge_share", "tokens_per_s", "slowest_judge_s", "slowest"}
    timed.add("logged_at")
    return [{k: v for k, v in r.items() if k not in timed} for r in read_records(folder)]
