"""Reward functions for other trainers, TRL and verl, in the signatures that they expect.

Take completions and tests in the form of problems.jsonl ({"kind": "call", ...}); give StepCoder's
rewards: +1 right, -0.3 wrong, -0.6 error or limit, -1 does not compile.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from stepcoder.method.rewards import reward
from stepcoder.problems.answers import last_block
from stepcoder.problems.schema import read_tests
from stepcoder.sandbox import Judge, Limits, Program, Submission, Tests, Verdict


def code_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the program of a completion (`answers.last_block`).

    Of a conversation (a list of messages, as TRL passes it), the last message counts.
    """
    text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
    return last_block(text)


def parsed_tests(tests: str | Mapping[str, Any]) -> Tests:
    """Return tests from JSON text or data. Raises ValueError that names the field."""
    record = json.loads(tests) if isinstance(tests, str) else dict(tests)
    if not isinstance(record, dict):
        raise ValueError("tests are no object; expected the form of problems.jsonl")
    return read_tests(record)


class CodeReward:
    """A reward function for TRL: `GRPOTrainer(reward_funcs=CodeReward(), ...)`.

    The data set needs a column `tests`, as JSON text or data, and may have `entry_point`,
    `preamble` and `starter_code`, which a completion continues. A context manager; a forked process
    starts a judge of its own. If the judge itself failed, the reward is None, which TRL leaves out.
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

    def verdicts(self, submissions: Sequence[Submission]) -> list[Verdict]:
        """Return the verdict of each submission, in their order."""
        found = dict(self._running().map(submissions))
        return [found[index] for index in range(len(submissions))]

    def __call__(
        self,
        prompts: Sequence[Any],  # noqa: ARG002  TRL's signature
        completions: Sequence[Any],
        tests: Sequence[str | Mapping[str, Any]],
        entry_point: Sequence[str | None] | None = None,
        preamble: Sequence[str | None] | None = None,
        starter_code: Sequence[str | None] | None = None,
        **_columns: Any,
    ) -> list[float | None]:
        """Return one reward for each completion. Raises ValueError that names the row."""
        submissions = []
        for index, completion in enumerate(completions):

            def of(column: Sequence[str | None] | None, i: int = index) -> str | None:
                return column[i] if column else None

            try:
                row_tests = parsed_tests(tests[index])
            except ValueError as error:
                raise ValueError(f'row {index}: column "tests": {error}') from None
            source = (of(starter_code) or "") + code_of(completion)
            program = Program(source, of(entry_point) or None, of(preamble) or "")
            submissions.append(Submission(program, row_tests))
        return [reward(verdict) for verdict in self.verdicts(submissions)]


_verl_reward = CodeReward()


def compute_score(
    data_source: str,  # noqa: ARG001  verl's signature
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    **_more: Any,
) -> dict[str, float | str]:
    """Score one solution for verl (`reward.custom_reward_function.path=pkg://stepcoder.adapters`).

    `ground_truth` is the tests as JSON text or data; `entry_point`, `preamble` and `starter_code`
    are read from `extra_info`. verl calls it from many threads at once; they share one judge.

    Returns:
        "score", the reward; "acc", 1.0 if all tests passed; "status", the verdict in words.

    Raises:
        ValueError: the tests are not of a known form.
        RuntimeError: the judge itself failed, so there is no score.
    """
    info = extra_info or {}
    source = (info.get("starter_code") or "") + code_of(solution_str)
    program = Program(source, info.get("entry_point") or None, info.get("preamble") or "")
    submission = Submission(program, parsed_tests(ground_truth))
    (verdict,) = _verl_reward.verdicts([submission])
    score = reward(verdict)
    if score is None:
        raise RuntimeError(f"the judge failed: {verdict.message}")
    return {"score": score, "acc": float(verdict.passed), "status": str(verdict.status)}
