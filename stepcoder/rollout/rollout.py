"""Rollouts: a completion with its evidence (program, verdict, executed tokens, reward).

Takes the curriculum's tasks and an engine's stream of completions, hands each program to the judge
the moment its completion ends, and gives the rollouts back in the tasks' order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from transformers import PreTrainedTokenizerBase

from stepcoder.config import FGOConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import Task
from stepcoder.method.fgo import executed_closure, executed_mask
from stepcoder.method.rewards import outcome, reward
from stepcoder.models.batch import Row
from stepcoder.problems.answers import extract_completion
from stepcoder.problems.problem import program_of
from stepcoder.problems.prompts import encode_prompt, token_spans
from stepcoder.report.samples import Sample
from stepcoder.rollout.engine import Completion, Request
from stepcoder.sandbox import Judge, Verdict


@dataclass(frozen=True, slots=True)
class Rollout:
    """One judged completion of a task. `spans[i]` are the characters of token i in `text`."""

    task: Task
    prompt_ids: tuple[int, ...]
    completion: Completion
    text: str
    spans: Sequence[tuple[int, int]]
    program: str
    verdict: Verdict


def requests_of(
    tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, samples: int, max_prompt_tokens: int
) -> list[Request]:
    """Return `samples` requests a task, task by task, each with a seed of its own.

    Prompts beyond `max_prompt_tokens` lose their beginning: the given part and the last words of
    the description matter most to the completion.
    """
    requests = []
    for task in tasks:
        prompt = tuple(encode_prompt(tokenizer, task.prompt_text)[-max_prompt_tokens:])
        for sample in range(samples):
            requests.append(Request(prompt, seed_of(task, sample)))
    return requests


def seed_of(task: Task, sample: int) -> int:
    """Return the seed of a task's sample; the odd factor keeps those of neighboring tasks apart."""
    return (task.seed * 1_000_003 + sample) % 2**63


@dataclass(frozen=True, slots=True)
class Pending:
    """A completion whose program is being judged: since `begun`, to the time put into `ended`."""

    task: Task
    request: Request
    completion: Completion
    text: str
    spans: Sequence[tuple[int, int]]
    program: str
    verdict: Future[Verdict]
    begun: float  # time.perf_counter
    ended: list[float]


def submit(
    completions: Iterable[Completion],
    tasks: Sequence[Task],
    requests: Sequence[Request],
    tokenizer: PreTrainedTokenizerBase,
    judge: Judge,
) -> Iterator[Pending]:
    """Hand each completion's program to the judge as it arrives; never waits for a verdict."""
    samples = len(requests) // max(len(tasks), 1)
    for completion in completions:
        task, request = tasks[completion.index // samples], requests[completion.index]
        text, spans = token_spans(tokenizer, request.prompt_ids, completion.token_ids)
        program = task.given + extract_completion(text)
        begun, ended = time.perf_counter(), list[float]()
        verdict = judge.submit(program_of(task.problem, program), task.problem.tests)
        verdict.add_done_callback(partial(_note_time, ended))
        yield Pending(task, request, completion, text, spans, program, verdict, begun, ended)


def _note_time(times: list[float], _: Future[Verdict]) -> None:
    times.append(time.perf_counter())


def collect(pending: Iterable[Pending]) -> list[Rollout]:
    """Wait for the verdicts; rollouts come back in the order of their requests."""
    ordered = sorted(pending, key=lambda p: p.completion.index)
    return [
        Rollout(
            p.task,
            p.request.prompt_ids,
            p.completion,
            p.text,
            p.spans,
            p.program,
            p.verdict.result(),
        )
        for p in ordered
    ]


def judged(rollouts: Sequence[Rollout], max_infrastructure_errors: float) -> list[Rollout]:
    """Return the rollouts without those that the judge itself failed on: they say nothing.

    Raises:
        RunError: they are more than this share, or nothing is left.
    """
    kept = [r for r in rollouts if reward(r.verdict) is not None]
    failed = len(rollouts) - len(kept)
    if not kept or failed > max_infrastructure_errors * len(rollouts):
        broken = next(r.verdict for r in rollouts if reward(r.verdict) is None)
        raise RunError(
            f"the sandbox failed on {failed} of {len(rollouts)} programs ({broken.message}); "
            "mend it, or raise rollout.max_infrastructure_errors, then continue with --resume"
        )
    return kept


def trained_tokens(rollout: Rollout, fgo: FGOConfig) -> list[bool]:
    """Return for each response token whether the policy loss trains it; without FGO all are."""
    if not fgo.enabled:
        return [True] * len(rollout.completion.token_ids)
    given, verdict = len(rollout.task.given), rollout.verdict
    return executed_mask(rollout.program, given, verdict, rollout.spans, fgo.compile_error)


def row_of(rollout: Rollout, value: float, fgo: FGOConfig) -> Row:
    """Turn a judged rollout and its reward into a row of a batch."""
    return Row(
        rollout.prompt_ids,
        rollout.completion.token_ids,
        rollout.completion.logprobs,
        trained_tokens(rollout, fgo),
        value,
        int(outcome(rollout.verdict)),
    )


def chosen_samples(rollouts: Sequence[Rollout], count: int = 6) -> list[Rollout]:
    """Return a few rollouts worth reading: of different problems, with different verdicts first."""
    chosen: dict[tuple[str, str], Rollout] = {}
    for rollout in rollouts:
        chosen.setdefault((rollout.verdict.status, rollout.task.problem.task_id), rollout)
    by_status: dict[str, list[Rollout]] = {}
    for (status, _), rollout in chosen.items():
        by_status.setdefault(status, []).append(rollout)
    rounds = zip_longest(*by_status.values())
    return [r for same_rank in rounds for r in same_rank if r is not None][:count]


def sample_of(rollout: Rollout, step: int, fgo: FGOConfig) -> Sample:
    """Return what a person wants to read of a rollout."""
    task, verdict = rollout.task, rollout.verdict
    value = reward(verdict)
    masked, lines = 0.0, verdict.executed_lines
    if value is not None:
        mask = trained_tokens(rollout, fgo)
        masked = 1 - sum(mask) / max(len(mask), 1)
        lines = executed_closure(rollout.program, verdict.executed_lines)
    return Sample(
        task_id=task.problem.task_id,
        step=step,
        stage=task.stage,
        description=task.problem.prompt,
        given=task.given,
        completion=rollout.text,
        executed_lines=lines,
        masked_share=masked,
        verdict=verdict,
        reward=value,
    )
