"""Rollouts: a task, its completion, and the evidence of how the program did.

`roll_out` does the whole way for some tasks: prompts, completions of an engine, programs, verdicts.
Its parts are for callers that time them: each program goes to the judge the moment its completion
ends, while others still generate, and the rollouts come back in the tasks' order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from stepcoder.errors import RunError
from stepcoder.problems.answers import code_span, extract_completion
from stepcoder.problems.problem import Problem, program_of
from stepcoder.problems.prompts import (
    encode_prompt,
    encode_target,
    end_tokens,
    natural_end,
    prompt_text,
    starter_part,
    target_text,
    token_spans,
)
from stepcoder.problems.template import FENCE, in_own_words
from stepcoder.rollout.engine import Completion, Engine, Request, Sampling
from stepcoder.sandbox import Judge, Verdict

if TYPE_CHECKING:  # clean counts the stages of a curriculum, and loads no torch for it
    from transformers import PreTrainedTokenizerBase

SEED_STRIDE = 1_000_003  # odd: the seeds of neighboring tasks' samples stay apart


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt at a problem: the part of the solution that is given, and the prompt.

    All samples of a step that share the prompt belong to it. A program is `given` + the completion
    of `prompt_text`. `seed` is for sampling: it depends on the run's seed and the attempt alone, so
    a resumed run draws the same rollouts.

    The prompt ends where a token ends (`prompts.natural_end`), and `given` is what it holds of the
    solution. If it ends before any code, `before_code` is the rest of the template, such as the
    newline after "```python": a completion begins with it, and the program behind it.

    With `in_own_words` nothing is given, and the program is the block of the completion that
    counts (`answers.code_span`).
    """

    problem: Problem
    stage: int
    given: str
    prompt_text: str
    seed: int
    before_code: str = ""
    in_own_words: bool = False

    @property
    def target(self) -> str:
        """What the policy should write: the rest of the canonical solution."""
        opening = f"{FENCE}python\n" if self.in_own_words else self.before_code
        return opening + target_text(self.problem, self.given)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One judged completion of a task: what rewards and FGO's mask are computed from.

    `text` is the response behind the task's `before_code`, and `spans[i]` are the characters of
    token i in it. `code_start` is where its code begins: 0 but in a policy's own words. The last
    two fields are what some recipes compare a program with.

    Example, for a problem whose solution begins with "def add(a, b):\\n" (which is `task.given`):
        completion.token_ids  (734, 12, 88, 90, 3)
        text                  "    return a + b\\n```"
        spans                 ((0, 10), (10, 12), (12, 17), (17, 20), (20, 20)); the last ends it
        program               "def add(a, b):\\n    return a + b\\n"
        verdict               accepted, executed_lines {1, 2}
    """

    task: Task
    prompt_ids: tuple[int, ...]
    completion: Completion
    text: str
    spans: Sequence[tuple[int, int]]
    program: str
    verdict: Verdict
    code_start: int = 0
    greedy_verdict: Verdict | None = None  # of the greedy completion of the same prompt
    reference_probability: float = 0.0  # that the program is the reference, by a discriminator

    @property
    def offset(self) -> int:
        """What turns a place in `text` into one in `program`; text before the code is below 0."""
        return len(self.task.given) - self.code_start


def task_of(
    problem: Problem,
    stage: int,
    given: str,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> Task:
    """Return the task that gives as much of `given` as ends with a token."""
    text = prompt_text(problem, given, template)
    if in_own_words(template):
        return Task(problem, stage, "", text, seed, in_own_words=True)
    end, code = natural_end(tokenizer, text), len(text) - len(given)
    return Task(problem, stage, text[code:end], text[:end], seed, text[end:code])


def target_ids(task: Task, tokenizer: PreTrainedTokenizerBase, most: int) -> list[int]:
    """Return the tokens of a task's target, cut after `most` as a completion would be.

    An answer in the policy's own words ends with the end of the turn: nothing else stops it.

    Raises:
        RunError: no tokens give that text; it may hold the name of a special token.
    """
    try:
        ids = encode_target(tokenizer, task.prompt_text, task.target)
    except ValueError as error:
        where = f"the solution of {task.problem.task_id}"
        raise RunError(f"{where}: {error}; leave the problem out") from None
    if task.in_own_words:
        ids = [*ids, *end_tokens(tokenizer)[:1]]
    return ids[:most]


def whole_program_tasks(
    problems: Sequence[Problem], template: str, tokenizer: PreTrainedTokenizerBase
) -> list[Task]:
    """Return a task for each problem that gives nothing but the starter code (stage 0).

    The seeds depend on the problem's place alone, so that two policies get the same draws.
    """
    return [
        task_of(p, 0, starter_part(p), template, tokenizer, seed) for seed, p in enumerate(problems)
    ]


def roll_out(
    tasks: Sequence[Task],
    engine: Engine,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    samples: int,
) -> list[Rollout]:
    """Return `samples` judged completions of each task, task by task."""
    requests = requests_of(tasks, tokenizer, samples)
    completions = engine.generate(requests, sampling)
    return collect(submit(completions, tasks, requests, tokenizer, judge))


def requests_of(
    tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, samples: int
) -> list[Request]:
    """Return `samples` requests a task, task by task, each with a seed of its own."""
    requests = []
    for task in tasks:
        prompt = tuple(encode_prompt(tokenizer, task.prompt_text))
        requests += [Request(prompt, sample_seed(task, sample)) for sample in range(samples)]
    return requests


def sampling_of(template: str, temperature: float, max_new_tokens: int) -> Sampling:
    """Return how completions of a template's prompts are sampled: own words may have fences."""
    stop = () if in_own_words(template) else (FENCE,)
    return Sampling(temperature, max_new_tokens, stop)


