"""LoRA through peft: low-rank adapters beside frozen weights, and models without them again.

Takes a transformers decoder, changes its linear layers in place (it stays the class that it was);
`merged_model` gives the plain model that computes the same, for checkpoints and engines.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from stepcoder.errors import RunError

M = TypeVar("M", bound=nn.Module)


def add_adapters(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze a decoder and put adapters of this rank (alpha = 2 x rank) on its linear layers.

    The LM head and the embeddings have none. Adapters are float32, whatever the model is: small
    steps would vanish in bfloat16. They start at zero effect.

    Raises:
        RunError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RunError(
            "model.lora_rank: peft is not installed; run pip install 'stepcoder[lora]', or leave "
            "model.lora_rank at 0 to train all weights"
        ) from None
    options = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(options, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.eval()


def copy_of(model: M) -> M:
    """Return a copy that owns what is trained and shares what is frozen (with adapters: the most).

    So policy, reference and critic with adapters hold one set of base weights between them.
    """
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared)


@torch.no_grad()
def merged_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the adapters added into its weights; one without adapters as it is."""
    if not any(hasattr(module, "lora_A") for module in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            base: Any = module.get_base_layer()
            plain.set_submodule(name, base)
    plain.requires_grad_(requires_grad=False)
    return plain
