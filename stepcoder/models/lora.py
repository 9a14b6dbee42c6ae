"""Low-rank adapters (LoRA, arXiv 2106.09685) with peft: adding, copying, probing and merging them.

Adapters are added to the linear layers of a transformers decoder in place, and its class stays the
same. `save_pretrained` of such a model writes the adapters alone, in peft's format, from which
transformers loads the base model that they name, and then them.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stepcoder.errors import RunError
from stepcoder.models.sharding import part_of, saved_dtypes

M = TypeVar("M", bound=nn.Module)
NAME = "default"  # peft's name of the only adapter of a model


def with_adapters(model: PreTrainedModel, rank: int, seed: int) -> PreTrainedModel:
    """Return a loaded model as it is trained: with adapters of this rank, or for rank 0 without.

    Adapters that it was loaded with are trained on, and for rank 0 become part of its weights.

    Raises:
        RunError: peft is not installed, the model is from no folder that a checkpoint's adapters
            could name, or it has adapters of another rank.
    """
    found = adapter_rank(model)
    if rank == 0:
        return merged_model(model) if found else model
    if not model.name_or_path:
        raise RunError(
            "model.lora_rank: the embedded model has random weights, to which adapters are of no "
            "use; set model.path, or leave model.lora_rank at 0"
        )
    if not found:
        add_adapters(model, rank, seed)
        return model
    if found != rank:
        raise RunError(
            f"model.lora_rank={rank}: model.path has adapters of rank {found}; set model.lora_rank="
            f"{found} to train them on, or 0 to train all weights"
        )
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # the rest is frozen
            parameter.data = parameter.data.float()
            parameter.requires_grad_()
    return model


def add_adapters(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze a decoder's weights and add adapters of this rank, alpha = 2 x rank, to linear layers.

    LM head and embeddings get none. Adapters are float32 even in a bfloat16 model, where small
    updates would be rounded away. They change nothing until they are trained.

    Raises:
        RunError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise RunError(
            "model.lora_rank: peft is not installed; run pip install 'stepcoder[lora]', or leave "
            "model.lora_rank at 0 to train all weights"
        ) from None
    options = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern")  # experts' are used
        model.add_adapter(options, NAME)
    source = model.name_or_path
    if source and Path(source).is_dir():  # else the name of a model in the hub's cache
        options.base_model_name_or_path = str(Path(source).absolute())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.eval()


def adapter_rank(model: PreTrainedModel) -> int:
    """Return the rank of a model's adapters, 0 if it has none."""
    options: dict[str, Any] = getattr(model, "peft_config", {})
    return int(options[NAME].r) if options else 0


def largest_rank(model: PreTrainedModel) -> int:
    """Return the rank that an engine must have room for: peft doubles that of experts' gates."""
    options: dict[str, Any] = getattr(model, "peft_config", {})
    return max([options[NAME].r, *options[NAME].rank_pattern.values()]) if options else 0


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that adapters leave as they are, by name; none in a model without any."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not any("lora_" in name for name in parameters):
        return {}
    # Copies are frozen as a whole, and the heads of critics are trained.
    return {n: p for n, p in parameters.items() if not p.requires_grad and "lora_" not in n}


def copy_of(model: M) -> M:
    """Copy a model, and share the weights below adapters.

    With adapters, policy, reference, critic and engine thus have one set of them in memory.
    """
    shared: dict[int, Any] = {id(p): p for p in base_parameters(model).values()}
    return copy.deepcopy(model, shared)


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state without the weights below adapters, which are in `model.path`.

    Of a sharded model, this process's parts, in the dtypes of the whole one.
    """
    base, dtypes = base_parameters(model), saved_dtypes(model)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in base}
    return {name: tensor.to(dtypes[name]) for name, tensor in own.items()}


def load_own_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what `own_state` returned."""
    own = model.state_dict()
    parts = {name: part_of(tensor, own[name]) for name, tensor in state.items()}
    model.load_state_dict({**base_parameters(model), **parts})


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the plain model below the adapters. It shares all weights."""
    shared: dict[int, Any] = {id(p): p for p in model.parameters()}
    plain = copy.deepcopy(model, shared)
    for name, layer in _adapted_layers(plain):
        if not name.endswith(".base_layer"):  # experts: two, one around the other
            plain.set_submodule(name, layer.get_base_layer())
    return plain


@torch.no_grad()
def merged_model(model: PreTrainedModel) -> PreTrainedModel:
    """Add a model's adapters to its weights, and return the plain model that has these."""
    for _, layer in _adapted_layers(model):
        layer.merge()
    plain = base_model(model)
    # By these transformers knows a model with adapters, which it would save in another format.
    for name in ("peft_config", "_hf_peft_config_loaded", "_weight_conversions"):
        vars(plain).pop(name, None)
    plain.requires_grad_()
    return plain


@torch.no_grad()
def probe_of(policy: PreTrainedModel) -> PreTrainedModel:
    """Return a copy with random adapters, of a tenth of the norm of the weights they are added to.

    An engine that leaves them out, or scales them otherwise, computes something else. A new
    policy's adapters change nothing, and in the first steps too little to tell. Of
    SmolLM2-135M-Instruct these change the log-probability of a token by 0.7 nats on average, and
    bfloat16 by 0.04 (larger ones: 5.8 and 0.25).
    """
    probe = copy_of(policy)
    generator = torch.Generator().manual_seed(0)
    for _, layer in _adapted_layers(probe):
        up = layer.lora_B[NAME].weight  # (out, r)
        up.copy_(torch.randn(up.shape, generator=generator))
        weight = layer.get_param() if adapts_experts(layer) else layer.get_base_layer().weight
        change = layer.get_delta_weight(NAME)
        up.mul_(weight.norm(dtype=torch.float32) / change.norm(dtype=torch.float32) / 10)
    return probe


def adapts_experts(model: nn.Module) -> bool:
    """Return whether adapters are on the experts of a mixture, which have one tensor together."""
    return any(hasattr(layer, "get_param") for _, layer in _adapted_layers(model))


def adapters_changed(policy: PreTrainedModel) -> bool:
    """Return whether a policy's adapters change what it computes: whether they were trained."""
    return any("lora_B" in name and bool(p.any()) for name, p in policy.named_parameters())


def _adapted_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the layers that peft put in the place of others, by their names."""
    return [(name, part) for name, part in model.named_modules() if hasattr(part, "lora_A")]
