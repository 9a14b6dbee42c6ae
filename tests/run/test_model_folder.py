"""What names a model: folders, runs, their checkpoints, the hub's cache."""

import huggingface_hub.constants as hub
import pytest
from helpers.small_runs import run
from transformers import AutoModelForCausalLM, LlamaConfig

from stepcoder.errors import RunError
from stepcoder.models import policy
from stepcoder.models.policy import Head, lm_head
from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import CRITIC
from stepcoder.run.model_folder import model_folder

ONE_STEP = ("sft.steps=1", "steps=1", "data.limit=8", "eval.limit=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(folder, *ONE_STEP) == 0
    return folder


@pytest.mark.parametrize("part", ["", "checkpoints/rl-000001", "checkpoints/rl-000001/policy"])
def test_a_run_and_its_checkpoint_are_models(finished, part):
    expected = finished / "checkpoints" / "rl-000001" / "policy"
    assert model_folder(str(finished / part), "model.path") == expected
    critic = expected if part.endswith("policy") else expected.with_name(CRITIC)
    assert model_folder(str(finished / part), "model.critic_path", CRITIC) == critic


def test_a_run_starts_from_another_ones_policy(finished, tmp_path):
    names = (f"model.path={finished}", f"model.critic_path={finished}", "dtype=float32")
    assert run(tmp_path / "run", *ONE_STEP, "sft.steps=0", *names) == 0
    assert read_records(tmp_path / "run")[-1]["kl"] == pytest.approx(0, abs=1e-5)
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert saved.count(f"{finished}\n") == 2  # the names as they were given


def test_a_model_of_the_hub_is_taken_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--someone--coder"
    snapshot = cached / "snapshots" / ("0" * 40)
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shape = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=8)
    AutoModelForCausalLM.from_config(shape).save_pretrained(snapshot)
    assert model_folder("someone/coder", "model.path") == snapshot
    (snapshot / "model.safetensors").unlink()  # as if only the configuration had been asked for
    with pytest.raises(RunError, match="run `hf download someone/coder`"):
        model_folder("someone/coder", "model.path")


@pytest.mark.parametrize("option", ["model.path", "model.critic_path"])
def test_a_model_that_is_nowhere_is_one_line(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert run(tmp_path / "run", f"{option}=someone/coder") == 2
    error = capsys.readouterr().err
    assert f"{option}: someone/coder is no folder here" in error
    assert "run `hf download someone/coder` where there is a network" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["a/b/c", "../nowhere", "./typo", "/no/such", "~/model"])
def test_a_path_that_is_nowhere_is_not_looked_for_in_the_hub(name):
    with pytest.raises(RunError, match=f"^--policy: {name} is no folder here; check its spelling$"):
        model_folder(name, "--policy")


def test_what_no_hub_can_have_is_no_folder():
    with pytest.raises(RunError, match="--policy: no such model is no folder here"):
        model_folder("no such model", "--policy")


def scaled(model):
    """The head of a family whose scale of the logits is not known to the trainer."""
    return Head(lm_head(model).weight, scale=3.0)


def test_a_head_that_the_engine_does_not_have_stops_the_first_step(tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "run", *ONE_STEP, "sft.steps=20", "steps=2", "max_tokens=1") == 0
    monkeypatch.setattr(policy, "lm_head", scaled)
    assert run(tmp_path / "other", *ONE_STEP, "sft.steps=20") == 2
    error = capsys.readouterr().err
    assert "rollout.engine: hf does not compute what the trainer does for Qwen3ForCausalLM" in error
    assert "nats on average (at most 0.01)" in error
    assert error.count("\n") == 1
    resumed = ("--resume", str(tmp_path / "run"), "max_tokens=100000")
    assert run(tmp_path / "run", command=resumed) == 2  # a resumed run is checked again
    assert "rollout.engine: hf does not compute" in capsys.readouterr().err
