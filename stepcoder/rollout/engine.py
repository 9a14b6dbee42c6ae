"""The interface between the trainer and whatever generates completions.

An engine takes requests (prompts as token ids) and yields completions as they end. It holds its own
copy of the weights, which `update_weights` replaces, so that a model in this process and a separate
server process can both implement it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from stepcoder.problems.template import FENCE

if TYPE_CHECKING:  # see `rollout.py`
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample. Two samples of one prompt differ in their seeds, for example:

    Request(prompt_ids=(310, 644, 12, 87), seed=1)
    Request(prompt_ids=(310, 644, 12, 87), seed=2)
    """

    prompt_ids: tuple[int, ...]
    seed: int  # of this completion's random numbers, which do not depend on other requests


@dataclass(frozen=True, slots=True)
class Completion:
    """What was sampled for `requests[index]`.

    For example, the second request above got the text "return 2 * x\n```" in four tokens. It ends
    with the stop string "```", and three of the prompt's tokens came from the KV cache:

    Completion(
        index=1,
        token_ids=(75, 20, 61, 5),
        logprobs=(-0.11, -1.32, -0.04, -0.2),
        stopped=True,
        cached_tokens=3,
    )
    """

    index: int
    token_ids: tuple[int, ...]
    # Each token's natural log-probability under softmax(logits / temperature), as the engine
    # computed it (greedy decoding: temperature 1).
    logprobs: tuple[float, ...]
    stopped: bool  # False: the token limit cut it off
    cached_tokens: int = 0  # prompt tokens that were not computed again


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample the completions of one call."""

    temperature: float  # 0 is greedy decoding
    max_new_tokens: int
    stop: tuple[str, ...] = (FENCE,)  # strings that end a completion; they are kept in it
    # Nucleus sampling, for evaluation only: below 1, the completions' logprobs are not those of the
    # distribution that was sampled, and PPO's ratio would be wrong.
    top_p: float = 1.0


class Engine(Protocol):
    """Generates completions; a context manager that closes itself."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion for each request, in the order in which they end."""

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Generate with this policy's weights from now on."""

    def close(self) -> None:
        """Free what the engine holds."""

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()


class Elsewhere(Engine):
    """The engine of all processes but the first, which generates for them (`models.ranks`)."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:  # noqa: ARG002
        """Yield nothing; it is not asked."""
        return iter(())

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
