"""Families of decoders: the trainer computes what the model itself does, or it refuses."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.modeling_layers import GradientCheckpointingLayer

from stepcoder.config import PPOConfig
from stepcoder.errors import RunError
from stepcoder.method.ppo import CLIPPED, policy_loss
from stepcoder.models.attention import unpacked_attention
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.policy import (
    Critic,
    hidden_states,
    lm_head,
    prepare,
    recompute_layers,
    response_logprobs,
)
from stepcoder.models.pretrained import ROUNDING, load_policy, packing_difference
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine

CPU, VOCABULARY, TEMPERATURE = torch.device("cpu"), 300, 0.7
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DENSE = {**BASE, "intermediate_size": 48, "num_key_value_heads": 2}
EXPERTS = {**DENSE, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LATENT = {
    **{**EXPERTS, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    **{"first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
}
LINEAR = {
    **{**EXPERTS, "head_dim": 8, "num_experts": 4, "shared_expert_intermediate_size": 24},
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
}
PICTURES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
TOKENIZER = train_tokenizer(["a"], 260)
TRAINED = {
    "llama": DENSE,
    "mistral": {**DENSE, "sliding_window": 4},
    "qwen2": DENSE,
    "qwen3": {**DENSE, "head_dim": 8},
    "phi3": {**DENSE, "sliding_window": 4},
    "smollm3": DENSE,
    "seed_oss": {**DENSE, "head_dim": 8},
    "starcoder2": {**DENSE, "sliding_window": 4},
    "gpt2": {**GPT2, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_bigcode": {**GPT2, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {**BASE, "intermediate_size": 48},
    "olmo2": DENSE,
    "glm4": {**DENSE, "head_dim": 8},
    "gemma2": {**DENSE, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 0.8},
    "gemma3_text": {**DENSE, "head_dim": 8, "sliding_window": 4},
    "granite": {**DENSE, "logits_scaling": 3.0, "residual_multiplier": 0.5},
    "cohere": {**DENSE, "logit_scale": 0.25},
    "cohere2": {**DENSE, "logit_scale": 0.25, "sliding_window": 4, "head_dim": 8},
    "nanochat": {**DENSE, "final_logit_softcapping": 0.8},
    "qwen3_moe": {**EXPERTS, "num_experts": 4, "head_dim": 8},
    "mixtral": {**EXPERTS, "num_local_experts": 4},
    "olmoe": {**EXPERTS, "num_experts": 4},
    "granitemoe": {**EXPERTS, "num_local_experts": 4, "logits_scaling": 3.0},
    "gpt_oss": {**EXPERTS, "num_local_experts": 4, "head_dim": 8, "sliding_window": 4},
    "deepseek_v3": LATENT,
}
DIFFERS = r"own log-probabilities differ from the trainer's by [\d.]+ nats a token"
REFUSED = {
    "falcon": ({**BASE, "alibi": True}, DIFFERS),
    "bloom": ({"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}, DIFFERS),
    "qwen3_next": (LINEAR, DIFFERS),
    "mamba2": (
        {
            **{k: v for k, v in BASE.items() if k != "num_attention_heads"},
            **{"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "state_size": 8},
        },
        DIFFERS,
    ),
    "lfm2": ({**DENSE, "layer_types": ["conv", "full_attention"]}, DIFFERS),
    "hyperclovax": ({**DENSE, "logits_scaling": 3.0}, DIFFERS),
    "stablelm": (DENSE, "missing 1 required keyword-only argument: 'packing'"),
    "phi": ({**BASE, "intermediate_size": 48}, "PhiForCausalLM: the LM head has a bias"),
    "mistral3": (
        {
            "text_config": {"model_type": "mistral", **DENSE, "head_dim": 8},
            "vision_config": {"model_type": "pixtral", **PICTURES},
        },
        "does not load as a causal language model",
    ),
}


def tiny(family: str, settings: dict, of=AutoModelForCausalLM):
    """A model with weights so large that every part of it matters to the logits."""
    torch.manual_seed(0)
    model = of.from_config(AutoConfig.for_model(family, **settings)).float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def drawn(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # GPT-BigCode's import
@pytest.mark.parametrize("family", TRAINED)
def test_log_probabilities_gradients_and_samples_are_the_models_own(family):
    model = tiny(family, TRAINED[family])
    shared, other, *responses = drawn(6, 3, 9, 4, 7)
    rows = [
        Row(prompt, response, [0.0] * len(response), [True] * len(response), 0.0)
        for prompt, response in zip((shared, shared, other), responses, strict=True)
    ]
    model.set_attn_implementation(unpacked_attention(model))
    own = []
    for row in rows:
        logits = model(torch.tensor([[*row.prompt_ids, *row.response_ids]]), use_cache=False).logits
        predicted = (logits[0, len(row.prompt_ids) - 1 : -1] / TEMPERATURE).log_softmax(-1)
        own.append(predicted.gather(-1, torch.tensor(row.response_ids)[:, None]).squeeze(-1))
    own = torch.cat(own)
    advantages = torch.linspace(-1, 1, len(own))
    (-(advantages * own).sum() / len(own)).backward()  # PPO's loss has this gradient at ratio 1
    expected = gradients(model)

    batch = pack(rows)
    logprobs, _ = response_logprobs(prepare(model, CPU), batch, TEMPERATURE)
    torch.testing.assert_close(logprobs, own, atol=1e-4, rtol=1e-4)
    scored = {
        "old_logprobs": batch.scatter_responses(own.detach()),
        "ref_logprobs": batch.scatter_responses(own.detach()),
        "advantages": batch.scatter_responses(advantages),
        "importance": batch.scatter_responses(torch.ones(len(own))),
    }
    states, scored_batch = hidden_states(model, batch), replace(batch, **scored)
    loss, _ = policy_loss(
        *(states, lm_head(model), scored_batch, PPOConfig()),
        *(TEMPERATURE, float(len(own)), CLIPPED),
    )
    loss.backward()
    torch.testing.assert_close(gradients(model), expected, atol=1e-4, rtol=1e-3)

    requests = [Request(tuple(prompt), seed) for prompt in (shared, other) for seed in (0, 1)]
    with HFEngine(model, TOKENIZER, 4) as engine:
        done = list(engine.generate(requests, Sampling(TEMPERATURE, 8, stop=())))
    sampled = pack(
        [
            Row(requests[c.index].prompt_ids, c.token_ids, c.logprobs, [True] * 8, 0.0)
            for c in done
            if len(c.token_ids) == 8  # all but a rare one that ended
        ]
    )
    with torch.no_grad():
        logprobs, _ = response_logprobs(model, sampled, TEMPERATURE)
    assert len(logprobs) >= 16
    reported = sampled.engine_logprobs[sampled.response_positions]
    torch.testing.assert_close(reported, logprobs, atol=1e-4, rtol=1e-4)
    assert packing_difference(model) < ROUNDING


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # GPT-BigCode's import
@pytest.mark.parametrize("family", [*TRAINED, "opt"])  # OPT's layers drop out in training mode
def test_layers_that_are_computed_again_give_the_same_gradients(family):
    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48}
    settings |= {"num_attention_heads": 4, "word_embed_proj_dim": 32, "dropout": 0.5}
    model = prepare(tiny(family, TRAINED.get(family, settings)), CPU)
    prompt, *responses = drawn(6, 3, 9)
    batch = pack([Row(prompt, r, [0.0] * len(r), [True] * len(r), 0.0) for r in responses])
    calls: list[int] = []
    first = next(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
    inner = next(m for m in first.modules() if m is not first)
    inner.register_forward_hook(lambda *_: calls.append(0))

    def found(of):
        calls.clear()
        of.zero_grad(set_to_none=True)
        hidden_states(of, batch).square().sum().backward()
        return [p.grad for p in of.parameters() if p.grad is not None]

    decoder = model.get_decoder()
    expected = found(decoder)
    assert len(calls) == 1
    recompute_layers(model)
    critic = Critic.from_policy(model)  # a copy, whose layers are its own
    for again in (found(decoder), found(critic.backbone)):
        assert len(calls) == 2
        assert len(again) == len(expected) > 10
        assert all(torch.equal(one, two) for one, two in zip(again, expected, strict=True))
    with torch.no_grad():
        calls.clear()
        hidden_states(model, batch)
        assert len(calls) == 1


@pytest.mark.parametrize("family", REFUSED)
def test_what_packed_rows_cannot_compute_is_refused_in_a_line(family, tmp_path):
    settings, words = REFUSED[family]
    of = AutoModelForImageTextToText if family == "mistral3" else AutoModelForCausalLM
    tiny(family, settings, of).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=words) as refusal:
        load_policy(tmp_path, torch.float32, CPU)
    assert str(refusal.value).startswith("model.path: ")
    assert "\n" not in str(refusal.value)


def test_the_check_leaves_a_bfloat16_model_as_it_was(tmp_path):
    model = tiny("gemma2", TRAINED["gemma2"]).bfloat16()
    model.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path, torch.bfloat16, CPU)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, model.get_parameter(name))
