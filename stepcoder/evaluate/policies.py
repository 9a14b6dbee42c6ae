"""Samples answers from a policy: any transformers checkpoint, or a run of StepCoder.

Takes a folder (a checkpoint, a run, a checkpoint of a run) or a hub id and problems, gives answers.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
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
from stepcoder.problems.template import FENCE, TEMPLATE, in_own_words
from stepcoder.report.run_dir import CONFIG
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.open_engine import check_positions, open_engine
from stepcoder.rollout.rollout import response_text, task_of
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


def sampled_answers(
    wanted: Sequence[tuple[Problem, int]],
    checkpoint: Checkpoint,
    options: argparse.Namespace,
    notify: Callable[[str], None],
) -> Iterator[Record]:
    """Load a policy and yield its answers as JSON data, in a form that --samples reads too.

    Args:
        wanted: problems, each with the number of one of its samples.
        checkpoint: the policy.
        options: of the command line; the logs of vLLM's servers go into `output`.
        notify: is called with a line for each failure that the engine recovered from.

    Raises:
        RunError: the checkpoint, or vLLM, cannot be used.
    """
    transformers_logging.disable_progress_bar()
    device = choose_device(options.device)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    tokenizer, policy = load_pretrained(
        checkpoint.folder, getattr(torch, dtype), device, "--policy"
    )
    template = template_of(options.form, checkpoint, tokenizer)
    free = in_own_words(template)
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
    tasks, numbers, left_out = [], [], dict[str, None]()
    for problem, number in wanted:
        seed = sample_seed(options.seed, problem.task_id, number)
        task = task_of(problem, 0, prompts.starter_part(problem), template, tokenizer, seed)
        if prompts.fits(tokenizer, task.prompt_text, options.max_prompt_tokens):
            tasks.append(task)
            numbers.append(number)
        else:
            left_out[problem.task_id] = None
    if left_out:
        option = "--max-prompt-tokens"
        notify(left_out_line(list(left_out), option, options.max_prompt_tokens))
    if not tasks:
        return
    requests = [
        Request(tuple(prompts.encode_prompt(tokenizer, task.prompt_text)), task.seed)
        for task in tasks
    ]
    stop = () if free else (FENCE,)
    sampling = Sampling(options.temperature, options.max_new_tokens, stop, options.top_p)
    engine = open_engine(config, policy, tokenizer, options.output / "engine", notify, notify)
    del policy  # the transformers engine keeps its own copy
    with engine:
        for done in engine.generate(requests, sampling):
            task, prompt_ids = tasks[done.index], requests[done.index].prompt_ids
            text, _ = response_text(task, tokenizer, prompt_ids, done.token_ids)
            answer = {"answer": text} if free else {"given": task.given, "completion": text}
            key = {"task_id": task.problem.task_id, "sample": numbers[done.index]}
            yield {**key, **answer, "tokens": len(done.token_ids), "stopped": done.stopped}


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
