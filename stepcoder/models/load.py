"""Loads a run's models: tokenizer, policy and critic, from local checkpoints or made embedded.

All are ready for packed rows, with LoRA's adapters where the configuration asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config, ModelConfig
from stepcoder.errors import RunError, os_errors
from stepcoder.models import ranks
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.models.lora import add_adapters, with_adapters
from stepcoder.models.policy import (
    VALUE_HEAD,
    AnyCritic,
    Critic,
    OutcomeCritic,
    ValueHead,
    compile_layers,
    prepare,
    recompute_layers,
)
from stepcoder.models.pretrained import check_vocabulary, load_policy, load_pretrained
from stepcoder.models.sharding import sharded
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import prompt_text, resolved_template, starter_part, target_text
from stepcoder.problems.template import AUTO, TEMPLATE

Loaded = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def load_policy_and_tokenizer(
    config: Config, problems: Sequence[Problem], device: torch.device, folder: Path
) -> Loaded:
    """Load tokenizer and policy from `model.path`, or make the embedded small ones.

    The embedded tokenizer is trained once, on `problems`, and kept in the run's folder.
    """
    several = ranks.count() > 1
    home = torch.device("cpu") if several else device  # a whole model may not fit on one device
    loaded = ranks.from_first_alone(lambda: _loaded(config, problems, home, folder))
    tokenizer = ranks.from_first(lambda: cast(Loaded, loaded)[0])
    return tokenizer, sharded(loaded and loaded[1], device)


def _loaded(
    config: Config, problems: Sequence[Problem], device: torch.device, folder: Path
) -> Loaded:
    if config.model.path is not None:
        dtype = getattr(torch, config.dtype)
        tokenizer, policy = load_pretrained(config.model.path, dtype, device, "model.path")
    else:
        tokenizer = _embedded_tokenizer(config, problems, folder)
        policy = prepare(small_decoder(config.model, tokenizer, config.seed), device)
    policy = with_adapters(policy, config.model.lora_rank, config.seed)
    _set_layers(policy, config.model)
    return tokenizer, policy


def _set_layers(model: PreTrainedModel, options: ModelConfig) -> None:
    if options.compile:
        compile_layers(model)
    if options.checkpointing:
        recompute_layers(model)


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
        partial = kept.with_name(f".{kept.name}.partial")
        with os_errors():
            train_tokenizer(texts, config.model.vocabulary).save_pretrained(partial)
        partial.rename(kept)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(kept, local_files_only=True)
    return tokenizer


def new_critic(
    kind: Literal["value", "outcome"],
    policy: PreTrainedModel,
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    classes: int,
) -> AnyCritic:
    """Return a critic from `model.critic_path` (values only) or the policy.

    Its head is fresh, but where the path's folder is a critic's own, which has one.

    With model.critic=head it is no more than that head. An outcome critic tells `classes` apart.
    """
    if kind == "outcome":
        return OutcomeCritic.from_policy(policy, classes)
    if config.model.critic == "head":
        return ValueHead(policy).to(policy.device)
    if config.model.critic_path is None:
        return Critic.from_policy(policy)
    path, dtype, device = config.model.critic_path, policy.dtype, policy.device
    loaded = load_policy(path, dtype, device, "model.critic_path", needs_head=False)
    check_vocabulary(tokenizer, loaded, f"model.critic_path: {path}")
    critic = Critic(loaded.get_decoder()).to(device).eval()
    if (head := Path(path) / VALUE_HEAD).is_file():
        critic.head.load_state_dict(load_file(head))
    if config.model.lora_rank:
        add_adapters(critic.backbone, config.model.lora_rank, config.seed)
    _set_layers(critic.backbone, config.model)
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
