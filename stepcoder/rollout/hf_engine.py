"""Generates completions in this process with transformers' `generate`; needs no other package.

Requests are taken in groups of similar prompt length: a group is left-padded and shares a KV cache,
in which equal prompts are computed once. Each request samples with its own random numbers, so that
its completion does not depend on the rest of the group (beyond rounding).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from stepcoder.rollout.engine import Completion, Engine, Request, Sampling

# Tokens that a group generates at a time. Rows that have ended then leave the batch.
BURST = 12


@dataclass
class PartialCompletion:
    """A completion that has not ended yet."""

    index: int  # into the list of requests
    uniforms: Tensor  # (max_new_tokens,) float64 in [0, 1): the random numbers of its tokens
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class HFEngine(Engine):
    """Generates with a copy of the policy that uses PyTorch's SDPA attention."""

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, group_size: int
    ) -> None:
        """Copy the policy; `group_size` requests are generated together."""
        self.model = copy.deepcopy(policy).eval()
        self.model.requires_grad_(requires_grad=False)
        self.model.set_attn_implementation("sdpa")
        # Else the checkpoint's defaults (top-k, penalties) would apply where a call sets nothing.
        self.model.generation_config = GenerationConfig()
        self.tokenizer = tokenizer
        self.group_size = group_size
        pad = tokenizer.pad_token_id
        self._pad: int = tokenizer.eos_token_id if pad is None else pad

    def close(self) -> None:
        """Do nothing: the model is freed with the engine."""

    @torch.no_grad()
    def update_weights(self, policy: PreTrainedModel) -> None:
        """Copy the policy's weights into the engine's model."""
        new = policy.state_dict()
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(new[name])

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions group by group, shorter prompts first."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        for start in range(0, len(order), self.group_size):
            indices = order[start : start + self.group_size]
            group = [begun(i, requests[i].seed, sampling.max_new_tokens) for i in indices]
            prompts = [requests[i].prompt_ids for i in indices]
            yield from self._generate_group(group, prompts, sampling)

    @torch.no_grad()
    def _generate_group(
        self,
        running: list[PartialCompletion],
        prompts: list[tuple[int, ...]],
        sampling: Sampling,
    ) -> Iterator[Completion]:
        """Generate in bursts of tokens, and after each yield the completions that have ended."""
        eos = self.tokenizer.eos_token_id
        tokens, attention_mask, cache = self._prefill(prompts)
        prompt_length = tokens.shape[1]
        while running:
            done = tokens.shape[1] - prompt_length
            burst = min(BURST, sampling.max_new_tokens - done)
            sampler = SeededSampler(running, sampling, self.model.device)
            stop = StopAtStrings(self.tokenizer, sampling.stop, prompt_length, len(running))
            tokens = self.model.generate(
                input_ids=tokens,
                attention_mask=attention_mask,
                past_key_values=cache,
                generation_config=GenerationConfig(
                    max_new_tokens=burst,
                    do_sample=False,  # the most likely token is the one that the sampler chose
                    eos_token_id=eos,
                    pad_token_id=self._pad,
                ),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
            new_tokens = tokens[:, prompt_length + done :].tolist()
            new_logprobs = torch.stack(sampler.logprobs, dim=1).tolist()  # (G, burst)
            unfinished: list[int] = []
            for row, partial in enumerate(running):
                partial.token_ids += new_tokens[row]
                partial.logprobs += new_logprobs[row]
                completion = completed(partial, stop.ended_at[row], eos, sampling.max_new_tokens)
                if completion is None:
                    unfinished.append(row)
                else:
                    yield completion
            running = [running[row] for row in unfinished]
            kept = torch.tensor(unfinished, dtype=torch.long, device=tokens.device)
            new = attention_mask.new_ones(len(tokens), tokens.shape[1] - prompt_length - done)
            attention_mask = torch.cat([attention_mask, new], dim=1)[kept]
            tokens = tokens[kept]
            cache.batch_select_indices(kept)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Left-pad G prompts and compute the KV cache of all their tokens but the last.

        Prompts that occur several times are computed once.

        Returns:
            Tokens (G, P) int64, their attention mask (G, P) int64, the cache.
        """
        longest = max(map(len, prompts))
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        tokens = torch.full((len(row_of), longest), self._pad)
        attention_mask = torch.zeros_like(tokens)
        for prompt, row in row_of.items():
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            attention_mask[row, longest - len(prompt) :] = 1
        tokens, attention_mask = tokens.to(self.model.device), attention_mask.to(self.model.device)
        cache = DynamicCache(config=self.model.config)
        repeats = torch.tensor([row_of[prompt] for prompt in prompts], device=tokens.device)
        if longest > 1:
            self.model.get_decoder()(
                input_ids=tokens[:, :-1],
                attention_mask=attention_mask[:, :-1],
                position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
            cache.batch_select_indices(repeats)
        return tokens[repeats], attention_mask[repeats], cache


def begun(index: int, seed: int, max_new_tokens: int) -> PartialCompletion:
    """Begin the completion of `requests[index]`, with random numbers for all its tokens."""
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(max_new_tokens, dtype=torch.float64, generator=generator)
    return PartialCompletion(index, uniforms)


def completed(
    partial: PartialCompletion, ended_at: int | None, eos: int | None, max_new_tokens: int
) -> Completion | None:
    """Return a completion that has ended, None for one that has not.

    It ends with its end-of-sequence token, at the token limit, or after `ended_at` tokens, where a
    stop string ended.
    """
    tokens = partial.token_ids
    length = max_new_tokens if ended_at is None else ended_at
    if eos in tokens[:length]:
        length = tokens.index(eos) + 1
    if length > len(tokens):
        return None
    stopped = ended_at is not None or tokens[length - 1] == eos
    logprobs = tuple(partial.logprobs[:length])
    return Completion(partial.index, tuple(tokens[:length]), logprobs, stopped)


class SeededSampler(LogitsProcessor):
    """Samples each row with its own random numbers, and records the tokens' log-probabilities."""

    def __init__(
        self, running: Sequence[PartialCompletion], sampling: Sampling, device: torch.device
    ) -> None:
        """Continue G completions of equal length; temperature 0 takes the most likely token."""
        done = len(running[0].token_ids)
        self.uniforms = torch.stack([p.uniforms[done:] for p in running]).to(device)  # (G, left)
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.logprobs: list[Tensor] = []  # one (G,) float32 tensor a step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Choose a token for each row of logits (G, V); return logits that allow only that one."""
        logprobs = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=-1)
        if self.temperature:
            allowed = nucleus(logprobs, self.top_p) if self.top_p < 1 else logprobs
            chosen = inverse_cdf(allowed, self.uniforms[:, [len(self.logprobs)]])  # (G, 1)
        else:
            chosen = logprobs.argmax(-1, keepdim=True)
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1).cpu())
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def inverse_cdf(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution: the first token whose sum exceeds uniform.

    The sums are float64, so that they still differ at the rare tokens of a large vocabulary.

    Args:
        logprobs: (G, V).
        uniforms: (G, 1) float64 in [0, 1).

    Returns:
        Token ids (G, 1) int64.
    """
    sums = logprobs.double().exp().cumsum(-1)
    return torch.searchsorted(sums, uniforms * sums[:, -1:], right=True).clamp(
        max=logprobs.shape[-1] - 1
    )


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Keep of logprobs (G, V) the fewest tokens whose probabilities reach `top_p`; others: -inf."""
    ordered, places = logprobs.sort(-1, descending=True)
    probabilities = ordered.double().exp()
    before = probabilities.cumsum(-1) - probabilities  # the sum of the more likely tokens
    cut = torch.where(before < top_p, ordered, -torch.inf)
    return torch.full_like(logprobs, -torch.inf).scatter_(-1, places, cut)


class StopAtStrings(StoppingCriteria):
    """Ends a row when the text of its last tokens contains a stop string."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: tuple[str, ...],
        prompt_length: int,
        rows: int,
    ) -> None:
        """Watch the tokens after `prompt_length` of this many rows."""
        self.tokenizer = tokenizer
        self.stop = stop
        self.final_tokens = _final_tokens(tokenizer, stop)
        self.prompt_length = prompt_length
        self.ended_at: list[int | None] = [None] * rows  # response tokens up to the stop string
        # A stop string of n bytes lies within the last n tokens: each has at least one byte.
        self.window = max((len(s.encode()) for s in stop), default=0)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        """Return which rows have ended, (G,) bool."""
        length = input_ids.shape[1] - self.prompt_length
        last = input_ids[:, -1].tolist()
        for row, ended in enumerate(self.ended_at):
            if ended is None and last[row] in self.final_tokens:
                tail = self.tokenizer.decode(input_ids[row, -min(length, self.window) :])
                if any(s in tail for s in self.stop):
                    self.ended_at[row] = length
        return torch.tensor([e is not None for e in self.ended_at], device=input_ids.device)


@lru_cache(maxsize=8)
def _final_tokens(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> frozenset[int]:
    """Return the tokens that can complete a stop string: those that contain its last character.

    Tokens that end inside a character, which decode to U+FFFD, are among them.
    """
    endings = {s[-1] for s in stop} | {"\N{REPLACEMENT CHARACTER}"}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if endings & set(text))
