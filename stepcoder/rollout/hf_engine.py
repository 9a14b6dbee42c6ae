"""Generates completions in this process with a transformers decoder; needs no other package.

Requests are taken in groups of similar prompt length: a group is left-padded and shares a KV cache,
in which equal prompts are computed once. Each request samples with its own random numbers, so that
its completion does not depend on the rest of the group (beyond rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from stepcoder.models.attention import CACHED, unpacked_attention
from stepcoder.models.lora import copy_of
from stepcoder.problems.prompts import end_tokens
from stepcoder.rollout.engine import Completion, Engine, Request, Sampling
from stepcoder.rollout.kv_cache import closing_gaps, make_room, with_cache

BLOCK = 256  # tokens of the vocabulary whose probabilities are summed first

padded = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")


class HFEngine(Engine):
    """Generates with a copy of the policy that uses transformers' own attention, SDPA if it can."""

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, group_size: int
    ) -> None:
        """Copy the policy; `group_size` requests are generated together."""
        self.model = copy_of(policy).eval()
        self.model.requires_grad_(requires_grad=False)
        unpacked = unpacked_attention(policy)
        self.model.set_attn_implementation(CACHED if unpacked == "sdpa" else unpacked)
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
            yield from self._generate_group(requests, group, sampling)

    @torch.no_grad()
    def _generate_group(
        self, requests: Sequence[Request], group: list[int], sampling: Sampling
    ) -> Iterator[Completion]:
        """Generate token by token for `requests[i]` of the group's i; yield what has ended.

        Row by row, the tensors hold what is left of the group.
        """
        ends, limit = end_tokens(self.tokenizer), sampling.max_new_tokens
        ends_with_stop = StopStrings(self.tokenizer, sampling.stop)
        tokens, attention_mask, cache = self._prefill([requests[i].prompt_ids for i in group])
        uniforms = torch.stack([uniforms_of(requests[i].seed, limit) for i in group])
        uniforms = uniforms.to(tokens.device)
        token_ids: dict[int, list[int]] = {i: [] for i in group}
        logprobs: dict[int, list[float]] = {i: [] for i in group}
        prompt_length, tokens = tokens.shape[1], tokens[:, -1:]
        make_room(cache, prompt_length + limit)
        attention_mask = pad(attention_mask, (0, limit), value=1)
        position_ids = attention_mask[:, :prompt_length].sum(1, keepdim=True) - 1
        for step in range(limit):
            logits = self.model(
                input_ids=tokens,
                attention_mask=attention_mask[:, : prompt_length + step],
                position_ids=position_ids + step,
                **with_cache(cache),
            ).logits[:, -1]
            tokens, found = choose(logits, uniforms[:, [step]], sampling)  # (G, 1)
            kept: list[int] = []
            chosen = zip(group, tokens[:, 0].tolist(), found[:, 0].tolist(), strict=True)
            for row, (i, token, logprob) in enumerate(chosen):
                token_ids[i].append(token)
                logprobs[i].append(logprob)
                stopped = token in ends or ends_with_stop(token_ids[i])
                if stopped or step + 1 == limit:
                    yield Completion(i, tuple(token_ids[i]), tuple(logprobs[i]), stopped)
                else:
                    kept.append(row)
            if len(kept) < len(group):
                if not kept:
                    return
                order = closing_gaps(kept)
                group = [group[row] for row in order]
                rows = torch.tensor(order, device=tokens.device)
                tokens, attention_mask, uniforms, position_ids = (
                    t[rows] for t in (tokens, attention_mask, uniforms, position_ids)
                )
                cache.batch_select_indices(rows)

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
                **with_cache(cache),
            )
            cache.batch_select_indices(repeats)
        return tokens[repeats], attention_mask[repeats], cache


def uniforms_of(seed: int, count: int) -> Tensor:
    """Return the random numbers of a completion's tokens, (count,) float64 in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dtype=torch.float64, generator=generator)


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Choose a token for each row of logits (G, V) by its number (G, 1); temperature 0 needs none.

    Returns:
        Token ids (G, 1) int64 and their log-probabilities (G, 1) float32.
    """
    probabilities = torch.softmax(logits.float() / (sampling.temperature or 1.0), dim=-1)
    if not sampling.temperature:
        chosen = probabilities.argmax(-1, keepdim=True)
    elif sampling.top_p < 1:
        chosen = inverse_cdf(nucleus(probabilities, sampling.top_p), uniforms)
    else:
        chosen = inverse_cdf(probabilities, uniforms)
    return chosen, probabilities.gather(-1, chosen).log()


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution: the first token whose sum exceeds uniform.

    A block of tokens is found first, then the token in it. The sums are float64, so that they still
    differ at the rare tokens of a large vocabulary.

    Args:
        probabilities: (G, V) float32; they need not sum to 1.
        uniforms: (G, 1) float64 in [0, 1).

    Returns:
        Token ids (G, 1) int64.
    """
    blocks = pad(probabilities, (0, -probabilities.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    block, within = _invert(blocks.sum(-1), uniforms)
    index = block[..., None].expand(-1, -1, BLOCK)
    place, _ = _invert(blocks.gather(1, index)[:, 0], within)
    return block * BLOCK + place


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first place whose sum of weights (G, n) exceeds that share (G, 1) of them all.

    The second result is the share (G, 1) of that place's own weight.
    """
    sums = weights.double().cumsum(-1)
    total = sums[:, -1:]
    wanted = (uniforms * total).minimum(total * (1 - 1e-15))  # less than all, after rounding too
    place = torch.searchsorted(sums, wanted, right=True)
    weight = weights.gather(1, place).double()
    return place, ((wanted - sums.gather(1, place)) / weight + 1).clamp(min=0)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep of probabilities (G, V) the fewest that reach `top_p` together; others: 0."""
    ordered, places = probabilities.sort(-1, descending=True)
    before = ordered.double().cumsum(-1) - ordered  # the sum of the more likely tokens
    return torch.zeros_like(probabilities).scatter_(-1, places, ordered * (before < top_p))


class StopStrings:
    """Tells whether tokens end with a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> None:
        """Prepare for completions that this tokenizer decodes."""
        self.tokenizer, self.stop = tokenizer, stop
        self.final_tokens = _final_tokens(tokenizer, stop)
        # A stop string of n bytes lies within the last n tokens: each has at least one byte.
        self.window = max((len(s.encode()) for s in stop), default=0)

    def __call__(self, token_ids: list[int]) -> bool:
        """Return whether the last of a completion's tokens ended a stop string."""
        if token_ids[-1] not in self.final_tokens:
            return False
        tail = self.tokenizer.decode(token_ids[-self.window :])
        return any(s in tail for s in self.stop)


@lru_cache(maxsize=8)
def _final_tokens(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> frozenset[int]:
    """Return the tokens that can complete a stop string: those that contain its last character.

    Tokens that end inside a character, which decode to U+FFFD, are among them.
    """
    endings = {s[-1] for s in stop} | {"\N{REPLACEMENT CHARACTER}"}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if endings & set(text))
