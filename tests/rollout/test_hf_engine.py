"""The engine of transformers: seeds, log-probabilities, stop strings, weights."""

import copy
import itertools

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)
from transformers.cache_utils import DynamicLayer

from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.policy import prepare, response_logprobs
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine, inverse_cdf
from stepcoder.rollout.kv_cache import RoomyLayer

TEXTS = ["def f(x):\n    return x + 1\n```", "for i in range(3):\n    print(i)\n```"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def policy(tokenizer):
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return prepare(AutoModelForCausalLM.from_config(shape), torch.device("cpu"))


def requests(tokenizer, seeds=(1, 2, 3, 4, 5)) -> list[Request]:
    prompts = [tuple(tokenizer.encode(text)) for text in ("def", "for i in", "x", "def f(x):\n")]
    return [Request(prompts[s % len(prompts)], s) for s in seeds]


def generate(engine, asked, sampling) -> list[Completion]:
    return sorted(engine.generate(asked, sampling), key=lambda c: c.index)


def test_logprobs_are_those_of_the_packed_policy_at_the_sampling_temperature(tokenizer, policy):
    asked = requests(tokenizer)
    sampling = Sampling(temperature=0.7, max_new_tokens=12)
    with HFEngine(policy, tokenizer, group_size=2) as engine:
        done = generate(engine, asked, sampling)
    rows = [
        Row(asked[c.index].prompt_ids, c.token_ids, c.logprobs, [True] * len(c.token_ids), 0.0)
        for c in done
    ]
    batch = pack(rows)
    with torch.no_grad():
        logprobs, _ = response_logprobs(policy, batch, 0.7)
    expected = batch.engine_logprobs[batch.response_positions]
    torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=1e-4)


def test_a_completion_depends_on_its_seed_and_not_on_its_neighbors(tokenizer, policy):
    sampling = Sampling(temperature=1.0, max_new_tokens=10)
    with HFEngine(policy, tokenizer, group_size=8) as engine:
        together = generate(engine, requests(tokenizer), sampling)
        alone = [generate(engine, [r], sampling)[0] for r in requests(tokenizer)]
        other = generate(engine, requests(tokenizer, (6, 7, 8, 9, 10)), sampling)
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.token_ids for c in together] != [c.token_ids for c in other]


