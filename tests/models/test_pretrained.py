"""Loading checkpoints: every kind that is whole, and one line for each that is not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
)

from stepcoder.config import Config, ModelConfig
from stepcoder.errors import RunError
from stepcoder.models.batch import Row, pack
from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.load import new_critic
from stepcoder.models.pretrained import load_policy, load_pretrained

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
}
EXPERTS = {**SMALL, "num_experts_per_tok": 2}
BATCH = pack([Row([5, 6, 7], [8, 9, 10, 11], [0.0] * 4, [True] * 4, 0.0)])


def tiny(config) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny(LlamaConfig(**SMALL)).save_pretrained(folder)
    train_tokenizer(["return a + b"], 300).save_pretrained(folder)
    return folder


def edit(folder: Path, file: str, **changes) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changes}))


def with_slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])


def without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny(LlamaConfig(**SMALL)).save_pretrained(folder, max_shard_size="20KB")
    next(folder.glob("model-00002-*")).unlink()


BROKEN = {
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "has no tokenizer that loads; save the model's own there",
    ),
    "slow tokenizer": (with_slow_tokenizer, r"only a slow tokenizer \(ByT5Tokenizer\)"),
    "neither EOS nor padding": (
        lambda f: edit(f, "tokenizer_config.json", eos_token=None, pad_token=None),
        "no end-of-sequence token and no padding token; name them in its tokenizer_config.json",
    ),
    "small vocabulary": (
        lambda f: tiny(LlamaConfig(**{**SMALL, "vocab_size": 260})).save_pretrained(f),
        r"the tokenizer's last token is \d+, but the model's vocabulary has 260 entries",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
    "unknown type": (
        lambda f: edit(f, "config.json", model_type="gpt17"),
        "does not load as a causal language model",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "does not load as a causal language model .*model.safetensors",
    ),
    "truncated weights": (truncated, "does not load as a causal language model .*deserializing"),
    "missing shard": (without_a_shard, "does not load .*model-00002-of"),
    "other shapes": (
        lambda f: edit(f, "config.json", vocab_size=200),
        "does not load as a causal language model",
    ),
    "missing weights": (
        lambda f: edit(f, "config.json", num_hidden_layers=3),
        "lacks 9 of its weights, among them model.layers.2",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_checkpoint_is_one_line(damage, whole, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    spoil, words = BROKEN[damage]
    spoil(folder)
    with pytest.raises(RunError, match=words) as refusal:
        load_pretrained(folder, torch.float32, CPU, "--policy")
    assert str(refusal.value).startswith("--policy: ")
    assert "\n" not in str(refusal.value)


def test_special_tokens_may_lie_beyond_the_vocabulary(tmp_path):
    """Gemma-3's text models have a tokenizer with a token for images, and no embedding for it."""
    tokenizer = train_tokenizer(["return a + b"], 300)
    tiny(LlamaConfig(**{**SMALL, "vocab_size": len(tokenizer)})).save_pretrained(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path)
    loaded, model = load_pretrained(tmp_path, torch.float32, CPU, "model.path")
    assert len(loaded) == model.config.vocab_size + 1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sharded_and_tied_checkpoints_load_in_any_dtype(tied, dtype, tmp_path):
    model = tiny(LlamaConfig(**SMALL, tie_word_embeddings=tied)).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = load_policy(tmp_path, dtype, CPU).state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_a_critic_needs_no_lm_head(whole, tmp_path):
    policy = load_policy(whole, torch.float32, CPU)
    torch.manual_seed(1)
    start = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    state = {n: v for n, v in start.state_dict().items() if not n.startswith("lm_head")}
    start.save_pretrained(tmp_path, state_dict=state)
    config = Config(model=ModelConfig(path=str(whole), critic_path=str(tmp_path)))
    tokenizer = train_tokenizer(["return a + b"], 300)
    critic = new_critic("value", policy, config, tokenizer, 4)
    found, expected = critic.backbone.state_dict(), start.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(RunError, match=r"model\.path: .* lacks 1 of its weights"):
        load_policy(tmp_path, torch.float32, CPU)


def test_a_critic_of_a_smaller_vocabulary_is_one_line(whole, tmp_path):
    tokenizer, policy = load_pretrained(whole, torch.float32, CPU, "model.path")
    tiny(LlamaConfig(**{**SMALL, "vocab_size": 200})).save_pretrained(tmp_path)
    config = Config(model=ModelConfig(path=str(whole), critic_path=str(tmp_path)))
    with pytest.raises(RunError, match=r"^model\.critic_path: .* vocabulary has 200 entries"):
        new_critic("value", policy, config, tokenizer, 4)
