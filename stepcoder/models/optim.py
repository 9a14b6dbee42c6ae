"""The optimizers of a model: AdamW for all of it, or Muon for the matrices of its layers.

Takes a transformers model, gives torch optimizers that step together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from stepcoder.config import OptimizerName


def optimizers_of(
    model: PreTrainedModel,
    name: OptimizerName,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float = 1e-8,
) -> list[torch.optim.Optimizer]:
    """AdamW for all trained parameters, or Muon for the layers' matrices and AdamW for the rest.

    Muon's steps are scaled to AdamW's size, so that one learning rate serves both.
    """

    trained = [p for p in model.parameters() if p.requires_grad]

    def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    if name == "adamw":
        return [adamw(trained)]
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    matrices = [p for p in trained if p.ndim == 2 and p not in tables]
    others = [p for p in trained if p.ndim != 2 or p in tables]
    muon = torch.optim.Muon(
        matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw(others)]


def load_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], states: Sequence[dict[str, Any]]
) -> None:
    """Continue each optimizer from its saved state."""
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