def sample_seed(task: Task, sample: int) -> int:
    """Return the seed of one of a task's samples."""
    return (task.seed * SEED_STRIDE + sample) % 2**63


@dataclass(frozen=True, slots=True)
class PendingRollout:
    """A rollout whose program is being judged: since `begun`, to the time put into `ended`."""

    rollout_with: Callable[[Verdict], Rollout]
    verdict: Future[Verdict]
    begun: float  # time.perf_counter
    ended: list[float]


def submit(
    completions: Iterable[Completion],
    tasks: Sequence[Task],
    requests: Sequence[Request],
    tokenizer: PreTrainedTokenizerBase,
    judge: Judge,
) -> Iterator[PendingRollout]:
    """Hand each completion's program to the judge as it arrives; never waits for a verdict."""
    samples = len(requests) // max(len(tasks), 1)
    for completion in completions:
        task, request = tasks[completion.index // samples], requests[completion.index]
        text, spans = response_text(task, tokenizer, request.prompt_ids, completion.token_ids)
        code = (0, len(extract_completion(text)))
        if task.in_own_words:
            code = code_span(text, task.problem.entry_point)
        program = task.given + text[slice(*code)]
        begun, ended = time.perf_counter(), list[float]()
        verdict = judge.submit(program_of(task.problem, program), task.problem.tests)
        verdict.add_done_callback(partial(_note_time, ended))
        rollout_with = partial(
            Rollout,
            *(task, request.prompt_ids, completion, text, spans, program),
            code_start=code[0],
        )
        yield PendingRollout(rollout_with, verdict, begun, ended)


def response_text(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
) -> tuple[str, list[tuple[int, int]]]:
    """Return a response behind the task's `before_code`, and the span of each token in it."""
    text, spans = token_spans(tokenizer, prompt_ids, response_ids)
    skipped = len(task.before_code) if text.startswith(task.before_code) else 0
    return text[skipped:], [(max(a - skipped, 0), max(b - skipped, 0)) for a, b in spans]


def _note_time(times: list[float], _: Future[Verdict]) -> None:
    times.append(time.perf_counter())


def collect(pending: Iterable[PendingRollout]) -> list[Rollout]:
    """Wait for the verdicts; rollouts come back in the order of their requests."""
    rollouts = [p.rollout_with(p.verdict.result()) for p in pending]
    return sorted(rollouts, key=lambda r: r.completion.index)
