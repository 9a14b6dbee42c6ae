"""Packed rows: the same numbers as row by row, and no row sees another."""

import functools
import operator
from dataclasses import fields

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from stepcoder.batch import Batch, Row, microbatches, minibatches, pack
from stepcoder.policy import hidden_states, prepare

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2_sliding": Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "starcoder2": Starcoder2Config(**SMALL, sliding_window=None),
}


def rows(*prompts: tuple[int, ...]) -> list[Row]:
    """Rollouts of prompts given as (prompt length, response length, response length, ...)."""
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(2, 50, (n,), generator=generator).tolist()

    return [
        Row(prompt, ids(n), [-1.0] * n, [True] * n, 0.0)
        for first, *responses in prompts
        for prompt in [ids(first)]
        for n in responses
    ]


def by_row(batch: Batch, values: torch.Tensor) -> list[torch.Tensor]:
    """The values of each row: of its prompt, then of its response."""
    packing = batch.packing
    segments = [values[a:b] for a, b in zip(packing.starts, packing.ends, strict=True)]
    pairs = zip(packing.prompts, packing.responses, strict=True)
    return [torch.cat([segments[p], segments[r]]) for p, r in pairs]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_forward_equals_the_model_row_by_row(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).double()
    taken = rows((3, 5, 2), (1, 1), (10, 12, 1, 7), (2, 9))
    batch = pack(taken)
    plain = []
    with torch.no_grad():
        model.eval().set_attn_implementation("eager")
        for row in taken:
            tokens = torch.tensor([[*row.prompt_ids, *row.response_ids]])
            plain.append(model.get_decoder()(tokens).last_hidden_state[0])
        packed = hidden_states(prepare(model, torch.device("cpu")), batch)
    # transformers computes RMSNorm and rotary angles in float32 whatever the model's dtype
    torch.testing.assert_close(
        torch.cat(by_row(batch, packed)), torch.cat(plain), atol=2e-6, rtol=1e-5
    )


def test_the_gradient_of_a_shared_prompt_is_the_sum_over_its_rows():
    torch.manual_seed(0)
    model = prepare(AutoModelForCausalLM.from_config(FAMILIES["llama"]), torch.device("cpu"))
    taken = rows((4, 5, 3, 6))
    gradients = []
    for batches in ([pack(taken)], [pack([row]) for row in taken]):
        model.zero_grad()
        for batch in batches:
            hidden_states(model, batch)[batch.response_positions].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.get_decoder().parameters()])
    assert len(pack(taken).tokens) == 4 + 5 + 3 + 6  # the prompt is there once
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_a_row_does_not_see_its_neighbors():
    torch.manual_seed(0)
    model = prepare(AutoModelForCausalLM.from_config(FAMILIES["qwen2"]), torch.device("cpu"))
    batch = pack(rows((3, 5, 4), (4, 6), (2, 7)))
    changed = Batch(**{**vars_of(batch), "tokens": batch.tokens.clone()})
    changed.tokens[3:8] = 7  # the first response
    with torch.no_grad():
        one, two = hidden_states(model, batch), hidden_states(model, changed)
    assert torch.equal(one[:3], two[:3])
    assert not torch.equal(one[3:8], two[3:8])
    assert torch.equal(one[8:], two[8:])


def vars_of(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name: getattr(batch, name)
        for name in (f.name for f in fields(batch))
        if getattr(batch, name) is not None
    }


def test_a_response_counts_on_from_its_prompt():
    batch = pack(rows((2, 1, 3), (1, 2)))
    assert batch.position_ids.tolist() == [0, 1, 2, 2, 3, 4, 0, 1, 2]
    assert batch.response_positions.tolist() == [2, 3, 4, 5, 7, 8]
    assert batch.preceding[batch.response_positions].tolist() == [1, 1, 3, 4, 6, 7]
    assert batch.response_ends.tolist() == [2, 5, 8]


def test_microbatches_hold_every_row_once_within_their_bound():
    taken = rows((3, 5, 4, 9), (1, 1), (10, 12), (2, 9, 3), (4, 4))
    batch = pack(taken)
    seen = []
    for chosen, piece in microbatches(batch, 21):
        assert len(chosen) == len(piece)
        assert len(piece) == 1 or len(piece.tokens) <= 21
        for row, tokens in zip(chosen, by_row(piece, piece.tokens), strict=True):
            assert tokens.tolist() == [*taken[row].prompt_ids, *taken[row].response_ids]
        seen += chosen
    assert sorted(seen) == list(range(len(taken)))


def test_minibatches_hold_every_row_once_and_depend_only_on_the_generator():
    batch = pack(rows(*[(1, 2 * n + 1, 2 * n + 2) for n in range(5)]))
    drawn = [
        [
            m.packing.ends.sub(m.packing.starts)[m.packing.responses].tolist()
            for m in minibatches(batch, 3, torch.Generator().manual_seed(s))
        ]
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(functools.reduce(operator.iadd, drawn[0], [])) == list(range(1, 11))


def test_a_rollout_without_response_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        pack([Row([1], [], [], [], 0.0)])
