"""Models whose weights lie in parts on all processes (FSDP2), in place of whole on each.

Each model that is trained or scored with passes through `sharded`, which does nothing where one
process is alone. Else each process keeps float32 weights, gradients and optimizer states of its
part; a layer's weights are gathered in the compute dtype while it runs, and its gradients summed
over the processes in float32. Whoever needs a whole model takes `gathered`, or of a tensor `whole`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from stepcoder.models import ranks

M = TypeVar("M", bound=nn.Module)


def sharded(model: M, device: torch.device) -> M:
    """Spread a model over the processes in place; it computes in the dtype that it has now.

    A causal language model is then called with work to do while its embeddings, last norm and head
    are at hand (`forward_with`), since the head's product is the kernels'.
    """
    if ranks.count() == 1:
        return model
    dtype = _dtype(model)
    plain = copy.deepcopy(model, {id(p): _empty(p) for p in model.parameters()})
    mesh = init_device_mesh(device.type, (ranks.count(),))
    wide = torch.promote_types(dtype, torch.float32)
    narrow = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide)
    policy = MixedPrecisionPolicy() if wide == dtype else narrow
    model.to(wide)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    root: Any = fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for part in [*layers, root]:
        part.set_gradient_divide_factor(1.0)  # losses are sums over all processes' tokens
        part.set_force_sum_reduction_for_comms(True)  # gloo cannot scale what it sums
    if isinstance(model, PreTrainedModel):
        model.forward = _do
    # Not a submodule: nothing of it is trained.
    vars(model).update(plain=plain, compute_dtype=dtype)
    return model


def forward_with(model: nn.Module, work: Callable[[], Tensor]) -> Tensor:
    """Do work with a model's weights at hand; those outside its layers stay until `put_away`."""
    return cast(Tensor, model(work) if is_sharded(model) else work())


def put_away(model: nn.Module) -> None:
    """Free the gathered weights outside the layers; a backward pass has done it already."""
    if isinstance(model, FSDPModule):
        model.reshard()


def compute_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype that a model computes in, which is not that of float32 shards."""
    return cast(torch.dtype, vars(model).get("compute_dtype") or _dtype(model))


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model is one that `sharded` has spread."""
    return isinstance(model, FSDPModule)


def gathered(model: M, everywhere: bool = False, device: str | torch.device = "cpu") -> M:
    """Return a whole copy of a sharded model on a device, in its compute dtype; others as they are.

    In the first process; elsewhere without weights, unless it is wanted `everywhere`.
    """
    if not is_sharded(model):
        return model
    plain, dtype = vars(model)["plain"], compute_dtype(model)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = full(parameter)
        if everywhere or ranks.is_first():
            found[name] = weight.to(device, dtype)
    filled: dict[int, Any] = {
        id(p): nn.Parameter(found[name], p.requires_grad)
        for name, p in plain.named_parameters()
        if name in found
    }
    return cast(M, copy.deepcopy(plain, filled))


def full(tensor: Tensor) -> Tensor:
    """Return a tensor of a sharded model whole, in each process; others as they are."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of a sharded model whole, on the CPU, in the first process; empty elsewhere.

    Others are returned as they are.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    found = full(tensor)
    return found.to("cpu", dtype or found.dtype) if ranks.is_first() else found.new_empty(0)


def part_of(saved: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor that every process has, placed as `like` is."""
    if not isinstance(like, DTensor):
        return saved
    mesh = like.device_mesh
    saved = saved.to(like.device, like.dtype)
    return distribute_tensor(saved, mesh, like.placements, src_data_rank=None)


def replicated(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process has a part as one that each has whole; others as is."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters())


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _do(work: Callable[[], Tensor]) -> Tensor:
    return work().clone()  # a view, which some decoders give, would lose its gradient hooks
