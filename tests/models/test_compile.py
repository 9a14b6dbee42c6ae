"""Layers that torch.compile fuses compute what they did, with the same graphs for any lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.utils import fresh_inductor_cache
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from stepcoder.config import PPOConfig
from stepcoder.errors import RunError
from stepcoder.method.ppo import Learner, advantages, score, update
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.models.policy import (
    Critic,
    compile_layers,
    frozen_copy,
    prepare,
    recompute_layers,
)

# torch's own, from its compiler
pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
CONFIG = PPOConfig(minibatches=1, tokens_per_microbatch=60, policy_lr=1e-4, critic_lr=1e-4)
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}


def batch_of(prompt: int, response: int) -> Batch:
    """Four responses to two prompts, in several microbatches."""
    draw = torch.Generator().manual_seed(prompt)

    def tokens(count: int) -> list[int]:
        return torch.randint(2, 64, (count,), generator=draw).tolist()

    prompts = [tokens(prompt), tokens(prompt + 1)]
    rows = [(p, n, r) for p in prompts for n, r in ((response, 1.0), (response + 2, -1.0))]
    return pack([Row(p, tokens(n), [-4.0] * n, [True] * n, r) for p, n, r in rows])


def figures(model: PreTrainedModel, lengths: list[tuple[int, int]]) -> list[tuple[float, int]]:
    """Losses of updates on batches of such lengths, and how many graphs were compiled by then."""
    torch.manual_seed(0)
    critic, reference = Critic.from_policy(model), frozen_copy(model)
    learner, found = Learner.create(Masters(model), critic, CONFIG), []
    for prompt, response in lengths:
        batch = score(batch_of(prompt, response), model, reference, critic, CONFIG, 1.0)
        stats = update(learner, advantages(batch, CONFIG), CONFIG, 1.0, torch.Generator())
        found.append((stats["policy_loss"] + stats["value_loss"], graphs()))
    return found


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def llama_in_bfloat16(compiles: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = prepare(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).bfloat16(), CPU)
    if compiles:
        compile_layers(model)
    recompute_layers(model)  # in the backward pass
    return model


def test_compiled_layers_learn_the_same_from_any_lengths() -> None:
    lengths = [(9, 12), (14, 7), (5, 16)]
    eager, compiled = llama_in_bfloat16(compiles=False), llama_in_bfloat16(compiles=True)
    torch._dynamo.reset()
    counters.clear()
    expectations = figures(eager, lengths)
    assert graphs() == 0
    found = figures(compiled, lengths)
    for (loss, _), (expected, _) in zip(found, expectations, strict=True):
        assert loss == pytest.approx(expected, abs=2e-2)
    assert 0 < found[0][1] == found[-1][1]


def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    model = prepare(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)), CPU)
    torch._dynamo.reset()
    nowhere = (str(tmp_path / "no-compiler"),)
    with fresh_inductor_cache(), config.patch({"cpp.cxx": nowhere}), pytest.raises(RunError) as e:
        compile_layers(model)
    torch._dynamo.reset()
    assert "model.compile: torch.compile does not work here" in str(e.value)
    assert "\n" not in str(e.value)
