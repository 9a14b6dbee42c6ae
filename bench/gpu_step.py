"""Times an update of a policy with random weights on a GPU, and its MFU: python bench/gpu_step.py.

Prints a JSON line a model the moment it is measured: Qwen2.5's shapes of 0.5B and 1.5B, bfloat16
with float32 masters, no critic, one optimizer step over one packed microbatch. MFU counts
6 x weights x tokens and causal attention, 12 x layers x width x length / 2 a token, against a dense
bfloat16 peak of 989 TFLOP/s (H100, H200).
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace

import measure
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import Learner, update
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.models.policy import prepare

PEAK = 989e12
MODELS = {  # width, inner width, layers, heads, key heads, vocabulary
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936),
}
ROWS, PROMPT, RESPONSE, REPEATS = 32, 256, 256, 5
if measure.DRY:
    MODELS, ROWS, PROMPT, RESPONSE, REPEATS = {"dry": (32, 48, 1, 2, 1, 100)}, 2, 4, 3, 1


def make_batch(vocab: int) -> Batch:
    """Rollouts of random tokens, of which 9 in 10 are trained."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(ROWS):
        prompt, response = torch.randint(vocab, (2, max(PROMPT, RESPONSE)), generator=generator)
        executed = (torch.rand(RESPONSE, generator=generator) < 0.9).tolist()
        logprobs = [-12.0] * RESPONSE
        rows.append(
            Row(prompt[:PROMPT].tolist(), response[:RESPONSE].tolist(), logprobs, executed, 1.0)
        )
    batch = pack(rows).to(measure.DEVICE)
    ones = torch.ones_like(batch.engine_logprobs)
    noise = torch.randn(len(ones), generator=generator).to(ones.device)
    return replace(batch, old_logprobs=batch.engine_logprobs, importance=ones, advantages=noise)


def measured(name: str) -> dict[str, object]:
    """Time the update of one model."""
    width, inner, layers, heads, key_heads, vocab = MODELS[name]
    shape = Qwen2Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with measure.DEVICE:
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    policy = prepare(model, measure.DEVICE)
    tokens = ROWS * (PROMPT + RESPONSE)
    config = PPOConfig(minibatches=1, tokens_per_microbatch=tokens, kl_beta=0.0)
    learner = Learner.create(Masters(policy), None, config)
    batch, generator, seconds = make_batch(vocab), torch.Generator().manual_seed(0), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        update(learner, batch, config, 1.0, generator)  # ends with norms that the host reads
        seconds.append(time.perf_counter() - began)
    best = statistics.median(seconds[1:])
    weights = sum(p.numel() for p in policy.parameters())
    attention = 12 * layers * width * (PROMPT + RESPONSE) / 2
    return {
        "operation": "update",
        "provider": "ours",
        "model": name,
        "T": tokens,
        "hot_ms": 1e3 * best,
        "first_ms": 1e3 * seconds[0],
        "tokens_per_s": tokens / best,
        "mfu": tokens * (6 * weights + attention) / best / PEAK,
    }


if __name__ == "__main__":
    for name in MODELS:
        print(json.dumps(measure.machine() | measured(name)), flush=True)
