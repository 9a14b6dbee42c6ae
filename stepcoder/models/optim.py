"""Optimizers that step float32 weights, whatever dtype the model computes in.

A step of 1e-6 is far below the spacing of bfloat16 numbers near most weights and would be rounded
away. Each trained weight of a narrower model therefore has a float32 master: the gradients of all
microbatches add up on the master, the optimizer steps it, and the model gets its rounded value
(Micikevicius et al., arXiv 1710.03740, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stepcoder.config import OptimizerName
from stepcoder.models.sharding import (
    full,
    part_of,
    put_away,
    replicated,
    saved_dtypes,
)


class Masters:
    """The float32 masters of a model's trained weights; a weight as wide as that is its own.

    One set serves all optimizers of a model, one after the other.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the weights that require a gradient, and catch their gradients from now on."""
        self.model = model
        self.of_weight: dict[nn.Parameter, nn.Parameter] = {}
        for weight in model.parameters():
            if not weight.requires_grad:
                continue
            master = weight
            if torch.promote_types(weight.dtype, torch.float32) != weight.dtype:
                master = nn.Parameter(weight.detach().float())
                weight.register_post_accumulate_grad_hook(_adds_to(master))
            self.of_weight[weight] = master

    @torch.no_grad()
    def round_into_model(self) -> None:
        """Give the model the masters' values, rounded to its dtype."""
        for weight, master in self.of_weight.items():
            if weight is not master:
                weight.copy_(master)

    def state_dict(self) -> list[Tensor]:
        """Return the masters that are not weights themselves, in the model's order."""
        return [master.detach() for master in self._wider]

    @torch.no_grad()
    def load_state_dict(self, state: list[Tensor]) -> None:
        """Load saved masters, and round them into the model; a model in float32 has none."""
        for master, saved in zip(self._wider, state, strict=True):
            master.copy_(part_of(saved, master))
        self.round_into_model()

    @property
    def _wider(self) -> list[nn.Parameter]:
        """The masters that are wider than what the model computes with; shards may be theirs."""
        dtypes, weights = saved_dtypes(self.model), self.model.named_parameters()
        masters = [(self.of_weight.get(weight), dtypes[name]) for name, weight in weights]
        return [m for m, dtype in masters if m is not None and m.dtype != dtype]


def _adds_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Return a hook that moves a weight's gradient to its master, as soon as it is complete."""

    def move(weight: Tensor) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad += weight.grad
        weight.grad = None

    return move


class Optimizer:
    """Steps a model's masters: AdamW for all, or Muon for the layers' matrices and AdamW else.

    Muon's steps are scaled to the size of AdamW's, so that one learning rate serves both
    (arXiv 2502.16982, section 2.2). Embeddings and LM head are AdamW's.
    """

    def __init__(
        self,
        masters: Masters,
        name: OptimizerName,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        """Take over the masters of a model."""
        self.masters = masters
        trained = list(masters.of_weight.values())
        matrices: list[nn.Parameter] = []  # Muon's
        if name == "muon":
            model: Any = masters.model
            ends = (model.get_input_embeddings(), model.get_output_embeddings())
            vocabulary = {masters.of_weight.get(end.weight) for end in ends if end is not None}
            matrices = [p for p in trained if p.ndim == 2 and p not in vocabulary]
        self.matrices = dict.fromkeys(matrices)  # in order: processes meet at each
        others = [p for p in trained if p not in self.matrices]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            # On CUDA one kernel for all weights; on a CPU it would round otherwise than before.
            fused = others[0].is_cuda
            adamw = torch.optim.AdamW(others, lr, betas, eps, weight_decay, fused=fused or None)
            self.parts.append(adamw)

    def step(self, max_grad_norm: float, lr: float | None = None) -> Tensor:
        """Clip the gradient, step (at another rate, if given), clear.

        Returns the gradient's norm before clipping, (), on the device.
        """
        put_away(self.masters.model)
        norm = nn.utils.clip_grad_norm_(self.masters.of_weight.values(), max_grad_norm)
        for matrix in self.matrices:  # Muon's step is a function of the whole gradient
            matrix.grad = None if matrix.grad is None else replicated(matrix.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["lr"] if lr is None else lr
            part.step()
            part.zero_grad(set_to_none=True)
        self.masters.round_into_model()
        return full(norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the masters, and what the optimizers keep of the steps so far."""
        parts = [part.state_dict() for part in self.parts]
        return {"masters": self.masters.state_dict(), "parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved steps, with this optimizer's own rates: a resume may change them."""
        self.masters.load_state_dict(state["masters"])
        for part, saved in zip(self.parts, state["parts"], strict=True):
            weights = [weight for group in part.param_groups for weight in group["params"]]
            parts = {
                i: _mapped(partial(_moment_of, weights[i], weights[i] in self.matrices), kept)
                for i, kept in saved["state"].items()
            }
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": parts, "param_groups": groups})


def _mapped(function: Callable[[Tensor], Tensor], kept: dict[str, Any]) -> dict[str, Any]:
    return {k: function(v) if isinstance(v, Tensor) else v for k, v in kept.items()}


def _moment_of(weight: Tensor, is_whole: bool, saved: Tensor) -> Tensor:
    """Return what an optimizer keeps beside a weight, from the saved whole: as the weight lies."""
    if saved.shape != weight.shape:  # the number of steps
        return saved
    return replicated(part_of(saved, weight)) if is_whole else part_of(saved, weight)
