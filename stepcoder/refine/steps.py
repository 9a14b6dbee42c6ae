"""The steps that a method is made of, and what it is given of a problem.

A method is a generator for one problem. It yields steps and is sent their results: lists of `Ask`
(a list of replies), lists of `Run` (a list of verdicts), an `Answer` (nothing) and a `Meet` (a
share). It sees a `Case`, which holds no hidden test.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from stepcoder.evaluate.policies import sample_seed
from stepcoder.problems.problem import Problem
from stepcoder.problems.template import FENCE
from stepcoder.refine.visible import Visible
from stepcoder.rollout.rollout import Task
from stepcoder.sandbox import Status, Tests, Verdict


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion: of a program, or `in_words` an answer to the text.

    None is for `given` the beginning that every prompt gives, else what the command line says.
    """

    text: str
    in_words: bool = False
    given: str | None = None
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the policy wrote for an Ask, the program in it, and the tokens that it took."""

    text: str
    program: str
    tokens: int
    task: Task
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a program on tests that a method may see."""

    program: str
    tests: Tests


@dataclass(frozen=True, slots=True)
class Answer:
    """The program that the method would answer with if it had to stop here."""

    program: str


@dataclass(frozen=True, slots=True)
class Meet:
    """Waits for all problems that are under way; the result is the share of all just `solved`."""

    solved: bool


Step = Sequence[Ask | Run] | Answer | Meet
Steps = Generator[Step, Any, Any]


class TooLongError(Exception):
    """A prompt has too many tokens. A method that does not catch it ends with its last answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of all methods; see the command line."""

    rounds: int
    samples: int
    top: int
    chop: bool
    mutator: str
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """A problem as a method sees it: its statement, and the tests that this shows, if any.

    `budget` is how many tokens plain resampling may take; None is no limit.
    """

    problem: Problem
    visible: Visible | None
    options: Options
    budget: int | None = None

    @property
    def statement(self) -> str:
        """The problem's description."""
        return self.problem.prompt

    def program(self, text: str, **options: Any) -> Steps:
        """Ask for a program and return it."""
        (reply,) = yield [Ask(text, **options)]
        return reply.program

    def words(self, text: str, **options: Any) -> Steps:
        """Ask a question and return the answer."""
        (reply,) = yield [Ask(text, in_words=True, **options)]
        return reply.text

    def verdict(self, program: str) -> Steps:
        """Run a program on the visible tests; it passes where there are none."""
        if self.visible is None:
            return Verdict(Status.ACCEPTED)
        (verdict,) = yield [Run(program, self.visible.tests)]
        return verdict

    def random(self, number: int) -> random.Random:
        """Return random numbers that depend on the seed, the problem and a number alone."""
        return random.Random(sample_seed(self.options.seed, self.problem.task_id, number))

    @property
    def asked(self) -> str:
        """The statement and how a program begins, for questions in words."""
        starter = self.problem.starter_code.strip()
        missing = starter and starter not in self.statement
        return self.statement + (
            f"\n\nThe program begins with:\n{fenced(starter)}" if missing else ""
        )


def fenced(program: str) -> str:
    """Return a program as a block of Markdown."""
    return f"{FENCE}python\n{program.strip()}\n{FENCE}"
