"""The same program under several seeds: a judge for each hash seed.

Owns the judges; takes submissions and the number of a run, gives verdicts on the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal, Self

from stepcoder.clean.vary import may_vary
from stepcoder.sandbox import Judge, Limits, Status, Submission, Verdict


class JudgeFailedError(Exception):
    """The sandbox failed; nothing is known about the program."""


class Judges:
    """Judges programs in run 0, as the trainer does, or in another one. A context manager.

    Run i has hash seed i and, for i > 0, random seed i. Thread-safe.
    """

    def __init__(
        self,
        runs: int,
        workers: int | None,
        limits: Limits,
        isolation: Literal["warn", "full"] = "warn",
        libraries: Sequence[str] | None = None,
    ) -> None:
        """Start the judges. Raises IsolationError and LibraryError as `Judge` does."""
        self.limits = limits
        self._runs = runs
        with ExitStack() as stack:
            self._judges = [
                stack.enter_context(
                    Judge(workers, limits, isolation, hash_seed=seed, libraries=libraries)
                )
                for seed in range(runs)
            ]
            self._stack = stack.pop_all()
        self.workers = self._judges[0].workers

    def __enter__(self) -> Self:
        """Return the judges."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close them."""
        self.close()

    def close(self) -> None:
        """End all programs; verdicts that are awaited become JudgeFailedErrors."""
        self._stack.close()

    def other_runs(self, *sources: str) -> range:
        """Return the runs after the first: none where no source could give another output there."""
        return range(1, self._runs if may_vary(*sources) else 1)

    def run(self, submission: Submission, run: int = 0) -> Verdict:
        """Judge a program in one of the runs. Raises JudgeFailedError."""
        if run > 0:
            program = submission.program
            preamble = f"{program.preamble.rstrip()}\n__import__('random').seed({run})\n"
            submission = replace(submission, program=replace(program, preamble=preamble))
        verdict = self._judges[run].submit_all(submission).result()
        if verdict.status is Status.INFRASTRUCTURE_ERROR and not _is_of_tests(verdict):
            raise JudgeFailedError(verdict.message)
        return verdict


def _is_of_tests(verdict: Verdict) -> bool:
    """Return whether a test is no program: the record is to blame, not the sandbox."""
    return verdict.message.startswith("the test code does not compile")
