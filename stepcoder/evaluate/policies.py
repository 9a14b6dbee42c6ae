"""Samples answers from a policy: any transformers checkpoint, or a run of StepCoder.

Takes a folder (a checkpoint, a run, a checkpoint of a run) or a hub id and problems, gives answers.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from stepcoder.config import Config, PromptConfig, RolloutConfig, load_config
from stepcoder.errors import RunError
from stepcoder.journal import Record
from stepcoder.models.policy import choose_device
from stepcoder.models.pretrained import load_pretrained
from stepcoder.problems import prompts
from stepcoder.problems.problem import Problem
from stepcoder.problems.template import FENCE, TEMPLATE
from stepcoder.report.run_dir import CONFIG
from stepcoder.rollout.engine import Engine, Request, Sampling
from stepcoder.rollout.open_engine import check_positions, open_engine
from stepcoder.rollout.rollout import Task, response_text, task_of
from stepcoder.run.data import left_out_line
from stepcoder.run.model_folder import model_folder

Form = Literal["auto", "chat", "answer", "plain"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The folder of a policy, and how its run prompted it (without a run: the defaults)."""

    folder: Path
    prompt: PromptConfig

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the weights: of names, sizes and times of its files."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors*")) + sorted(self.folder.glob("*.bin")):
            state = file.stat()
            digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def find_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint that a path names; of a run, its newest one.

    Raises:
        RunError: there is none.
    """
    folder = model_folder(str(path), "--policy")
    for parent in folder.parents[:3]:
        if (parent / CONFIG).is_file():
            return Checkpoint(folder, load_config(parent / CONFIG).prompt)
    return Checkpoint(folder, PromptConfig())


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that answers; `template` is that of prompts which ask it for a program."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    template: str
    max_prompt_tokens: int

    def fits(self, task: Task) -> bool:
        """Return whether a task's prompt is short enough."""
        return prompts.fits(self.tokenizer, task.prompt_text, self.max_prompt_tokens)

    def question(self, problem: Problem, text: str, seed: int) -> Task:
        """Return the task of answering a text, about a problem, in the policy's own words."""
        prompt = prompts.question_text(self.tokenizer, text)
        return Task(problem, 0, "", prompt, seed, in_own_words=True)


@contextmanager
def open_policy(
    checkpoint: Checkpoint, options: argparse.Namespace, notify: Callable[[str], None]
) -> Iterator[Policy]:
    """Load a policy and start its engine, which ends with the context.

    Args:
        checkpoint: the policy.
        options: of the command line; the logs of vLLM's servers go into `output`.
        notify: is called with a line for each failure that the engine recovered from.

    Raises:
        RunError: the checkpoint, or vLLM, cannot be used.
    """
    notify(f"loading {options.policy}")
    transformers_logging.disable_progress_bar()
    device = choose_device(options.device)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    tokenizer, policy = load_pretrained(
        checkpoint.folder, getattr(torch, dtype), device, "--policy"
    )
    template = template_of(options.form, checkpoint, tokenizer)
    config = Config(
        device=options.device,
        prompt=PromptConfig(max_prompt_tokens=options.max_prompt_tokens),
        rollout=RolloutConfig(
            engine=options.engine,
            max_new_tokens=options.max_new_tokens,
            group_size=options.group_size,
            memory_share=0.85,
        ),
    )
    check_positions(config, policy)
    engine = open_engine(config, policy, tokenizer, options.output / "engine", notify, notify)
    del policy  # the transformers engine keeps its own copy
    with engine:
        yield Policy(engine, tokenizer, template, options.max_prompt_tokens)


def asked(
    policy: Policy, tasks: Sequence[Task], temperature: float, top_p: float, max_new_tokens: int
) -> Iterator[tuple[int, Record]]:
    """Yield the place of each task and its answer as JSON data, in the order in which they end.

    An answer is in a form that --samples reads too: "answer" holds own words, "given" and
    "completion" make a program. Its tokens are the ids in "token_ids".
    """
    for free in (False, True):
        places = [i for i, task in enumerate(tasks) if task.in_own_words is free]
        prompt_ids = [
            tuple(prompts.encode_prompt(policy.tokenizer, tasks[i].prompt_text)) for i in places
        ]
        requests = [Request(ids, tasks[i].seed) for ids, i in zip(prompt_ids, places, strict=True)]
        sampling = Sampling(temperature, max_new_tokens, () if free else (FENCE,), top_p)
        for done in policy.engine.generate(requests, sampling) if requests else ():
            task, ids = tasks[places[done.index]], prompt_ids[done.index]
            text, _ = response_text(task, policy.tokenizer, ids, done.token_ids)
            answer: Record = {"answer": text} if free else {"given": task.given, "completion": text}
            counts = {"tokens": len(done.token_ids), "prompt_tokens": len(ids)}
            ending = {"stopped": done.stopped, "token_ids": done.token_ids}
            yield places[done.index], answer | counts | ending


def sampled_answers(
    wanted: Sequence[tuple[Problem, int]],
    policy: Policy,
    options: argparse.Namespace,
    notify: Callable[[str], None],
) -> Iterator[Record]:
    """Yield a policy's answers to problems, each with the number of one of its samples.

    Problems whose prompt is too long are left out, and `notify` is called with a line about them.
    """
    tasks, numbers, left_out = [], [], dict[str, None]()
    for problem, number in wanted:
        seed = sample_seed(options.seed, problem.task_id, number)
        given = prompts.starter_part(problem)
        task = task_of(problem, 0, given, policy.template, policy.tokenizer, seed)
        if policy.fits(task):
            tasks.append(task)
            numbers.append(number)
        else:
            left_out[problem.task_id] = None
    if left_out:
        option = "--max-prompt-tokens"
        notify(left_out_line(list(left_out), option, options.max_prompt_tokens))
    sampling = options.temperature, options.top_p, options.max_new_tokens
    for place, answer in asked(policy, tasks, *sampling):
        key = {"task_id": tasks[place].problem.task_id, "sample": numbers[place]}
        dropped = ("prompt_tokens", "token_ids")
        yield key | {name: value for name, value in answer.items() if name not in dropped}


def template_of(form: Form, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt template.

    "auto" is the template that the policy was trained with. A checkpoint that is not from a run is
    prompted with its chat template, if it has one, and the opening of the code.

    Raises:
        RunError: the tokenizer has no chat template.
    """
    prompt = checkpoint.prompt
    named = prompt.template if form == "auto" else TEMPLATE if form == "plain" else form
    try:
        return prompts.resolved_template(named, tokenizer, thinking=prompt.thinking)
    except ValueError as error:
        raise RunError(f"--prompt {form}: {error}") from None


def sample_seed(seed: int, task_id: str, number: int) -> int:
    """Return the seed of a sample, which depends on nothing else that is sampled."""
    digest = hashlib.sha256(f"{seed} {number} {task_id}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
