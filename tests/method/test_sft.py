"""The supervised phase's rate over its steps, and which optimizer has which parameters."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stepcoder.config import SFTConfig
from stepcoder.method.sft import schedule
from stepcoder.models.optim import Masters, Optimizer


def rates(**shares: float) -> list[float]:
    config = SFTConfig(steps=10, **shares)
    return [schedule(config, step) for step in range(10)]


def test_the_rate_rises_stays_and_falls() -> None:
    assert rates(warmup_share=0.2, fall_share=0.5) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )


def test_without_shares_the_rate_is_constant() -> None:
    assert rates(warmup_share=0.0, fall_share=0.0) == [1.0] * 10


@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest(tied: bool) -> None:
    shape = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(shape)
    muon, adamw = Optimizer(Masters(model), "muon", 1e-3, (0.9, 0.95), 0.0).parts
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    named = dict(model.named_parameters())
    held = [
        {name for name, p in named.items() if any(p is q for q in o.param_groups[0]["params"])}
        for o in (muon, adamw)
    ]
    assert held[0] == {n for n in named if "layers" in n and n.endswith("proj.weight")}
    assert held[0] | held[1] == {*named}
    assert not held[0] & held[1]
