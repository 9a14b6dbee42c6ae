"""A stage of a pipeline that judges samples in batches, such as one of Ray Data:

    ray.data.read_json("samples/").map_batches(
        JudgeStage, fn_constructor_args=("problems.jsonl",), num_cpus=8,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=64),
    ).write_parquet("judged/")

Each copy has a judge of its own. It knows nothing of Ray: `JudgeStage(problems)(batch)` judges.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepcoder.command import sample_of
from stepcoder.judge.command import MISSING, program_of_sample
from stepcoder.problems.problem import load_problems
from stepcoder.sandbox import Judge, Limits


class JudgeStage:
    """Judges batches of rows that have `task_id` and `solution` or `completion`."""

    def __init__(
        self,
        problems: str | Path,
        workers: int | None = None,
        limits: Limits = Limits(),  # noqa: B008
        libraries: Sequence[str] | None = None,
    ) -> None:
        """Read the problems and start the judge, with as many workers as Ray gave it CPUs."""
        self._problems = {p.task_id: p for p in load_problems(Path(problems)).problems}
        workers = workers or int(os.environ.get("OMP_NUM_THREADS") or 0)  # which Ray sets to them
        self._judge = Judge(workers or None, limits, libraries=libraries)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a batch, and those of its verdicts.

        Raises:
            InputError: a row cannot be judged; the message has its place in the batch.
        """
        names = [
            name for name in ("task_id", "solution", "completion", "language") if name in batch
        ]
        pending = []
        for place, values in enumerate(zip(*(batch[name] for name in names), strict=True)):
            row = {name: str(value) for name, value in zip(names, values, strict=True)}
            fields, where = ("solution", "completion"), f"row {place} of a batch"
            found = (self._problems, fields, program_of_sample, MISSING)
            sample = sample_of(json.dumps(row).encode(), where, *found)
            pending.append(self._judge.submit_all(sample.submission))
        verdicts = [verdict.result() for verdict in pending]
        return batch | {
            "status": [str(verdict.status) for verdict in verdicts],
            "passed": [verdict.passed for verdict in verdicts],
            "points": [verdict.points for verdict in verdicts],
            "message": [verdict.message for verdict in verdicts],
        }
