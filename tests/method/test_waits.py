"""Nothing in a microbatch makes the CPU wait for the GPU, which would then run out of work.

PyTorch's meta device stands in for the GPU: its tensors have no values that the CPU could read, the
kernels are chosen as on CUDA, and a mode sees every operation.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from stepcoder.config import PPOConfig
from stepcoder.method.ppo import Learner, PolicyLoss, advantages, score, update
from stepcoder.method.sft import supervised_step
from stepcoder.models.attention import moved
from stepcoder.models.batch import Batch, Row, pack
from stepcoder.models.optim import Masters
from stepcoder.models.policy import (
    AnyCritic,
    Critic,
    ValueHead,
    frozen_copy,
    prepare,
)
from stepcoder.plan.stand_ins import ATTENTION

CPU, GPU = torch.device("cpu"), torch.device("meta")
# Operations whose result has a size, or is a number, that the CPU must read from the GPU.
READ = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive")
CONFIG = PPOConfig(minibatches=1, tokens_per_microbatch=24)


class Waits(TorchDispatchMode):
    """Counts by place in stepcoder/ what waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options, name = kwargs or {}, function.overloadpacket.__name__
        tensors = [a for a in args if isinstance(a, Tensor)]
        devices = {t.device for t in tensors}
        reads = GPU in devices and (
            name in READ
            or (name.startswith(("index", "_index_put")) and self.mask_or_elsewhere(args))
            or (name == "repeat_interleave" and options.get("output_size") is None)
        )
        takes = name == "_to_copy" and GPU in devices and options.get("device") == CPU
        takes |= name == "copy_" and (tensors[0].device, tensors[1].device) == (CPU, GPU)
        # From memory that is not pinned: all but `moved` copies so.
        gives = name == "_to_copy" and CPU in devices and options.get("device") == GPU
        gives |= name == "copy_" and (tensors[0].device, tensors[1].device) == (GPU, CPU)
        if reads or takes or gives:
            frame: Any = sys._getframe()
            while "/stepcoder/" not in frame.f_code.co_filename:
                frame = frame.f_back
            if not gives or frame.f_code.co_name != moved.__name__:
                self.found[f"{frame.f_code.co_filename}:{frame.f_lineno} {name}"] += 1
        if takes:
            return torch.zeros(tensors[-1].shape, dtype=tensors[-1].dtype)
        return 1.0 if name == READ[0] and reads else function(*args, **options)

    @staticmethod
    def mask_or_elsewhere(args: Any) -> bool:
        """Whether an index is a mask, or is still on the CPU."""
        indices = args[1] if isinstance(args[1], list | tuple) else ()
        return any(i is not None and (i.dtype == torch.bool or i.device != GPU) for i in indices)


@pytest.fixture(params=["flash", "padded"])
def policy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A small bfloat16 Llama on the stand-in, where the kernels' shapes are computed as on CUDA."""
    monkeypatch.setenv("STEPCODER_KERNELS", "triton")
    monkeypatch.setattr("stepcoder.kernels.dispatch.INTERPRETED", True)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with GPU:
        model = prepare(AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16), GPU)
    if request.param == "flash":
        model.set_attn_implementation(ATTENTION[True])
    return model


def batch_of(prompts: int) -> Batch:
    """Two programs for each prompt: two prompts fill a microbatch of 24 tokens each."""
    rows = [
        Row([2 + prompt] * 6, [3] * 9, [-1.0] * 9, [True] * 8 + [False], 1.0)
        for prompt in range(prompts)
        for _ in range(2)
    ]
    return pack(rows).to(GPU)


def counted(run: Any, prompts: int) -> Counter[str]:
    batch = batch_of(prompts)
    with Waits() as waits:
        run(batch)
    return waits.found


def a_microbatch(run: Any) -> dict[str, int]:
    """What one microbatch more makes the CPU wait for."""
    few, more = counted(run, 1), counted(run, 2)
    return {place: more[place] - few[place] for place in more if more[place] != few[place]}


CRITICS = {
    "model": Critic.from_policy,
    "head": lambda policy: ValueHead(policy).to(GPU),
    "none": lambda _: None,
}


@pytest.mark.parametrize("critic", CRITICS)
def test_no_microbatch_of_scoring_waits(policy: PreTrainedModel, critic: str) -> None:
    reference, beside = frozen_copy(policy), CRITICS[critic](policy)
    assert not a_microbatch(lambda batch: score(batch, policy, reference, beside, CONFIG, 0.8))


def scored(batch: Batch, policy: PreTrainedModel, critic: AnyCritic | None) -> Batch:
    batch = score(batch, policy, None, critic, CONFIG, 0.8)
    if critic is not None:
        return advantages(batch, CONFIG)
    return replace(batch, advantages=torch.zeros_like(batch.engine_logprobs))


@pytest.mark.parametrize("critic", CRITICS)
def test_no_microbatch_of_an_update_waits(policy: PreTrainedModel, critic: str) -> None:
    beside = CRITICS[critic](policy)
    learner = Learner.create(Masters(policy), beside, CONFIG)

    def run(batch: Batch) -> None:
        update(learner, scored(batch, policy, beside), CONFIG, 0.8, torch.Generator())

    assert not a_microbatch(run)


def test_no_microbatch_of_an_unscored_update_waits(policy: PreTrainedModel) -> None:
    learner = Learner.create(Masters(policy), None, CONFIG)

    def run(batch: Batch) -> None:
        batch = replace(batch, advantages=torch.zeros_like(batch.engine_logprobs))
        update(learner, batch, CONFIG, 0.8, torch.Generator(), PolicyLoss(ratio="sequence"))

    assert not a_microbatch(run)


def test_no_microbatch_of_a_supervised_step_waits(policy: PreTrainedModel) -> None:
    optimizer = Learner.create(Masters(policy), None, CONFIG).policy_optimizer
    assert not a_microbatch(lambda batch: supervised_step(policy, optimizer, batch, 1e-3, 24))


def test_an_update_reads_its_figures_once(policy: PreTrainedModel) -> None:
    learner = Learner.create(Masters(policy), None, CONFIG)
    batch = scored(batch_of(3), policy, None)
    with Waits() as waits:
        update(learner, batch, CONFIG, 0.8, torch.Generator())
    assert sum(waits.found.values()) == 1, waits.found
