"""Checkpoints in and out: the families that we start from, chat templates, LoRA, exports."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.finished_runs import states_equal
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from stepcoder.config import PPOConfig
from stepcoder.errors import RunError
from stepcoder.evaluate.__main__ import main as evaluate
from stepcoder.method.ppo import Learner, advantages, score, update
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.lora import add_adapters, base_parameters, copy_of, with_adapters
from stepcoder.models.optim import Masters
from stepcoder.models.policy import Critic, frozen_copy, response_logprobs
from stepcoder.models.pretrained import load_policy
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import encode_prompt, prompt_text, resolved_template
from stepcoder.problems.template import TEMPLATE
from stepcoder.rollout.engine import Request, Sampling
from stepcoder.rollout.hf_engine import HFEngine
from stepcoder.rollout.pipeline import Pipeline
from stepcoder.run.checkpoint import load_state, newest_checkpoint, save_model
from stepcoder.sandbox import CallTests
from stepcoder.train import main

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
FAMILIES = {
    "llama": LlamaConfig(**SMALL, rope_theta=100_000.0),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
    "starcoder2": Starcoder2Config(**SMALL, sliding_window=None),
}
# In the manner of DeepSeek-Coder (which writes its opening token out) and of Qwen.
CHAT = (
    "{{ bos_token or '' }}{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'].strip() }}\n"
    "{% endfor %}{% if add_generation_prompt %}### assistant:\n"
    "{% if enable_thinking is false %}<think></think>\n{% endif %}{% endif %}"
)
PPO = PPOConfig(minibatches=1, policy_lr=1e-2, critic_lr=1e-2)
PROBLEM = Problem(
    "t/1", "Add one to x.", "def f(x):\n", "def f(x):\n    return x + 1\n", CallTests(([1],), (2,))
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)


@pytest.fixture(params=FAMILIES)
def start(request, tmp_path, tokenizer) -> Path:
    """A checkpoint of each family, as transformers writes it."""
    torch.manual_seed(0)
    folder = tmp_path / "start"
    AutoModelForCausalLM.from_config(FAMILIES[request.param]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count=4) -> list[Row]:
    tokens = torch.randint(2, 300, (count, 20), generator=torch.Generator().manual_seed(1)).tolist()
    return [Row(t[:8], t[8:], [-3.0] * 12, [True] * 12, float(i % 2)) for i, t in enumerate(tokens)]


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return response_logprobs(model, pack(rows()), 1.0)[0]


def plain_logprobs(model) -> torch.Tensor:
    """The same by transformers alone, row by row."""
    found = []
    for row in rows():
        tokens = torch.tensor([*row.prompt_ids, *row.response_ids])
        with torch.no_grad():
            scores = model(tokens[None]).logits[0, 7:-1].log_softmax(-1)
        found.append(scores.gather(-1, tokens[8:, None]).squeeze(-1))
    return torch.cat(found)


def learner_of(policy) -> tuple[Learner, torch.nn.Module]:
    return Learner.create(Masters(policy), Critic.from_policy(policy), PPO), frozen_copy(policy)


def step(learner: Learner, reference) -> dict[str, float]:
    batch = score(pack(rows()), learner.policy, reference, learner.critic, PPO, 1.0)
    generator = torch.Generator().manual_seed(0)
    return update(learner, advantages(batch, PPO), PPO, 1.0, generator)


def test_transformers_computes_of_an_exported_policy_what_we_trained(start, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(start)  # of Qwen2, its own class, as real ones are
    policy = load_policy(start, torch.float32, CPU)
    before = logprobs(policy)
    torch.testing.assert_close(before, plain_logprobs(AutoModelForCausalLM.from_pretrained(start)))
    learner, reference = learner_of(policy)
    step(learner, reference)
    save_model(tmp_path / "export", policy, tokenizer)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    trained = logprobs(policy)
    assert (trained - before).abs().max() > 0.01
    torch.testing.assert_close(plain_logprobs(exported), trained, atol=1e-4, rtol=1e-4)
    assert exported.config.architectures == [type(policy).__name__]
    assert "packed" not in (tmp_path / "export" / "config.json").read_text()
    text = "def f(x):\n    return x\n"
    ids = AutoTokenizer.from_pretrained(tmp_path / "export").encode(text)
    assert ids == tokenizer.encode(text)


def adapted(start, dtype=torch.float32) -> PreTrainedModel:
    pytest.importorskip("peft")
    return with_adapters(load_policy(start, dtype, CPU), rank=4, seed=0)


def test_with_lora_a_step_trains_the_adapters_alone(start):
    policy = adapted(start)
    learner, reference = learner_of(policy)
    models = {"policy": policy, "critic": learner.critic}
    before = {
        (m, name): p.detach().clone()
        for m, model in models.items()
        for name, p in model.named_parameters()
    }
    assert step(learner, reference)["policy_grad_norm"] > 0
    changed = {
        key for key, old in before.items() if not models[key[0]].get_parameter(key[1]).equal(old)
    }
    adapters = {key for key in before if "lora_" in key[1]}
    assert changed <= adapters | {("critic", "head.weight"), ("critic", "head.bias")}
    # lora_A's gradient is zero while lora_B is; one more step moves both.
    step(learner, reference)
    after = [key for key in adapters if models[key[0]].get_parameter(key[1]).equal(before[key])]
    assert not after
    assert len({key for key in adapters if key[0] == "policy"}) >= 2 * 2 * 6


def test_an_exported_lora_policy_is_an_adapter_that_peft_and_transformers_load(
    start, tmp_path, tokenizer
):
    policy = adapted(start)
    before = logprobs(policy)
    learner, reference = learner_of(policy)
    for _ in range(2):
        step(learner, reference)
    trained = logprobs(policy)
    assert (trained - before).abs().max() > 0.01
    torch.testing.assert_close(logprobs(reference), before)
    save_model(tmp_path / "export", policy, tokenizer)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export", local_files_only=True)
    torch.testing.assert_close(plain_logprobs(exported), trained, atol=1e-4, rtol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(start)
    files = sum(f.stat().st_size for f in (tmp_path / "export").glob("*.safetensors"))
    assert files < sum(p.nbytes for p in base.parameters()) / 2  # the base is not in it
    from peft import PeftModel

    by_peft = PeftModel.from_pretrained(base, tmp_path / "export")
    torch.testing.assert_close(plain_logprobs(by_peft), plain_logprobs(exported))
    assert AutoTokenizer.from_pretrained(tmp_path / "export").encode("def f") == tokenizer.encode(
        "def f"
    )


@pytest.mark.parametrize("start", ["qwen2"], indirect=True)
def test_adapters_of_a_checkpoint_are_trained_on_or_merged(start, tmp_path, tokenizer):
    policy = adapted(start)
    learner, reference = learner_of(policy)
    for _ in range(2):
        step(learner, reference)
    save_model(tmp_path / "one", policy, tokenizer)
    further = adapted(tmp_path / "one")
    assert logprobs(further).equal(logprobs(policy))
    step(*learner_of(further))
    save_model(tmp_path / "two", further, tokenizer)
    twice = load_policy(tmp_path / "two", torch.float32, CPU)
    torch.testing.assert_close(logprobs(twice), logprobs(further))
    assert (logprobs(twice) - logprobs(policy)).abs().max() > 1e-3
    merged = with_adapters(load_policy(tmp_path / "two", torch.float32, CPU), rank=0, seed=0)
    torch.testing.assert_close(logprobs(merged), logprobs(twice), atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert all(p.requires_grad for p in merged.parameters())
    save_model(tmp_path / "whole", merged, tokenizer)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(plain_logprobs(whole), logprobs(merged), atol=1e-4, rtol=1e-4)
    with pytest.raises(RunError, match=r"model\.path has adapters of rank 4; set .*=4 "):
        with_adapters(load_policy(tmp_path / "two", torch.float32, CPU), rank=8, seed=0)


def test_models_with_adapters_share_their_frozen_weights(start):
    policy = adapted(start)
    reference, critic = frozen_copy(policy), Critic.from_policy(policy)
    own = {p.data_ptr() for p in policy.parameters() if p.requires_grad}
    base = {p.data_ptr() for p in policy.parameters()} - own
    for model in (reference, critic.backbone):
        pointers = {p.data_ptr() for p in model.parameters()}
        assert not pointers & own
        assert len(pointers - base) == sum("lora_" in n for n, _ in model.named_parameters())
    assert not {p.data_ptr() for p in frozen_copy(policy).parameters()} & own
    whole = load_policy(start, torch.float32, CPU)
    own = {p.data_ptr() for p in whole.parameters()}
    for copied in (copy_of(whole), copy_of(frozen_copy(whole))):
        assert not {p.data_ptr() for p in copied.parameters()} & own


@pytest.mark.parametrize("start", ["qwen2"], indirect=True)
@pytest.mark.parametrize("ahead", [0, 1])
def test_the_engine_generates_with_the_adapters(start, tokenizer, ahead):
    """In bfloat16, where merged weights would be another policy: adding them up rounds."""
    policy = adapted(start, torch.bfloat16)
    learner, reference = learner_of(policy)
    pipeline = Pipeline(HFEngine(policy, tokenizer, 4), ahead)
    for _ in range(2):
        step(learner, reference)
    pipeline.update_weights(policy)
    prompts = [Request(tuple(row.prompt_ids), i) for i, row in enumerate(rows())]
    greedy = Sampling(0.0, 6, stop=())
    mine = pipeline.run(lambda: list(pipeline.engine.generate(prompts, greedy)))
    theirs = list(HFEngine(policy, tokenizer, 4).generate(prompts, greedy))
    pipeline.close()
    assert [(c.token_ids, c.logprobs) for c in mine] == [(c.token_ids, c.logprobs) for c in theirs]
    weights = {p.data_ptr() for p in base_parameters(policy).values()}
    assert weights <= {p.data_ptr() for p in pipeline.engine.model.parameters()}  # no copy of them


def test_adapters_of_a_bfloat16_model_are_float32(tmp_path):
    pytest.importorskip("peft")
    AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    policy = load_policy(tmp_path, torch.bfloat16, CPU)
    add_adapters(policy, rank=2, seed=0)
    kinds = {("lora_" in n, p.dtype) for n, p in policy.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    learner, reference = learner_of(policy)
    assert step(learner, reference)["policy_grad_norm"] > 0


def test_a_chat_template_asks_and_begins_the_answer_with_the_given_part(tokenizer):
    spoken = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
    spoken.chat_template = CHAT
    template = resolved_template("chat", spoken)
    assert prompt_text(PROBLEM, "def f(x):\n", template) == (
        "### user:\nAdd one to x.\n\nAnswer with one Python code block.\n"
        "### assistant:\n<think></think>\n```python\ndef f(x):\n"
    )
    assert resolved_template(TEMPLATE, spoken) == TEMPLATE
    assert resolved_template("auto", spoken) == template
    assert resolved_template("auto", tokenizer) == TEMPLATE
    words = prompt_text(PROBLEM, "def f(x):\n", resolved_template("answer", spoken))
    assert words.endswith("### assistant:\n<think></think>\n")
    words = prompt_text(PROBLEM, "", resolved_template("answer", spoken, thinking=True))
    assert words.endswith("### assistant:\n")
    with pytest.raises(ValueError, match="no chat template"):
        resolved_template("chat", tokenizer)


def test_a_chat_asks_for_code_prompts_and_shows_the_starter_code_in_the_users_turn():
    spoken = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
    spoken.chat_template = CHAT
    template = resolved_template("auto", spoken)
    header = 'def f(x):\n    """Add one."""\n'
    code = replace(PROBLEM, prompt=header, starter_code=header)
    text = prompt_text(code, header, template)
    assert text.startswith(f"### user:\n{header.strip()}\n\nAnswer with")
    assert text.endswith(f"```python\n{header}")
    assert "Add one to x.\n\nBegin with:\ndef f(x):\n\nAnswer" in prompt_text(PROBLEM, "", template)


def test_the_opening_token_comes_once():
    from tokenizers.processors import TemplateProcessing

    spoken = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
    spoken.add_special_tokens({"bos_token": "<bos>"})
    spoken.chat_template = CHAT
    bos = spoken.bos_token_id
    text = prompt_text(PROBLEM, "", resolved_template("chat", spoken))
    assert encode_prompt(spoken, text).count(bos) == 1  # as the chat template writes it
    spoken.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    text = prompt_text(PROBLEM, "", resolved_template("chat", spoken))
    assert encode_prompt(spoken, text).count(bos) == 1  # as encoding puts it


def test_a_run_starts_from_a_checkpoint_with_chat_template_and_lora(tmp_path, capsys):
    pytest.importorskip("peft")
    start = tmp_path / "start"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES["qwen3"]).save_pretrained(start)
    spoken = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
    spoken.chat_template = CHAT
    spoken.save_pretrained(start)
    problem = {
        "task_id": "t/1",
        "prompt": "Add one.",
        "canonical_solution": PROBLEM.canonical_solution,
        "entry_point": "f",
        "tests": {"kind": "call", "inputs": [[1]], "outputs": [2]},
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    run = tmp_path / "run"
    options = [
        f"model.path={start}",
        f"data.path={tmp_path / 'problems.jsonl'}",
        f"run_dir={run}",
        "model.lora_rank=2",
        f"model.critic_path={start}",
        "prompt.max_prompt_tokens=256",
        "steps=1",
        "dtype=float32",
        "device=cpu",
        "rollout.tasks_per_step=1",
        "rollout.samples_per_task=2",
        "rollout.max_new_tokens=8",
        "ppo.minibatches=1",
        "checkpoint.every=1",
    ]
    assert main([*options, "prompt.max_prompt_tokens=505"]) == 2
    assert "beyond the model's 512 positions" in capsys.readouterr().err
    assert main([*options, "rollout.dump=true"]) == 0
    with gzip.open(run / "rollouts" / "step-000001.jsonl.gz") as file:
        asked = AutoTokenizer.from_pretrained(start).decode(json.loads(next(file))["prompt_ids"])
    assert asked.startswith("### user:\nAdd one.")  # prompt.template=auto
    spoken_run = [
        *options,
        f"run_dir={tmp_path / 'words'}",
        "prompt.template=answer",
        "sft.steps=1",
    ]
    spoken_run += ["prompt.thinking=true", "curriculum.cccs=false", "fgo.outside=mask"]
    assert main([*spoken_run, "rollout.ahead=1", "steps=2"]) == 0
    state = torch.load(tmp_path / "words" / "checkpoints" / "rl-000001" / "state.pt")
    (task,) = state["ahead"][0]["tasks"]
    assert task["in_own_words"]
    assert task["prompt_text"].endswith("### assistant:\n")  # nothing is given, no end of thinking
    assert main(["--resume", str(run), "steps=2", "checkpoint.keep=2"]) == 0
    for number in (1, 2):
        folder = run / "checkpoints" / f"rl-{number:06d}" / "policy"
        AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).chat_template == CHAT
    whole = tmp_path / "whole"
    assert main([*options, f"run_dir={whole}", "steps=2", "checkpoint.keep=2"]) == 0
    assert states_equal(run, whole) == []
    state = load_state(newest_checkpoint(run / "checkpoints"))
    for part in ("policy", "reference", "critic"):  # without the weights, which are in `start`
        assert all("lora_" in name or name.startswith("head.") for name in state[part])
    assert state["policy"]["model.layers.0.mlp.up_proj.lora_B.default.weight"].any()
    # The checkpoint is evaluated, and trained on: its adapters, or all weights.
    evaluated = ["--policy", str(run), "-o", str(tmp_path / "out"), "--max-new-tokens", "4"]
    evaluated += ["--max-prompt-tokens", "400"]
    assert evaluate([str(tmp_path / "problems.jsonl"), *evaluated, "--device", "cpu"]) == 0
    for rank in (2, 0):
        further = [f"model.path={folder}", f"model.lora_rank={rank}", "model.critic_path=null"]
        assert main([*options, *further, f"run_dir={tmp_path / f'rank-{rank}'}"]) == 0
        start = tmp_path / f"rank-{rank}" / "start"
        assert (start / "adapter_config.json").exists() == (rank > 0)
        assert logprobs(load_policy(start, torch.float32, CPU)).allclose(
            logprobs(load_policy(folder, torch.float32, CPU)), atol=1e-4
        )


def test_lora_on_the_embedded_model_is_refused_in_a_line(tmp_path, capsys):
    assert main(["model.lora_rank=2", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "random weights, to which adapters are of no use" in capsys.readouterr().err


def test_lora_without_peft_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    with pytest.raises(RunError, match=r"model\.lora_rank: peft is not installed"):
        add_adapters(model, 2, 0)
