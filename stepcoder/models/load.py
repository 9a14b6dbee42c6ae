"""Loads a run's models: tokenizer, policy and critic, from local checkpoints or made embedded.

All are ready for packed rows, with LoRA's adapters where the configuration asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.models.lora import add_adapters
from stepcoder.models.policy import Critic, OutcomeCritic, load_policy, prepare
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import prompt_text, resolved_template, starter_part, target_text
from stepcoder.problems.template import AUTO, TEMPLATE


def load_policy_and_tokenizer(
    config: Config, problems: Sequence[Problem], device: torch.device, folder: Path
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and policy from `model.path`, or make the embedded small ones.

    The embedded tokenizer is trained once, on `problems`, and kept in the run's folder.
    """
    tokenizer: PreTrainedTokenizerBase
    if config.model.path is not None:
        if not Path(config.model.path).is_dir():
            raise RunError(
                f'model.path: "{config.model.path}" is no folder; give a local transformers '
                "checkpoint, or leave it out for the small embedded model"
            )
        tokenizer = AutoTokenizer.from_pretrained(config.model.path, local_files_only=True)
        policy = load_policy(config.model.path, getattr(torch, config.dtype), device)
    else:
        tokenizer = _embedded_tokenizer(config, problems, folder)
        policy = prepare(small_decoder(config.model, tokenizer, config.seed), device)
    if config.model.lora_rank:
        add_adapters(policy, config.model.lora_rank, config.seed)
    return tokenizer, policy


def _embedded_tokenizer(
    config: Config, problems: Sequence[Problem], folder: Path
) -> PreTrainedTokenizerBase:
    kept = folder / "tokenizer"
    if not kept.exists():
        template = config.prompt.template
        if template == AUTO:
            template = TEMPLATE  # this tokenizer has no chat template
        texts = (
            prompt_text(p, given := starter_part(p), template) + target_text(p, given)
            for p in problems
        )
        train_tokenizer(texts, config.model.vocabulary).save_pretrained(kept)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(kept, local_files_only=True)
    return tokenizer


def new_critic(
    kind: Literal["value", "outcome"], policy: PreTrainedModel, config: Config, classes: int
) -> Critic | OutcomeCritic:
    """Return a critic with a fresh head, from `model.critic_path` (values only) or the policy.

    An outcome critic tells `classes` apart.
    """
    if kind == "outcome":
        return OutcomeCritic.from_policy(policy, classes)
    if config.model.critic_path is None:
        return Critic.from_policy(policy)
    critic = Critic.load(config.model.critic_path, policy.dtype, policy.device)
    if config.model.lora_rank:
        add_adapters(critic.backbone, config.model.lora_rank, config.seed)
    return critic


def with_template(config: Config, tokenizer: PreTrainedTokenizerBase) -> Config:
    """Return the configuration with the text of the prompt template that it names.

    Raises:
        RunError: prompt.template is chat, and the tokenizer has no chat template.
    """
    try:
        prompt = config.prompt
        template = resolved_template(prompt.template, tokenizer, thinking=prompt.thinking)
    except ValueError as error:
        raise RunError(f"prompt.template: {error}") from None
    return replace(config, prompt=replace(config.prompt, template=template))
