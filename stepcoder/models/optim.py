"""Makes a model's optimizers: AdamW for all weights, or Muon for the matrices of its layers."""

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
    """Return optimizers that step together and cover the parameters that require a gradient.

    "adamw" gives AdamW for all; "muon" gives Muon for the matrices other than embeddings and LM
    head, then AdamW for the rest. Muon's steps are scaled to the size of AdamW's, so that one
    learning rate serves both (arXiv 2502.16982, section 2.2).
    """

    trained = [p for p in model.parameters() if p.requires_grad]

    def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    if name == "adamw":
        return [adamw(trained)]
    vocabulary = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    matrices = [p for p in trained if p.ndim == 2 and p not in vocabulary]
    others = [p for p in trained if p.ndim != 2 or p in vocabulary]
    muon = torch.optim.Muon(
        matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw(others)]


def load_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], states: Sequence[dict[str, Any]]
) -> None:
    """Load each optimizer's saved state, in the order of `optimizers_of`.

    Rates, betas and decay stay those of the configuration, which a resume may have changed.
    """
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({**state, "param_groups": groups})
