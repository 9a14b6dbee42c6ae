"""The tokenizer and the policy of a run: from a local transformers checkpoint, or made embedded.

Takes the configuration, gives both ready for packed rows; LoRA's adapters and the text of the
prompt template follow from what is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.models.lora import add_adapters
from stepcoder.models.policy import load_policy, prepare
from stepcoder.problems.prompts import prompt_text, resolved_template, starter_part, target_text
from stepcoder.run.data import TrainingData


def models(
    config: Config, data: TrainingData, device: torch.device, folder: Path
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and policy from `model.path`, or make the embedded small ones.

    The embedded tokenizer is trained once, on the training problems, and kept in the run folder.
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
        tokenizer = _embedded_tokenizer(config, data, folder)
        policy = prepare(small_decoder(config.model, tokenizer, config.seed), device)
    if config.model.lora_rank:
        add_adapters(policy, config.model.lora_rank, config.seed)
    return tokenizer, policy


def _embedded_tokenizer(
    config: Config, data: TrainingData, folder: Path
) -> PreTrainedTokenizerBase:
    kept = folder / "tokenizer"
    if not kept.exists():
        texts = (
            prompt_text(p, given := starter_part(p), config.prompt.template) + target_text(p, given)
            for p in (*data.supervised, *data.train)
        )
        train_tokenizer(texts, config.model.vocabulary).save_pretrained(kept)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(kept, local_files_only=True)
    return tokenizer


def with_template(config: Config, tokenizer: PreTrainedTokenizerBase) -> Config:
    """Return the configuration with the text of the prompt template that it names.

    Raises:
        RunError: prompt.template is chat, and the tokenizer has no chat template.
    """
    try:
        template = resolved_template(config.prompt.template, tokenizer)
    except ValueError as error:
        raise RunError(f"prompt.template: {error}") from None
    return replace(config, prompt=replace(config.prompt, template=template))
