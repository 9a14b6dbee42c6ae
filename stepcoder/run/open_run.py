"""Builds a run from its configuration, or restores it from the newest checkpoint of its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from stepcoder.config import Config
from stepcoder.method.curriculum import Curriculum
from stepcoder.models.load import load_policy_and_tokenizer, with_template
from stepcoder.models.optim import optimizers_of
from stepcoder.models.policy import choose_device
from stepcoder.report.progress import Progress
from stepcoder.report.run_dir import RunDir, resume_at
from stepcoder.run.checkpoint import load_state, newest_checkpoint
from stepcoder.run.data import load_data
from stepcoder.run.model_folder import with_model_folders
from stepcoder.run.run import Run
from stepcoder.sandbox import Judge, Limits


@contextmanager
def open_run(config: Config, resume: Path | None) -> Iterator[Run]:
    """Build a run, or restore it from the newest checkpoint of the folder `resume`.

    Raises:
        RunError: something that the configuration names is missing or does not fit.
    """
    transformers_logging.disable_progress_bar()  # its bars would tear our own progress
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # nothing of ours draws from it; a library might
    device = choose_device(config.device)
    data = load_data(config.data, config.sft.share)
    checkpoint = newest_checkpoint(resume / "checkpoints") if resume else None
    state = load_state(checkpoint) if checkpoint else None
    with ExitStack() as stack:
        run_dir = stack.enter_context(RunDir.open(config, resume_at(resume, state)))
        config = with_model_folders(config)  # the folder has the names
        tokenizer, policy = load_policy_and_tokenizer(
            config, (*data.supervised, *data.train), device, run_dir.path
        )
        config = with_template(config, tokenizer)
        sft = config.sft
        run = Run(
            config=config,
            data=data,
            device=device,
            tokenizer=tokenizer,
            policy=policy,
            sft_optimizers=optimizers_of(
                policy, sft.optimizer, sft.lr, betas=(0.9, 0.98), weight_decay=sft.weight_decay
            ),
            judge=stack.enter_context(open_judge(config)),
            curriculum=Curriculum(
                data.train,
                seed=config.seed,
                template=config.prompt.template,
                **asdict(config.curriculum),
            ),
            run_dir=run_dir,
            progress=stack.enter_context(Progress(config)),
        )
        stack.callback(run.close)
        experts = sum(p.numel() for p in policy.parameters() if p.ndim == 3)
        if config.model.lora_rank and experts:
            share = experts / policy.num_parameters()
            run.progress.note(
                f"model.lora_rank: experts get no adapters ({share:.0%} of all weights)"
            )
        if state is not None:
            run.load_state_dict(state)
        yield run


def open_judge(config: Config) -> Judge:
    """Start the sandbox with the configured limits."""
    sandbox = config.sandbox
    return Judge(
        workers=sandbox.workers or None,
        limits=Limits(
            cpu_s=sandbox.cpu_s,
            wall_s=sandbox.wall_s,
            memory_bytes=sandbox.memory_mb << 20,
            output_bytes=sandbox.output_kb << 10,
        ),
    )
