"""Held-out evaluation: pass@1, the share of programs that pass all tests of their problem."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from stepcoder.method.curriculum import Task
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import prompt_text, starter_part
from stepcoder.rollout.engine import Engine, Sampling
from stepcoder.rollout.rollout import Rollout, collect, requests_of, submit
from stepcoder.sandbox import Judge, Status


def evaluate(
    problems: Sequence[Problem],
    engine: Engine,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    max_prompt_tokens: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    samples: int = 1,
) -> list[Rollout]:
    """Complete every problem from its description alone, and judge the programs.

    Temperature 0 is greedy. The seeds of sampling depend on the problem's place alone, so that two
    policies are compared on the same draws.
    """
    tasks = [
        Task(p, 0, given := starter_part(p), prompt_text(p, given, template), seed)
        for seed, p in enumerate(problems)
    ]
    requests = requests_of(tasks, tokenizer, samples, max_prompt_tokens)
    completions = engine.generate(requests, Sampling(temperature, max_new_tokens))
    return collect(submit(completions, tasks, requests, tokenizer, judge))


def pass_at_1(rollouts: Sequence[Rollout]) -> float:
    """Share of judged programs that pass; runs that the judge itself failed on do not count.

    Raises:
        ValueError: nothing was judged.
    """
    judged = [r for r in rollouts if r.verdict.status is not Status.INFRASTRUCTURE_ERROR]
    if not judged:
        raise ValueError("no program was judged: every run ended in an infrastructure error")
    return sum(r.verdict.passed for r in judged) / len(judged)
