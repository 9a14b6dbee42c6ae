"""Models whose weights lie in parts on all processes (FSDP2), in place of whole on each.

Each model that is trained or scored with passes through `sharded`, which does nothing where one
process is alone. Else the first process makes it, and gives each its part layer by layer. A part
has float32 weights, gradients and optimizer states; weights that are not trained, as those below
adapters, stay in the dtype they have. A layer's weights are gathered in the compute dtype while it
runs, and its gradients summed over the processes in float32. Whoever needs a whole model takes
`gathered`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from stepcoder.models import ranks

M = TypeVar("M", bound=nn.Module)


def sharded(model: M | None, device: torch.device) -> M:
    """Spread the first process's model over all; it computes in the dtypes that it has there.

    The others give None. A causal language model is then called with work to do while its
    embeddings, last norm and head are at hand (`forward_with`), as its head's product is the
    kernels'.
    """
    if ranks.count() == 1:
        assert model is not None
        return model
    plain = ranks.from_first(lambda: _without_weights(cast(M, model)))
    weights = dict(model.named_parameters()) if model is not None else {}
    mesh = init_device_mesh(device.type, (ranks.count(),))
    spread = copy.deepcopy(plain)
    places = defaultdict(list)  # of each weight: tied ones have several
    for part in spread.modules():
        for key, weight in part._parameters.items():
            places[weight].append((part, key))
    names = {weight: name for name, weight in spread.named_parameters()}
    layers = [m for m in spread.modules() if isinstance(m, GradientCheckpointingLayer)]
    units: list[nn.Module] = [*layers, spread]
    for part in units:
        policy = MixedPrecisionPolicy()
        for empty in [p for p in part.parameters() if p in names]:
            whole_weight = torch.empty_like(empty, device=device)
            if ranks.is_first():
                whole_weight.copy_(weights[names[empty]])
            dist.broadcast(whole_weight, src=0)
            wide = torch.promote_types(empty.dtype, torch.float32)
            if empty.requires_grad and wide != empty.dtype:
                policy = MixedPrecisionPolicy(param_dtype=empty.dtype, reduce_dtype=wide)
                whole_weight = whole_weight.to(wide)
            filled = nn.Parameter(whole_weight, empty.requires_grad)
            for owner, key in places[empty]:
                owner.register_parameter(key, filled)
        stays = part is spread  # what is outside the layers stays gathered until the backward pass
        unit: Any = fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=not stays)
        unit.set_gradient_divide_factor(1.0)  # losses are sums over all processes' tokens
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot scale what it sums
    if isinstance(spread, PreTrainedModel):
        spread.forward = _do
    if hasattr(spread, "logits"):  # a critic's, beside its `forward`
        register_fsdp_forward_method(spread, "logits")
    vars(spread).update(plain=plain)  # not a submodule: nothing of it is trained
    return spread


def forward_with(model: nn.Module, work: Callable[[], Tensor]) -> Tensor:
    """Do work with a model's weights at hand; those outside its layers stay until `put_away`."""
    return cast(Tensor, model(work) if is_sharded(model) else work())


def put_away(model: nn.Module) -> None:
    """Free the gathered weights outside the layers; a backward pass has done it already."""
    if isinstance(model, FSDPModule):
        model.reshard()


def compute_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype that a model computes in, which is not that of float32 shards."""
    whole_model: nn.Module = vars(model).get("plain", model)
    return next(p.dtype for p in whole_model.parameters())


def saved_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Return the dtypes of a model's state by name; of a sharded one, those it has when whole."""
    return {n: t.dtype for n, t in vars(model).get("plain", model).state_dict().items()}


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model is one that `sharded` has spread."""
    return isinstance(model, FSDPModule)


def gathered(model: M, device: str | torch.device = "cpu") -> M:
    """Return a whole copy of a sharded model on a device, in its own dtypes; others as they are.

    In the first process; elsewhere without weights.
    """
    if not is_sharded(model):
        return model
    plain, dtypes = vars(model)["plain"], saved_dtypes(model)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = full(parameter)
        if ranks.is_first():
            found[name] = weight.to(device, dtypes[name])
    filled: dict[int, Any] = {
        id(p): nn.Parameter(found[name], p.requires_grad)
        for name, p in plain.named_parameters()
        if name in found
    }
    return cast(M, copy.deepcopy(plain, filled))


def full(tensor: Tensor) -> Tensor:
    """Return a tensor of a sharded model whole, in each process; others as they are."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def part_of(saved: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a saved tensor, placed as `like` is; others as they are.

    Every process has the saved one whole, or empty with what reads a part of it (`run.parts`).
    """
    if not isinstance(like, DTensor):
        return saved
    if saved.is_meta:
        part: Tensor = torch.empty_like(like.detach(), dtype=saved.dtype)
        vars(saved)["read_into"](part)
        return part
    mesh = like.device_mesh
    saved = saved.to(like.device, like.dtype)
    return distribute_tensor(saved, mesh, like.placements, src_data_rank=None)


def replicated(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process has a part as one that each has whole; others as is."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)


def _without_weights(model: M) -> M:
    """Return a copy whose weights have shapes alone."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)


def _do(work: Callable[[], Tensor]) -> Tensor:
    return work().clone()  # a view, which some decoders give, would lose its gradient hooks
