"""What stands in for kernels on the meta device, where none would run: it takes as much memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from stepcoder.kernels import chunked_head
from stepcoder.kernels.lm_head_backward import DEFAULT_WORKSPACE, gradient_chunks
from stepcoder.models.attention import packed_attention, ragged_attention


class _SDPAOfCPU(TorchFunctionMode):
    """Takes meta tensors through the kernel that a CPU would choose; PyTorch would another."""

    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*args, **options)
        *inputs, mask = args
        mask = torch.zeros_like(mask, dtype=inputs[0].dtype) if mask.dtype == torch.bool else mask
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(*inputs, attn_mask=mask, scale=options.get("scale"))[0]


def _attention_on_cpu(*inputs: Any, **options: Any) -> tuple[Tensor, None]:
    with _SDPAOfCPU():
        return packed_attention(*inputs, **options)


def _attention_on_cuda(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Flash attention; where `packed_attention` cannot take it, SDPA, as it does."""
    special = any(options.get(name) is not None for name in ("sliding_window", "softcap", "s_aux"))
    if special or query.dtype == torch.float32 or query.shape[-1] != value.shape[-1]:
        return _attention_on_cpu(module, query, key, value, *mask, **options)
    ragged = options["packing"].ragged
    return ragged_attention(query, key, value, ragged, options.get("scaling")), None


class Head(torch.autograd.Function):
    """Makes what the LM head does: `kernels.ppo_head` on CUDA, elsewhere `kernels.chunked_head`."""

    @staticmethod
    def forward(ctx: Any, on_cuda: bool, hidden: Tensor, weight: Tensor) -> Tensor:
        """Make buffers and gradients of states (N, H) and head (V, H); return a loss."""
        of_hidden, of_weight = ctx.needs_input_grad[1:]
        gradients: tuple[Tensor | None, Tensor | None]
        if on_cuda:
            gradients = (
                torch.empty_like(hidden) if of_hidden else None,
                torch.empty_like(weight) if of_weight else None,
            )
            if of_hidden or of_weight:
                chunks = gradient_chunks(len(hidden), len(weight), hidden.device, DEFAULT_WORKSPACE)
                several = of_weight and len(chunks) > 1
                sum_of_chunks = torch.empty_like(weight, dtype=torch.float32) if several else None
                workspace = hidden.new_empty(DEFAULT_WORKSPACE, dtype=torch.uint8)
                del sum_of_chunks, workspace
        else:
            buffers = chunked_head._Head(hidden, weight, 1.0, 0.0)
            gradients = chunked_head._Gradients(hidden, weight, (of_hidden, of_weight)).finish(
                weight
            )
            del buffers
        ctx.gradients = gradients
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradients on."""
        gradients, ctx.gradients = ctx.gradients, ()
        return None, *gradients


# By whether the run is on CUDA:
ATTENTION = {False: "planned_cpu", True: "planned_cuda"}
AttentionInterface.register(ATTENTION[False], _attention_on_cpu)
AttentionInterface.register(ATTENTION[True], _attention_on_cuda)
