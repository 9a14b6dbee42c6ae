"""The contract between the loop and whatever generates: requests in, completions out as they end.

An engine owns its own copy of the weights (version by version, by `update_weights`), so that a
separate server process fits the contract as well as a model in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel

from stepcoder.problems.answers import FENCE


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample: its prompt and its own seed."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What was sampled for `requests[index]`.

    `logprobs` are the engine's own, of each token under softmax(logits / temperature) (temperature
    1 for greedy decoding). `stopped` is False where the token limit cut the completion off.
    `cached_tokens` of the prompt were not computed for it: another request had the same beginning.
    """

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: temperature 0 is greedy; `stop` strings end a completion and belong to it.

    `top_p` below 1 samples from the most likely tokens that make up so much. It is for evaluation
    only: the logprobs are then not those that a trainer's ratio needs.
    """

    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...] = (FENCE,)
    top_p: float = 1.0


class Engine(Protocol):
    """Generates completions; a context manager in every implementation."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion a request, as they end (any order)."""
        ...

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Generate with these weights from now on."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
