"""Creates the engine that the configuration asks for.

`hf` copies the policy in this process. `vllm` takes the server of `rollout.server`, or starts some:
one on the CPU; on a machine with one GPU one that shares it with the trainer and sleeps during
updates; with several GPUs one on each but the first, which is the trainer's (with torchrun, one on
each that its processes leave). A replay reads the completions of an earlier run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.config import Config, RolloutConfig
from stepcoder.errors import RunError
from stepcoder.models.lora import adapts_experts, largest_rank
from stepcoder.rollout.engine import Engine
from stepcoder.rollout.hf_engine import HFEngine
from stepcoder.rollout.replay import ReplayEngine
from stepcoder.rollout.vllm.api import (
    ServerOptions,
    check_allocator,
    check_installed,
    write_model_folder,
)
from stepcoder.rollout.vllm.engine import VLLMEngine

CPU_CACHE_GB = 1.0
MEMORY_SHARE = {"shared": 0.4, "own": 0.9}  # of a GPU that a server shares with the trainer, or not


def check_positions(config: Config, policy: PreTrainedModel) -> None:
    """Check that the model has a position for each token of the longest sequence.

    Raises:
        RunError: it has not.
    """
    prompt, new = config.prompt.max_prompt_tokens, config.rollout.max_new_tokens
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt + new > positions:
        raise RunError(
            f"prompts of at most {prompt} tokens and completions of {new} go beyond the model's "
            f"{positions} positions; give less of prompt.max_prompt_tokens (--max-prompt-tokens of "
            "evaluate) or of rollout.max_new_tokens (--max-new-tokens)"
        )


def open_engine(
    config: Config,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    on_recovered_failure: Callable[[str], None],
    on_status: Callable[[str], None],
) -> Engine:
    """Start the configured engine with the policy's weights.

    Args:
        config: the run's configuration.
        policy: the model.
        tokenizer: its tokenizer.
        folder: for the servers' logs and model files.
        on_recovered_failure: called with one line for each failure that the engine recovers from.
        on_status: called with one line before a step that takes long.

    Raises:
        RunError: vLLM is missing, does not start or cannot take the adapters, or there is nothing
            to replay.
    """
    if config.rollout.replay is not None:
        return ReplayEngine(Path(config.rollout.replay))
    if config.rollout.engine == "hf":
        return HFEngine(policy, tokenizer, group_size(config.rollout))
    if config.rollout.server is None:
        check_installed()
    on_cpu = policy.device.type == "cpu"
    if on_cpu and adapts_experts(policy):
        raise RunError(
            "rollout.engine=vllm: vLLM's CPU build cannot compute adapters of a mixture's experts "
            "(model.lora_rank); use rollout.engine=hf"
        )
    servers = server_options(config, policy, folder / "model")
    if (url := config.rollout.server) is not None:
        servers = [replace(servers[0], transfer="file", can_sleep=False, url=url)]
        on_status(f"rollout.server: connecting to {url}")
    else:
        write_model_folder(folder / "model", policy, tokenizer, untie=on_cpu)
        check_allocator(servers[0].transfer)
        on_status(
            f"starting vLLM, {len(servers)} x (15 s on a CPU, minutes for a large model; log: "
            f"{folder})"
        )
    return VLLMEngine(policy, tokenizer, servers, folder, on_recovered_failure)


def server_options(config: Config, policy: PreTrainedModel, model: Path) -> list[ServerOptions]:
    """Return the options of each server."""
    rollout = config.rollout
    gpus = visible_gpus() if policy.device.type == "cuda" else []
    colocated = len(gpus) == 1
    trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, a GPU each
    if gpus and not colocated and len(gpus) <= trainers:
        raise RunError(
            f"rollout.engine=vllm: torchrun's {trainers} processes take all {len(gpus)} GPUs; "
            "leave some to vLLM (fewer of --nproc-per-node), or give rollout.server"
        )
    cache = rollout.kv_cache_gb
    return [
        ServerOptions(
            model=model,
            dtype=str(policy.dtype).removeprefix("torch."),
            transfer="file" if gpu is None else "ipc" if colocated else "nccl",
            gpu=gpu,
            max_length=config.prompt.max_prompt_tokens + rollout.max_new_tokens,
            max_sequences=group_size(rollout, on_gpu=gpu is not None),
            memory_share=rollout.memory_share or MEMORY_SHARE["shared" if colocated else "own"],
            kv_cache_gb=CPU_CACHE_GB if gpu is None and cache is None else cache,
            threads=config.threads or os.cpu_count() or 1,
            can_sleep=colocated,
            lora_rank=largest_rank(policy),
        )
        for gpu in (gpus if colocated else gpus[trainers:] or [None])
    ]


def group_size(rollout: RolloutConfig, on_gpu: bool = False) -> int:
    """Return how many completions are generated at a time, by each server.

    With 64 a GPU reads all weights for 64 tokens. vLLM lets requests wait where its KV cache is
    full, so many are safe.
    """
    return rollout.group_size or (256 if on_gpu and rollout.engine == "vllm" else 64)


def visible_gpus() -> list[str | None]:
    """Return the GPUs that this process sees, by their names in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(named.split(",") if named else map(str, range(torch.cuda.device_count())))
