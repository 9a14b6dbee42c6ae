"""Builds a run from its configuration, or restores it from the newest checkpoint of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.judge.over_http import HttpHost
from stepcoder.judge.pool import JudgePool
from stepcoder.method.curriculum import Curriculum
from stepcoder.models import ranks
from stepcoder.models.load import load_policy_and_tokenizer, with_template
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import choose_device
from stepcoder.recipes.own import recipe_of
from stepcoder.recipes.recipe import Recipe
from stepcoder.report.progress import Progress
from stepcoder.report.run_dir import RunDir, resume_at
from stepcoder.rollout.open_engine import check_positions
from stepcoder.run.checkpoint import newest_state
from stepcoder.run.data import TrainingData, fitting, load_data
from stepcoder.run.model_folder import with_model_folders
from stepcoder.run.peers import watched
from stepcoder.run.run import Run
from stepcoder.run.sinks import Sinks, check_installed
from stepcoder.sandbox import Judge, LibraryError, Limits


@contextmanager
def open_run(config: Config, resume: Path | None) -> Iterator[Run]:
    """Build a run, or restore it from the newest whole checkpoint of the folder `resume`.

    Nothing that the folder holds changes before everything is loaded and fits.

    Raises:
        RunError: something that the configuration names is missing or does not fit.
    """
    transformers_logging.disable_progress_bar()  # its bars would tear our own progress
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # nothing of ours draws from it; a library might
    device = choose_device(config.device)
    with ExitStack() as stack:
        device = stack.enter_context(ranks.joined(device))
        stack.enter_context(watched())
        run_dir = _open_folder(stack, config, resume is not None)
        config = with_model_folders(config)  # the folder has the names
        console = None if ranks.is_first() else Console(quiet=True)
        progress = stack.enter_context(Progress(config, console))
        recipe = recipe_of(config)
        check_installed(config.sinks)
        listed = run_dir.path if ranks.is_first() else None
        data = load_data(config.data, config.sft.share, listed)
        for line in data.notes:
            progress.note(line)
        state = newest_state(resume / "checkpoints", progress.note) if resume else None
        tokenizer, policy = load_policy_and_tokenizer(
            config, (*data.supervised, *data.train), device, run_dir.path
        )
        config = with_template(config, tokenizer)
        check_positions(config, policy)
        data, left_out = fitting(data, tokenizer, config)
        check_solutions(data, config, recipe)
        sft, masters = config.sft, Masters(policy)
        run = Run(
            config=config,
            recipe=recipe,
            data=data,
            device=device,
            tokenizer=tokenizer,
            policy=policy,
            masters=masters,
            sft_optimizer=Optimizer(
                masters, sft.optimizer, sft.lr, betas=(0.9, 0.98), weight_decay=sft.weight_decay
            ),
            judge=stack.enter_context(open_judge(config, progress.note)),
            curriculum=Curriculum(
                data.train,
                tokenizer,
                seed=config.seed,
                template=config.prompt.template,
                weights=data.weights,
                **asdict(config.curriculum),
            ),
            run_dir=run_dir,
            progress=progress,
        )
        stack.callback(run.close)
        if left_out:
            run.progress.note(left_out)
        if state is not None:
            run.load_state_dict(state)
        if not ranks.is_first():
            config = replace(config, sinks=())
        run.sinks = stack.enter_context(Sinks(config, run_dir.path, progress.note))
        ranks.from_first(lambda: run_dir.begin(resume_at(state)))
        yield run


def _open_folder(stack: ExitStack, config: Config, resumes: bool) -> RunDir:
    """Open the run's folder in the first process; the others read there, and write nothing."""
    opened: list[RunDir] = []

    def path() -> Path:
        opened.append(stack.enter_context(RunDir.open(config, resumes)))
        return opened[0].path

    found = ranks.from_first(path)
    return opened[0] if opened else RunDir(found, config, stack)


def check_solutions(data: TrainingData, config: Config, recipe: Recipe) -> None:
    """Raise RunError if the run needs solutions that the training problems lack."""
    if config.sft.steps and not data.supervised:
        raise RunError("sft.steps: no training problem has a solution to show; set sft.steps=0")
    lacking = recipe.imitates and not data.supervised
    if recipe.discriminates:
        lacking = any(not p.canonical_solution for p in data.train)
    if lacking:
        raise RunError(
            f'recipe "{config.recipe}" learns from the solutions, which training problems of '
            f"{config.data.path} lack; take another recipe, or leave those out"
        )


def open_judge(config: Config, note: Callable[[str], None]) -> Judge:
    """Start the sandbox with the configured limits, or take the judges of `sandbox.hosts`.

    Raises RunError for a missing library, or if no host answers.
    """
    sandbox = config.sandbox
    limits = Limits(
        cpu_s=sandbox.cpu_s,
        wall_s=sandbox.wall_s,
        memory_bytes=sandbox.memory_mb << 20,
        output_bytes=sandbox.output_kb << 10,
    )
    if sandbox.hosts and ranks.is_first():
        return JudgePool([HttpHost(url) for url in sandbox.hosts], limits, note)
    try:
        workers = sandbox.workers if ranks.is_first() else 1  # the others judge nothing
        return Judge(workers or None, limits, libraries=sandbox.libraries)
    except LibraryError as error:
        raise RunError(f"sandbox.libraries: {error}") from None
