"""Rollouts as plain data: kept in checkpoints, dumped by step, and replayed without an engine.

A dump is `rollouts/step-000012.jsonl.gz` in the run's folder: a line a completion, with its prompt
and seed. Judging is not recorded: it is done again, with the same result.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stepcoder.errors import RunError
from stepcoder.problems.problem import Problem
from stepcoder.rollout.engine import Completion, Engine, Request, Sampling
from stepcoder.rollout.rollout import Rollout, Task, sample_seed

ROLLOUTS = "rollouts"


def to_plain(rollouts: Sequence[Rollout], samples: int) -> dict[str, Any]:
    """Return a batch of rollouts, `samples` a task, as plain data without its verdicts."""
    tasks = [r.task for r in rollouts[::samples]]
    return {
        "tasks": [
            {
                "task_id": task.problem.task_id,
                "stage": task.stage,
                "given": task.given,
                "prompt_text": task.prompt_text,
                "seed": task.seed,
                "before_code": task.before_code,
                "in_own_words": task.in_own_words,
            }
            for task in tasks
        ],
        "completions": [asdict(r.completion) for r in rollouts],
    }


def from_plain(
    plain: Mapping[str, Any], problems: Mapping[str, Problem]
) -> tuple[list[Task], list[Completion]]:
    """Return the tasks and completions of `to_plain`'s data."""
    tasks = [
        Task(problems[t["task_id"]], **{key: t[key] for key in t.keys() - {"task_id"}})
        for t in plain["tasks"]
    ]
    return tasks, [_completion(c) for c in plain["completions"]]


def _completion(data: Mapping[str, Any]) -> Completion:
    lists = {key: tuple(data[key]) for key in ("token_ids", "logprobs")}
    return Completion(**{**data, **lists})


def dump(folder: Path, step: int, rollouts: Sequence[Rollout], samples: int) -> None:
    """Write what the engine gave for a step."""
    (folder / ROLLOUTS).mkdir(exist_ok=True)
    partial = folder / ROLLOUTS / f".step-{step:06d}"
    with gzip.open(partial, "wt", encoding="utf-8", compresslevel=3) as file:
        for rollout in rollouts:
            completion = asdict(rollout.completion)
            seed = sample_seed(rollout.task, completion["index"] % samples)
            record = {"prompt_ids": rollout.prompt_ids, "seed": seed, **completion}
            file.write(json.dumps(record) + "\n")
    partial.rename(folder / ROLLOUTS / f"step-{step:06d}.jsonl.gz")


class ReplayEngine(Engine):
    """Gives the completions that a dump holds for the same prompts and seeds."""

    def __init__(self, folder: Path) -> None:
        """Replay the run of `folder`; its files are read as they are needed.

        Raises:
            RunError: it has no dumped rollouts.
        """
        self._files = sorted((folder / ROLLOUTS).glob("step-*.jsonl.gz"))
        self._name = folder
        self._known: dict[tuple[tuple[int, ...], int], Completion] = {}
        if not self._files:
            raise RunError(
                f"rollout.replay: {folder} has no dumped rollouts; run it with rollout.dump=true"
            )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:  # noqa: ARG002
        """Yield the recorded completions.

        Raises:
            RunError: there is none for a request.
        """
        for index, request in enumerate(requests):
            key = (request.prompt_ids, request.seed)
            while key not in self._known:
                if not self._files:
                    raise RunError(
                        f"rollout.replay: {self._name} holds no completion for a prompt of "
                        f"{len(key[0])} tokens with seed {key[1]}; replay with the run's own "
                        "configuration, data and checkpoint"
                    )
                self._read(self._files.pop(0))
            yield replace(self._known.pop(key), index=index)

    def _read(self, file: Path) -> None:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                key = (tuple(record.pop("prompt_ids")), record.pop("seed"))
                self._known[key] = _completion(record)

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Do nothing: there are no weights."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
