"""The engine of transformers: seeds, log-probabilities, stop strings, weights."""

import copy
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.policy import prepare, response_logprobs
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine

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


def test_a_completion_ends_with_the_closing_fence_or_the_end_of_sequence(tokenizer, policy):
    (fence,) = tokenizer.encode("```")
    start, a, b = tokenizer.encode("x")[0], *tokenizer.encode("d1")[:2]
    eos = tokenizer.eos_token_id
    for last, stopped in [(fence, True), (eos, True), (b, False)]:
        model = force(policy, tokenizer, [start, a, last, last])
        with HFEngine(model, tokenizer, group_size=4) as engine:
            (done,) = generate(engine, [Request((start,), 0)], Sampling(0.0, 5))
        assert done.stopped is stopped
        expected = (a, last) if stopped else (a, b, b, b, b)
        assert done.token_ids == expected
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
