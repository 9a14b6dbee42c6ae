"""Attention over packed rows equals attention row by row, and no row sees another."""

import functools
import importlib.util
import itertools
import operator
from dataclasses import fields

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from stepcoder.models import attention
from stepcoder.models.attention import Packing, packed_attention, ragged_attention
from stepcoder.models.batch import Batch, Row, microbatches, minibatches, pack
from stepcoder.models.policy import hidden_states, prepare

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


def plain_ragged(query, key, value, ragged, scaling):
    """What flash attention computes, segment by segment."""
    groups = query.shape[1] // key.shape[1]
    out = []
    for segment in range(len(ragged.cu_queries) - 1):
        queries = slice(*ragged.cu_queries[segment : segment + 2].tolist())
        keys = slice(*ragged.cu_keys[segment : segment + 2].tolist())
        q = query[queries].transpose(0, 1)
        k, v = (s[keys].transpose(0, 1).repeat_interleave(groups, 0) for s in (key, value))
        assert q.shape[1] <= ragged.longest_query
        assert k.shape[1] <= ragged.longest_key
        diagonal = k.shape[1] - q.shape[1]  # the last query sees the last key
        visible = torch.ones(q.shape[1], k.shape[1], device=q.device).tril(diagonal) > 0
        scores = (q @ k.mT) * scaling
        out.append((scores.where(visible, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out)


@pytest.fixture
def ragged_on_cpu(monkeypatch):
    """Run the code around flash attention on the CPU, with `plain_ragged` in its place."""
    monkeypatch.setattr(attention, "takes_flash", lambda _: True)
    monkeypatch.setattr(attention, "flash_attention", lambda: plain_ragged)


@pytest.mark.parametrize("path", ["padded", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_forward_equals_the_model_row_by_row(family, path, request):
    if path == "ragged":
        request.getfixturevalue("ragged_on_cpu")
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


def test_ragged_segments_see_their_prompt_and_themselves():
    # a prompt of 3 with responses of 5 and 2, a prompt of 1 with a response of 1
    bounds = torch.tensor([0, 3, 8, 10, 11, 12], dtype=torch.int32)
    packing = Packing.of(bounds, torch.tensor([False, True, True, False, True]))
    ragged = packing.ragged
    keys = [ragged.keys[a:b].tolist() for a, b in itertools.pairwise(ragged.cu_keys.tolist())]
    assert keys == [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 8, 9], [10], [10, 11]]
    assert ragged.cu_queries.tolist() == bounds.tolist()
    assert ragged.cu_queries.dtype == ragged.cu_keys.dtype == torch.int32
    assert (ragged.longest_query, ragged.longest_key) == (5, 8)


PROMPTS = [((1, 1),), ((5, 3),), ((3, 5, 2), (1, 1), (10, 12, 1, 7), (2, 9)), ((4, 1, 1, 1, 20),)]


def heads(total: int, seed: int, dtype=torch.float64, device="cpu") -> list[torch.Tensor]:
    """Queries of 4 heads, keys and values of 2, that require gradients, and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(1, n, total, 16, generator=generator).to(device, dtype) for n in (4, 2, 2)]
    upstream = torch.randn(1, total, 4, 16, generator=generator).to(device, dtype)
    return [*(tensor.requires_grad_() for tensor in drawn), upstream]


def outcome(function, total: int, **where) -> list[torch.Tensor]:
    """An attention's output, and its gradients by queries, keys and values."""
    query, key, value, upstream = heads(total, total, **where)
    out = function(query, key, value)
    out.backward(upstream)
    return [out.detach(), query.grad, key.grad, value.grad]


def packed(packing: Packing):
    return lambda *qkv: packed_attention(torch.nn.Module(), *qkv, None, packing=packing)[0]


@pytest.mark.parametrize("prompts", PROMPTS)
def test_attention_over_ragged_segments_is_that_over_padded_ones(prompts, monkeypatch):
    packing = pack(rows(*prompts)).packing
    total = int(packing.ends[-1])
    monkeypatch.setattr(attention, "flash_attention", lambda: plain_ragged)
    with Calls() as calls:
        ragged = outcome(lambda *qkv: ragged_attention(*qkv, packing.ragged, 0.25), total)
    assert not any("index_put" in name for name in calls.seen)  # on CUDA it sorts, in each layer
    torch.testing.assert_close(ragged, outcome(packed(packing), total))


class Calls(TorchDispatchMode):
    """Records the operators that run, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[function._schema.name] = args
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("without_gqa", [False, True], ids=["newest torch", "torch 2.11"])
def test_pytorchs_flash_attention_is_called_as_it_asks_for(without_gqa):
    ragged = pack(rows((3, 5, 2), (1, 1))).packing.ragged
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    def older(query, key, value, *bounds, scale=None, window_size=(-1, -1)):
        return function(query, key, value, *bounds, scale=scale, window_size=window_size)

    attend = attention._of_torch(older if without_gqa else function)
    with FakeTensorMode(allow_non_fake_inputs=True), Calls() as calls:
        query, key = (
            torch.empty(n, h, 16, device="cuda", dtype=torch.bfloat16)
            for n, h in ((12, 4), (19, 2))
        )
        assert attend(query, key, key, ragged, 0.25).shape == (12, 4, 16)
    _, key, _, _, _, longest_query, longest_key, causal, scale, *_ = calls.seen[
        "torch_attn::_varlen_attn"
    ]
    assert key.shape == (19, 4 if without_gqa else 2, 16)
    assert (longest_query, longest_key, causal, scale) == (5, 8, True, 0.25)


def test_what_flash_attention_cannot_do_is_padded():
    assert not attention.takes_flash(torch.zeros(1, 4, 12, 16, dtype=torch.bfloat16))  # no CUDA
    with FakeTensorMode():
        for dtype, width in ((torch.float32, 16), (torch.bfloat16, 20), (torch.bfloat16, 264)):
            query = torch.empty(1, 4, 12, width, device="cuda", dtype=dtype)
            assert not attention.takes_flash(query)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("source", ["torch", "flash_attn"])
@pytest.mark.parametrize("prompts", [*PROMPTS, ((300, 700, 130, 1), (64, 257))])
def test_flash_attention_on_cuda_is_the_padded_one(prompts, source, monkeypatch):
    if source == "flash_attn" and not importlib.util.find_spec("flash_attn"):
        pytest.skip("flash-attn is not installed")
    if source == "torch":
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        monkeypatch.setattr(attention, "flash_attention", lambda: attention._of_torch(function))
    packing = pack(rows(*prompts)).to(torch.device("cuda")).packing
    total, cuda = int(packing.ends[-1]), {"device": "cuda"}
    exact = outcome(packed(packing), total, dtype=torch.float32, **cuda)
    found = outcome(packed(packing), total, dtype=torch.bfloat16, **cuda)
    for ours, true in zip(found, exact, strict=True):
        assert (ours.float() - true).norm() < 0.02 * true.norm()


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
    assert batch.predictor_index[batch.response_positions].tolist() == [1, 1, 3, 4, 6, 7]
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
