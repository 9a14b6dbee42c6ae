"""Reward functions for other trainers, TRL and verl, in the signatures that they expect.

Take completions and tests, in the form of problems.jsonl ({"kind": "call", ...}) or a layout that
other sets publish (`problems.layouts`); give StepCoder's rewards: +1 right, -0.3 wrong, -0.6 error
or limit, -1 does not compile.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from stepcoder.method.rewards import reward
from stepcoder.problems.answers import mended_program
from stepcoder.problems.layouts import read_layout
from stepcoder.problems.names import entry_point_in
from stepcoder.problems.schema import read_tests
from stepcoder.problems.source import parse
from stepcoder.sandbox import Judge, Limits, Program, Status, Submission, Verdict

_logger = logging.getLogger("stepcoder.adapters")
_MOST_LINES = 100  # different warnings; all failures are counted


def code_of(
    completion: str | Sequence[Mapping[str, Any]],
    entry_point: str | None = None,
    starter_code: str | None = None,
) -> str:
    """Return the program of a completion (`answers.mended_program`).

    Of a conversation (a list of messages, as TRL passes it), the last message counts.
    """
    text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
    return mended_program(text, entry_point, starter_code or "")


def submission_of(
    source: str, tests: Any, entry_point: str | None = None, preamble: str | None = None
) -> Submission:
    """Return a program with tests in any layout of `layouts`. Raises ValueError that says why not.

    Layouts of other sets bring the name of the function, and the imports of their harnesses.
    """
    record, name, imports = read_layout(tests)
    if name and not entry_point:
        try:
            entry_point = entry_point_in(parse(source), name)
        except SyntaxError:  # that is the verdict, whatever the tests call
            entry_point = name
    return Submission(Program(source, entry_point or None, preamble or imports), read_tests(record))


class CodeReward:
    """A reward function for TRL: `GRPOTrainer(reward_funcs=CodeReward(), ...)`.

    The data set needs a column `tests`, as JSON text or data in a layout of `layouts`, and may have
    `entry_point`, `preamble` and `starter_code`, which a completion continues. A context manager; a
    forked process starts a judge of its own. Where the judge itself failed, or tests cannot be
    read, the reward is None, which TRL leaves out; a warning says why, and `failures` counts them.
    """

    __name__ = "code_reward"

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits = Limits(),  # noqa: B008
        libraries: Sequence[str] | None = None,
    ) -> None:
        """Keep the settings of the judge, which starts at the first call."""
        self._workers, self._limits, self._libraries = workers, limits, libraries
        self._judge: Judge | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self.failures = 0

    def __enter__(self) -> CodeReward:
        """Return itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the judge."""
        self.close()

    def close(self) -> None:
        """End the judge's processes."""
        with self._lock:
            if self._judge is not None and self._owner == os.getpid():
                self._judge.close()
            self._judge = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the judge out: a copy in another process has one of its own."""
        return {
            "workers": self._workers,
            "limits": self._limits,
            "libraries": self._libraries,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin without a judge."""
        self.__init__(**state)  # type: ignore[misc]

    def _running(self) -> Judge:
        with self._lock:
            if self._judge is None or self._owner != os.getpid():
                self._judge = Judge(self._workers, self._limits, libraries=self._libraries)
                self._owner = os.getpid()
            return self._judge

    def submit(self, source: str, *tests: Any) -> Future[Verdict]:
        """Queue a program with the arguments of `submission_of`.

        What cannot be judged gets an infrastructure error: it says nothing about the program, and
        one bad record must not end a training run.
        """
        try:
            return self._running().submit_all(submission_of(source, *tests))
        except (TypeError, ValueError) as error:
            future: Future[Verdict] = Future()
            future.set_result(Verdict(Status.INFRASTRUCTURE_ERROR, message=str(error)))
            return future

    def reward(self, verdict: Verdict, where: str) -> float | None:
        """Return the reward of a verdict; None, counted and told once, where there is none."""
        score = reward(verdict)
        if score is None:
            with self._lock:
                self.failures += 1
                new = verdict.message not in self._said and len(self._said) < _MOST_LINES
                self._said.add(verdict.message)
            if new:
                _logger.warning("%s has no reward: %s", where, verdict.message)
        return score

    def __call__(
        self,
        prompts: Sequence[Any],  # noqa: ARG002  TRL's signature
        completions: Sequence[Any],
        tests: Sequence[Any],
        entry_point: Sequence[str | None] | None = None,
        preamble: Sequence[str | None] | None = None,
        starter_code: Sequence[str | None] | None = None,
        **_columns: Any,
    ) -> list[float | None]:
        """Return one reward for each completion."""
        absent = [None] * len(completions)
        columns = (tests, entry_point or absent, preamble or absent)
        futures = [
            self.submit(code_of(completion, row[1], starter), *row)
            for completion, starter, *row in zip(
                completions, starter_code or absent, *columns, strict=True
            )
        ]
        return [self.reward(f.result(), f"row {i} of a batch") for i, f in enumerate(futures)]


_verl_reward = CodeReward()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **_more: Any,
) -> dict[str, float | str]:
    """Score one solution for verl (`reward.custom_reward_function.path=pkg://stepcoder.adapters`).

    `ground_truth` is tests in a layout of `layouts`, as JSON text or data; `entry_point`,
    `preamble` and `starter_code` are read from `extra_info`. verl calls it from many threads at
    once; they share one judge.

    Returns:
        "score", the reward; "acc", 1.0 if all tests passed; "points", the share of the points;
        "status", the verdict in words; "judge_failed", 1.0 if the tests cannot be read or the judge
        itself failed: the score is then 0.0, between wrong and right, since verl takes no gaps.
    """
    info = extra_info or {}
    entry_point = info.get("entry_point")
    source = code_of(solution_str, entry_point, info.get("starter_code"))
    future = _verl_reward.submit(source, ground_truth, entry_point, info.get("preamble"))
    verdict = future.result()
    where = f"a row of {data_source!r} (index {info.get('index')})"
    score = _verl_reward.reward(verdict, where)
    return {
        "score": 0.0 if score is None else score,
        "acc": float(verdict.passed),
        "points": verdict.points,
        "status": str(verdict.status),
        "judge_failed": float(score is None),
    }
