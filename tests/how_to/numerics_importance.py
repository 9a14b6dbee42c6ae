"""The example kernel against its definition in float64; test_how_to.py runs this."""

from __future__ import annotations

import os

import pytest
import torch
from importance import BLOCK, importance, reference

# numpy's, at the interpreter
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@pytest.mark.parametrize("tokens", [0, 1, BLOCK, 2 * BLOCK + 3])
def test_importance_matches_its_definition(monkeypatch, tokens):
    generator = torch.Generator().manual_seed(tokens)
    old, engine = (torch.randn(tokens, generator=generator) for _ in range(2))
    mask = torch.rand(tokens, generator=generator) < 0.7
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    found = importance(*(t.to(DEVICE) for t in (old, engine, mask)), cap=2.0)
    exact = reference(old.double(), engine.double(), mask, cap=2.0)
    torch.testing.assert_close(found.cpu().double(), exact, atol=1e-6, rtol=1e-6)


def test_a_wrong_dtype_is_refused(monkeypatch):
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    with pytest.raises(TypeError, match="response_mask is float32"):
        importance(*(torch.zeros(3, device=DEVICE) for _ in range(3)), cap=2.0)


def test_it_can_be_traced():
    kinds = {"schema": "test_schema", "fake": "test_faketensor"}
    tensors = [torch.randn(5, device=DEVICE), torch.randn(5, device=DEVICE)]
    mask = torch.ones(5, dtype=torch.bool, device=DEVICE)
    operation = torch.ops.stepcoder.importance.default
    torch.library.opcheck(operation, (*tensors, mask, 2.0), test_utils=tuple(kinds.values()))
