"""Low-rank adapters (LoRA, arXiv 2106.09685) with peft: adding, copying and merging them.

Adapters are added to the linear layers of a transformers decoder in place, and its class stays the
same. `merged_model` returns the plain model that computes the same, for checkpoints and engines.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stepcoder.errors import RunError

M = TypeVar("M", bound=nn.Module)


def add_adapters(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze a decoder's weights and add adapters of this rank, alpha = 2 x rank, to linear layers.

    LM head and embeddings get none, and neither do the experts of a mixture, which transformers has
    as one parameter (experts, out, in) and not as linear layers. Adapters are float32 even in a
    bfloat16 model, where small updates would be rounded away. They change nothing until they are
    trained.

    Raises:
        RunError: peft is not installed, or puts adapters on experts all the same.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RunError(
            "model.lora_rank: peft is not installed; run pip install 'stepcoder[lora]', or leave "
            "model.lora_rank at 0 to train all weights"
        ) from None
    linear = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and part is not model.get_output_embeddings()
    ]  # by name: of "all-linear" peft makes adapters of the experts, which cannot be merged
    options = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(options, model)
    if any(type(part).__name__ == "ParamWrapper" for part in model.modules()):
        raise RunError(
            f"model.lora_rank: peft puts adapters on the experts of {type(model).__name__}, which "
            "cannot be merged; leave model.lora_rank at 0"
        )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.eval()


def copy_of(model: M) -> M:
    """Copy a model's trained parameters and buffers, and share its frozen parameters.

    With adapters, policy, reference and critic thus have one set of base weights in memory.
    """
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared)


@torch.no_grad()
def merged_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy with the adapters added to the weights; a model without adapters itself."""
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
