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


def rows(*lengths: tuple[int, int]) -> list[Row]:
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(2, 50, (n,), generator=generator).tolist()

    return [Row(ids(p), ids(r), [-1.0] * r, [True] * r, 0.0) for p, r in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_forward_equals_the_model_row_by_row(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).double()
    batch = pack(rows((3, 5), (1, 1), (10, 12), (2, 9)))
    plain = []
    with torch.no_grad():
        model.eval().set_attn_implementation("eager")
        for row in batch.tokens.split(batch.lengths.tolist()):
            plain.append(model.get_decoder()(row[None]).last_hidden_state[0])
        packed = hidden_states(prepare(model, torch.device("cpu")), batch)
    # transformers computes RMSNorm and rotary angles in float32 whatever the model's dtype
    torch.testing.assert_close(packed, torch.cat(plain), atol=2e-6, rtol=1e-5)


def test_a_row_does_not_see_its_neighbors():
    torch.manual_seed(0)
    model = prepare(AutoModelForCausalLM.from_config(FAMILIES["qwen2"]), torch.device("cpu"))
    batch = pack(rows((3, 5), (4, 6), (2, 7)))
    changed = Batch(**{**vars_of(batch), "tokens": batch.tokens.clone()})
    changed.tokens[:8] = 7  # the first row
    with torch.no_grad():
        one, two = hidden_states(model, batch), hidden_states(model, changed)
    assert torch.equal(one[8:], two[8:])
    assert not torch.equal(one[:8], two[:8])


def vars_of(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name: getattr(batch, name)
        for name in (f.name for f in fields(batch))
        if getattr(batch, name) is not None
    }


def test_positions_restart_at_every_row():
    batch = pack(rows((2, 1), (1, 3)))
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.response_positions.tolist() == [2, 4, 5, 6]


def test_microbatches_hold_every_row_once_within_their_bound():
    batch = pack(rows((3, 5), (1, 1), (10, 12), (2, 9), (4, 4)))
    seen = []
    for chosen, piece in microbatches(batch, 24):
        assert len(chosen) == len(piece)
        assert len(piece) == 1 or int(piece.lengths.max()) * len(piece) <= 24
        expected = torch.cat([batch.tokens.split(batch.lengths.tolist())[r] for r in chosen])
        assert torch.equal(piece.tokens, expected)
        seen += chosen
    assert sorted(seen) == list(range(5))


def test_minibatches_hold_every_row_once_and_depend_only_on_the_generator():
    batch = pack(rows(*[(1, n + 1) for n in range(7)]))
    drawn = [
        [
            sorted(m.lengths.tolist())
            for m in minibatches(batch, 3, torch.Generator().manual_seed(s))
        ]
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(functools.reduce(operator.iadd, drawn[0], [])) == [n + 2 for n in range(7)]


def test_a_rollout_without_response_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        pack([Row([1], [], [], [], 0.0)])
