"""Generation by transformers' own `generate`, in this process: always available.

Takes requests in groups of like prompt length (left-padded, one KV cache a group), gives
completions group by group. Each request samples with its own generator, so that a completion does
not depend on its neighbours (beyond rounding); logprobs are recorded where the token is chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from stepcoder.rollout.engine import Completion, Request, Sampling


class HFEngine:
    """Holds a copy of the policy with transformers' SDPA attention, and generates with it."""

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, group_size: int
    ) -> None:
        """Copy the policy; `group_size` requests share one KV cache."""
        self.model = copy.deepcopy(policy).eval()
        self.model.requires_grad_(requires_grad=False)
        self.model.set_attn_implementation("sdpa")
        self.tokenizer = tokenizer
        self.group_size = group_size

    def __enter__(self) -> HFEngine:
        """Return the engine itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def close(self) -> None:
        """Nothing to free: the model goes with the object."""

    @torch.no_grad()
    def update_weights(self, policy: PreTrainedModel) -> None:
        """Copy the policy's weights in place."""
        theirs = policy.state_dict()
        for name, mine in self.model.state_dict().items():
            mine.copy_(theirs[name])

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions group by group, prompts of like length together."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        for start in range(0, len(order), self.group_size):
            yield from self._generate_group(
                order[start : start + self.group_size], requests, sampling
            )

    @torch.no_grad()
    def _generate_group(
        self, indices: list[int], requests: Sequence[Request], sampling: Sampling
    ) -> list[Completion]:
        device = self.model.device
        longest = max(len(requests[i].prompt_ids) for i in indices)
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        filler = eos if pad is None else pad
        prompts = torch.full((len(indices), longest), filler, dtype=torch.long)  # (G, P)
        attention_mask = torch.zeros_like(prompts)
        for row, i in enumerate(indices):
            ids = requests[i].prompt_ids
            prompts[row, longest - len(ids) :] = torch.tensor(ids)
            attention_mask[row, longest - len(ids) :] = 1
        sampler = SeededSampler([requests[i].seed for i in indices], sampling.temperature, device)
        stop = StopAtText(self.tokenizer, sampling.stop, longest, len(indices))
        tokens = self.model.generate(
            input_ids=prompts.to(device),
            attention_mask=attention_mask.to(device),
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,  # the sampler has chosen: only its choice is left finite
                eos_token_id=eos,
                pad_token_id=filler,
            ),
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        responses = tokens[:, longest:].tolist()
        logprobs = torch.stack(sampler.logprobs, dim=1).tolist()  # (G, steps)
        return [
            _completion(i, responses[row], logprobs[row], stop.ended_at[row], eos)
            for row, i in enumerate(indices)
        ]


def _completion(
    index: int, tokens: list[int], logprobs: list[float], ended_at: int | None, eos: int | None
) -> Completion:
    """Cut a row after its end-of-sequence token or its stop text."""
    length = len(tokens) if ended_at is None else ended_at
    if eos in tokens[:length]:
        length = tokens.index(eos) + 1
    stopped = ended_at is not None or (length > 0 and tokens[length - 1] == eos)
    return Completion(index, tuple(tokens[:length]), tuple(logprobs[:length]), stopped)


class SeededSampler(LogitsProcessor):
    """Samples each row with its own generator (Gumbel-max), and records the token's logprob."""

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        """One CPU generator a row; temperature 0 takes the most likely token."""
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.device = device
        self.logprobs: list[Tensor] = []  # one (G,) float32 tensor a step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Choose a token for each row of scores (G, V); returns scores that allow only that one."""
        logprobs = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=-1)
        chosen = (logprobs + self._noise(logprobs.shape[-1])).argmax(-1, keepdim=True)  # (G, 1)
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1).cpu())
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)

    def _noise(self, vocabulary: int) -> Tensor:
        """Gumbel noise (G, V) from the rows' own generators; zero for greedy decoding."""
        if not self.temperature:
            return torch.zeros((), device=self.device)
        uniform = torch.stack([torch.rand(vocabulary, generator=g) for g in self.generators])
        # rand() can be 0, whose noise would be -inf: that token is never chosen, which is right.
        return -torch.log(-torch.log(uniform)).to(self.device)


class StopAtText(StoppingCriteria):
    """Ends a row when the text of its last few tokens holds a stop string."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: tuple[str, ...],
        prompt_length: int,
        rows: int,
    ) -> None:
        """Remember where responses begin; `ended_at[row]` counts response tokens kept."""
        self.tokenizer = tokenizer
        self.stop = stop
        self.closing = _closing_tokens(tokenizer, stop)
        self.prompt_length = prompt_length
        self.ended_at: list[int | None] = [None] * rows
        # A stop string of n bytes lies within the last n tokens (each has a byte or more).
        self.window = max((len(s.encode()) for s in stop), default=0)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        """Return the (G,) bool of rows that are done."""
        length = input_ids.shape[1] - self.prompt_length
        last = input_ids[:, -1].tolist()
        for row, ended in enumerate(self.ended_at):
            if ended is None and last[row] in self.closing:
                tail = self.tokenizer.decode(input_ids[row, -min(length, self.window) :])
                if any(s in tail for s in self.stop):
                    self.ended_at[row] = length
        return torch.tensor([e is not None for e in self.ended_at], device=input_ids.device)


@lru_cache(maxsize=8)
def _closing_tokens(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> frozenset[int]:
    """Token ids whose text holds the last character of a stop string: only they can complete one.

    A token that ends in the middle of a character decodes to U+FFFD and is kept as a candidate.
    """
    endings = {s[-1] for s in stop} | {"\N{REPLACEMENT CHARACTER}"}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if endings & set(text))