def test_completions_that_end_early_leave_the_others_as_they_are(tokenizer, policy):
    asked = requests(tokenizer, range(12))
    sampling = Sampling(1.0, 40, stop=("e", "r", "("))
    with HFEngine(policy, tokenizer, group_size=12) as engine:
        together = generate(engine, asked, sampling)
        alone = [generate(engine, [r], sampling)[0] for r in asked]
    assert len({len(c.token_ids) for c in together}) > 5
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    for ours, its in zip(together, alone, strict=True):
        assert ours.logprobs == pytest.approx(its.logprobs, abs=1e-4)
        assert ours.stopped == its.stopped


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "initializer_range": 0.2,
}
FAMILIES = {
    "a sliding window": lambda **c: MistralConfig(sliding_window=5, **c),
    "windows in some layers": lambda **c: Gemma3TextConfig(
        sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2, **c
    ),
    "experts": lambda **c: Qwen3MoeConfig(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **c
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_cache_gives_what_the_model_gives_without_one(tokenizer, family):
    torch.manual_seed(0)
    shape = FAMILIES[family](vocab_size=len(tokenizer), **SMALL)
    model = AutoModelForCausalLM.from_config(shape).eval()
    asked = requests(tokenizer, (0, 1, 3))
    with HFEngine(model, tokenizer, group_size=3) as engine:
        done = generate(engine, asked, Sampling(0.0, 12, stop=("e",)))
    model.set_attn_implementation("eager")
    for request, completion in zip(asked, done, strict=True):
        row = torch.tensor([request.prompt_ids + completion.token_ids])
        with torch.no_grad():
            logprobs = model(row, use_cache=False).logits[0, -len(completion.token_ids) - 1 : -1]
        assert logprobs.argmax(-1).tolist() == list(completion.token_ids)


def test_new_tokens_are_written_into_the_cache_and_rows_leave_without_a_copy():
    prompt, token = torch.randn(2, 4, 1, 3, 8), torch.randn(2, 4, 1, 1, 8)
    ordinary = DynamicLayer()
    ordinary.update(*prompt)
    layer = RoomyLayer(ordinary, 5)
    start = layer.keys.data_ptr()
    keys, values = layer.update(*token)
    assert keys.data_ptr() == start
    assert torch.equal(torch.stack([keys, values]), torch.cat([prompt, token], dim=3))
    layer.batch_select_indices(torch.tensor([0, 3]))
    assert layer.keys.data_ptr() == start
    assert torch.equal(layer.values, torch.cat([prompt, token], dim=3)[1, [0, 3]])


def test_the_blockwise_search_finds_the_token_of_the_whole_cumulative_sum():
    torch.manual_seed(0)
    probabilities = torch.softmax(4 * torch.randn(2000, 1003), dim=-1)
    probabilities[:, 900:] = 0  # as outside a nucleus
    uniforms = torch.rand(2000, 1, dtype=torch.float64)
    uniforms[0], uniforms[1] = 0.0, 1 - 2**-53
    sums = probabilities.double().cumsum(-1)
    chosen = inverse_cdf(probabilities, uniforms)
    # Rounding may move the bounds of a token by a millionth.
    low, high = ((uniforms + shift).clamp(0, 1) * sums[:, -1:] for shift in (-1e-6, 1e-6))
    assert (chosen >= torch.searchsorted(sums, low)).all()
    assert (chosen <= torch.searchsorted(sums, high)).all()
    assert (probabilities.gather(1, chosen) > 0).all()


def test_temperature_zero_takes_the_most_likely_token(tokenizer, policy):
    with HFEngine(policy, tokenizer, group_size=8) as engine:
        (done,) = generate(engine, requests(tokenizer, (1,)), Sampling(0.0, 6))
    prompt = list(requests(tokenizer, (1,))[0].prompt_ids)
    plain = copy.deepcopy(policy)
    plain.set_attn_implementation("eager")
    for token in done.token_ids:
        with torch.no_grad():
            assert plain(torch.tensor([prompt])).logits[0, -1].argmax().item() == token
        prompt.append(token)


def test_the_sampler_draws_from_the_models_distribution(tokenizer, policy):
    """First tokens of 4,000 seeds against the softmax of the logits (chi-square-like bound)."""
    prompt = tuple(tokenizer.encode("def"))
    draws = 4000
    with HFEngine(policy, tokenizer, group_size=draws) as engine:
        done = engine.generate([Request(prompt, s) for s in range(draws)], Sampling(0.8, 1))
        counts = torch.bincount(
            torch.tensor([c.token_ids[0] for c in done]), minlength=len(tokenizer)
        )
    plain = copy.deepcopy(policy)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.softmax(plain(torch.tensor([prompt])).logits[0, -1] / 0.8, -1) * draws
    deviation = (counts - expected) / expected.sqrt().clamp(min=1)
    assert deviation.abs().max() < 5


def force(policy, tokenizer, continuation: list[int]):
    """A copy of the policy whose greedy continuation is a fixed cycle of tokens."""
    model = copy.deepcopy(policy)
    width = model.config.hidden_size
    ids = dict(itertools.pairwise(continuation))
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()  # the residual stream is the token's own embedding
        embedding = torch.zeros(len(tokenizer), width)
        head = torch.zeros(len(tokenizer), width)
        for place, (token, following) in enumerate(ids.items()):
            embedding[token, place] = 1.0
            head[following, place] = 50.0
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(head)
        model.model.embed_tokens.weight = torch.nn.Parameter(embedding)
    return model


def test_a_completion_ends_with_the_fence_or_the_end_of_sequence_or_turn(policy):
    tokenizer = train_tokenizer(TEXTS, 300)
    (fence,) = tokenizer.encode("```")
    start, a, b = tokenizer.encode("x")[0], *tokenizer.encode("d1")[:2]
    eos, turn = tokenizer.eos_token_id, tokenizer.pad_token_id
    template = "{% for m in messages %}{{ m['content'] }}" + tokenizer.pad_token + "{% endfor %}"
    for last, chat, stopped in [
        (fence, None, True),
        (eos, None, True),
        (eos, template, True),
        (turn, template, True),
        (turn, None, False),
        (b, None, False),
    ]:
        tokenizer = train_tokenizer(TEXTS, 300)
        tokenizer.chat_template = chat
        model = force(policy, tokenizer, [start, a, last, last])
        with HFEngine(model, tokenizer, group_size=4) as engine:
            (done,) = generate(engine, [Request((start,), 0)], Sampling(0.0, 5))
        assert done.stopped is stopped
        assert done.token_ids == ((a, last) if stopped else (a, last, last, last, last))
        assert len(done.logprobs) == len(done.token_ids)


def test_new_weights_are_used_from_the_next_generation_on(tokenizer, policy):
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1.5)
    sampling = Sampling(0.0, 8)
    with HFEngine(policy, tokenizer, 8) as engine, HFEngine(other, tokenizer, 8) as expected:
        before = generate(engine, requests(tokenizer), sampling)
        engine.update_weights(other)
        after = generate(engine, requests(tokenizer), sampling)
        assert after == generate(expected, requests(tokenizer), sampling)
        assert before != after


def test_the_checkpoints_own_sampling_defaults_do_not_bend_the_distribution(policy, tokenizer):
    asked, sampling = requests(tokenizer), Sampling(0.7, 12, ())
    with HFEngine(policy, tokenizer, 4) as engine:
        expected = list(engine.generate(asked, sampling))
    bent = copy.deepcopy(policy)
    bent.generation_config = GenerationConfig(
        do_sample=True, top_p=0.5, top_k=3, repetition_penalty=1.3, suppress_tokens=[5, 6]
    )
    with HFEngine(bent, tokenizer, 4) as engine:
        assert list(engine.generate(asked, sampling)) == expected
