"""A policy of a few thousand weights, in float64."""

import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import prepare


def tiny_policy(seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """A GPT-2: unlike most decoders it has no float32 island (RMSNorm, rotary) in float64."""
    torch.manual_seed(seed)
    shape = GPT2Config(
        vocab_size=13,
        n_embd=8,
        n_layer=layers,
        n_head=2,
        n_positions=16,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=1,
    )
    return prepare(AutoModelForCausalLM.from_config(shape).double(), torch.device("cpu"))


def stepping(model: torch.nn.Module, kind: type[torch.optim.Optimizer], **options) -> Optimizer:
    """An optimizer over a model's masters that steps as a class of torch's does."""
    optimizer = Optimizer(Masters(model), "adamw", 1.0, (0.9, 0.999), 0.0)
    optimizer.parts = [kind(optimizer.masters.of_weight.values(), **options)]
    return optimizer
