"""Generates completions in this process with transformers' `generate`; needs no other package.

Requests are taken in groups of similar prompt length: a group is left-padded and shares a KV cache,
in which equal prompts are computed once. Each request samples with its own random numbers, so that
its completion does not depend on the rest of the group (beyond rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial

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

from stepcoder.models.attention import unpacked_attention
from stepcoder.models.lora import copy_of
from stepcoder.rollout.engine import Completion, Engine, Request, Sampling

# Tokens that a group generates at a time. Rows that have ended then leave the batch.
BURST = 12

padded = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")


class HFEngine(Engine):
    """Generates with a copy of the policy that uses transformers' own attention, SDPA if it can."""

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, group_size: int
    ) -> None:
        """Copy the policy; `group_size` requests are generated together."""
        self.model = copy_of(policy).eval()
        self.model.requires_grad_(requires_grad=False)
        self.model.set_attn_implementation(unpacked_attention(policy))
        # Else the checkpoint's defaults (top-k, penalties) would apply where a call sets nothing.
        self.model.generation_config = GenerationConfig()
        self.tokenizer = tokenizer
        self.group_size = group_size
        pad = tokenizer.pad_token_id
        self._pad: int = tokenizer.eos_token_id if pad is None else pad

    def close(self) -> None:
        """Do nothing: the model is freed with the engine."""

    def update_weights(self, policy: PreTrainedModel) -> None:
        """Copy the policy's weights into the engine's model."""
        self.model.load_state_dict(policy.state_dict())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions group by group, shorter prompts first."""
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        for start in range(0, len(order), self.group_size):
            group = order[start : start + self.group_size]
            yield from self._generate_group({i: requests[i] for i in group}, sampling)

    @torch.no_grad()
    def _generate_group(
        self, group: Mapping[int, Request], sampling: Sampling
    ) -> Iterator[Completion]:
        """Generate in bursts of tokens, and after each yield the completions that have ended.

        `group` has the requests by their index. Row by row, the tensors hold what is left of it.
        """
        eos, limit = self.tokenizer.eos_token_id, sampling.max_new_tokens
        indices = list(group)
        tokens, attention_mask, cache = self._prefill([r.prompt_ids for r in group.values()])
        prompt_length = tokens.shape[1]
        uniforms = torch.stack([uniforms_of(r.seed, limit) for r in group.values()])
        uniforms = uniforms.to(tokens.device)
        logprobs = torch.empty(len(group), 0)
        while indices:
            done = tokens.shape[1] - prompt_length
            sampler = SeededSampler(uniforms[:, done:], sampling)
            stop = StopAtStrings(self.tokenizer, sampling.stop, prompt_length, len(indices))
            tokens = self.model.generate(
                input_ids=tokens,
                attention_mask=attention_mask,
                past_key_values=cache,
                generation_config=GenerationConfig(
                    max_new_tokens=min(BURST, limit - done),
                    do_sample=False,  # the most likely token is the one that the sampler chose
                    eos_token_id=eos,
                    pad_token_id=self._pad,
                ),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
            logprobs = torch.cat([logprobs, *sampler.logprobs], dim=1)
            token_ids = tokens[:, prompt_length:].tolist()
            unfinished: list[int] = []
            for row, index in enumerate(indices):
                found = completed(
                    index, token_ids[row], logprobs[row].tolist(), stop.ended_at[row], eos, limit
                )
                if found is None:
                    unfinished.append(row)
                else:
                    yield found
            new = tokens.shape[1] - attention_mask.shape[1]
            attention_mask = torch.nn.functional.pad(attention_mask, (0, new), value=1)
            indices = [indices[row] for row in unfinished]
            logprobs = logprobs[unfinished]
            kept = torch.tensor(unfinished, dtype=torch.long, device=tokens.device)
            tokens, attention_mask, uniforms = tokens[kept], attention_mask[kept], uniforms[kept]
            cache.batch_select_indices(kept)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Left-pad G prompts and compute the KV cache of all their tokens but the last.

        Prompts that occur several times are computed once.

        Returns:
            Tokens (G, P) int64, their attention mask (G, P) int64, the cache.
        """
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        tokens = padded([torch.tensor(prompt) for prompt in row_of], padding_value=self._pad)
        attention_mask = padded([torch.ones(len(prompt), dtype=torch.long) for prompt in row_of])
        tokens, attention_mask = tokens.to(self.model.device), attention_mask.to(self.model.device)
        cache = DynamicCache(config=self.model.config)
        repeats = torch.tensor([row_of[prompt] for prompt in prompts], device=tokens.device)
        if tokens.shape[1] > 1:
            self.model.get_decoder()(
                input_ids=tokens[:, :-1],
                attention_mask=attention_mask[:, :-1],
                position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
            cache.batch_select_indices(repeats)
        return tokens[repeats], attention_mask[repeats], cache


def uniforms_of(seed: int, count: int) -> Tensor:
    """Return the random numbers of a completion's tokens, (count,) float64 in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dtype=torch.float64, generator=generator)


def completed(
    index: int,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    ended_at: int | None,
    eos: int | None,
    max_new_tokens: int,
) -> Completion | None:
    """Return the completion of `requests[index]` if it has ended, else None.

    It ends with its end-of-sequence token, at the token limit, or after `ended_at` tokens, where a
    stop string ended.
    """
    length = max_new_tokens if ended_at is None else ended_at
    if eos in token_ids[:length]:
        length = token_ids.index(eos) + 1
    if length > len(token_ids):
        return None
    stopped = ended_at is not None or token_ids[length - 1] == eos
    return Completion(index, tuple(token_ids[:length]), tuple(logprobs[:length]), stopped)


class SeededSampler(LogitsProcessor):
    """Samples each row with its own random numbers, and records the tokens' log-probabilities."""

    def __init__(self, uniforms: Tensor, sampling: Sampling) -> None:
        """Take the numbers of the tokens that are left, (G, left); temperature 0 needs none."""
        self.uniforms = uniforms
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.logprobs: list[Tensor] = []  # one (G, 1) float32 tensor a step, on the CPU

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Choose a token for each row of logits (G, V); return logits that allow only that one."""
        logprobs = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=-1)
        if self.temperature:
            allowed = nucleus(logprobs, self.top_p) if self.top_p < 1 else logprobs
            chosen = inverse_cdf(allowed, self.uniforms[:, [len(self.logprobs)]])  # (G, 1)
        else:
            chosen = logprobs.argmax(-1, keepdim=True)
        self.logprobs.append(logprobs.gather(-1, chosen).cpu())
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
