"""Generation by transformers' own `generate`, in this process: always available.

Takes requests in groups of like prompt length (left-padded, one KV cache a group, equal prompts
computed once), gives completions as they end. Each request samples with its own random numbers, so
that a completion does not depend on its neighbors (beyond rounding); logprobs are recorded where
the token is chosen.
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

from stepcoder.rollout.engine import Completion, Request, Sampling

# Tokens between two looks for rows that have ended: those leave the batch, the others go on.
BURST = 12


@dataclass
class Draft:
    """A completion in the making. `uniforms` (max_new_tokens,) float64 are its random numbers."""

    index: int
    uniforms: Tensor
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class HFEngine:
    """Holds a copy of the policy with transformers' SDPA attention, and generates with it."""

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, group_size: int
    ) -> None:
        """Copy the policy; `group_size` requests share one KV cache."""
        self.model = copy.deepcopy(policy).eval()
        self.model.requires_grad_(requires_grad=False)
        self.model.set_attn_implementation("sdpa")
        # A checkpoint's own defaults (top-k, penalties) would fill in what a call leaves open.
        self.model.generation_config = GenerationConfig()
        self.tokenizer = tokenizer
        self.group_size = group_size
        pad = tokenizer.pad_token_id
        self._filler: int = tokenizer.eos_token_id if pad is None else pad

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
            indices = order[start : start + self.group_size]
            drafts = [draft_of(i, requests[i].seed, sampling) for i in indices]
            yield from self._generate_group(drafts, [requests[i] for i in indices], sampling)

    @torch.no_grad()
    def _generate_group(
        self, drafts: list[Draft], requests: list[Request], sampling: Sampling
    ) -> Iterator[Completion]:
        """Generate in bursts; between two of them the completions that have ended are yielded."""
        eos, filler = self.tokenizer.eos_token_id, self._filler
        tokens, attention_mask, cache = self._prefill([r.prompt_ids for r in requests])
        prompt_length = tokens.shape[1]
        while drafts:
            done = tokens.shape[1] - prompt_length
            burst = min(BURST, sampling.max_new_tokens - done)
            sampler = SeededSampler(drafts, sampling, self.model.device)
            stop = StopAtText(self.tokenizer, sampling.stop, prompt_length, len(drafts))
            tokens = self.model.generate(
                input_ids=tokens,
                attention_mask=attention_mask,
                past_key_values=cache,
                generation_config=GenerationConfig(
                    max_new_tokens=burst,
                    do_sample=False,  # the sampler has chosen: only its choice is left finite
                    eos_token_id=eos,
                    pad_token_id=filler,
                ),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
            new_tokens = tokens[:, prompt_length + done :].tolist()
            new_logprobs = torch.stack(sampler.logprobs, dim=1).tolist()  # (G, burst)
            going: list[int] = []
            for row, draft in enumerate(drafts):
                draft.token_ids += new_tokens[row]
                draft.logprobs += new_logprobs[row]
                completion = completed(draft, stop.ended_at[row], eos, sampling.max_new_tokens)
                if completion is None:
                    going.append(row)
                else:
                    yield completion
            drafts = [drafts[row] for row in going]
            kept = torch.tensor(going, dtype=torch.long, device=tokens.device)
            new = attention_mask.new_ones(len(tokens), tokens.shape[1] - prompt_length - done)
            attention_mask = torch.cat([attention_mask, new], dim=1)[kept]
            tokens = tokens[kept]
            cache.batch_select_indices(kept)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Left-pad the prompts: tokens and attention mask (G, P), and a cache of all but the last.

        The cache of a prompt that comes several times is computed once and repeated.
        """
        longest = max(map(len, prompts))
        place = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        tokens = torch.full((len(place), longest), self._filler)
        attention_mask = torch.zeros_like(tokens)
        for prompt, row in place.items():
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            attention_mask[row, longest - len(prompt) :] = 1
        tokens, attention_mask = tokens.to(self.model.device), attention_mask.to(self.model.device)
        cache = DynamicCache(config=self.model.config)
        repeats = torch.tensor([place[prompt] for prompt in prompts], device=tokens.device)
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


def draft_of(index: int, seed: int, sampling: Sampling) -> Draft:
    """Begin the completion of `requests[index]` with all the random numbers it can need."""
    generator = torch.Generator().manual_seed(seed)
    count = sampling.max_new_tokens
    return Draft(index, torch.rand(count, dtype=torch.float64, generator=generator))


def completed(
    draft: Draft, ended_at: int | None, eos: int | None, max_new_tokens: int
) -> Completion | None:
    """Cut a draft after its stop text, its end-of-sequence token or the limit; None: it goes on."""
    tokens = draft.token_ids
    length = max_new_tokens if ended_at is None else ended_at
    if eos in tokens[:length]:
        length = tokens.index(eos) + 1
    if length > len(tokens):
        return None
    stopped = ended_at is not None or tokens[length - 1] == eos
    return Completion(draft.index, tuple(tokens[:length]), tuple(draft.logprobs[:length]), stopped)


class SeededSampler(LogitsProcessor):
    """Samples each row with its own random numbers, and records the tokens' logprobs."""

    def __init__(self, drafts: Sequence[Draft], sampling: Sampling, device: torch.device) -> None:
        """Continue drafts of equal length; temperature 0 takes the most likely token."""
        done = len(drafts[0].token_ids)
        self.uniforms = torch.stack([d.uniforms[done:] for d in drafts]).to(device)  # (G, left)
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.logprobs: list[Tensor] = []  # one (G,) float32 tensor a step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Choose a token for each row of scores (G, V); returns scores that allow only that one."""
        logprobs = torch.log_softmax(scores.float() / (self.temperature or 1.0), dim=-1)
        if self.temperature:
            allowed = nucleus(logprobs, self.top_p) if self.top_p < 1 else logprobs
            chosen = inverse_cdf(allowed, self.uniforms[:, [len(self.logprobs)]])  # (G, 1)
        else:
            chosen = logprobs.argmax(-1, keepdim=True)
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1).cpu())
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def inverse_cdf(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (G, 1) of logprobs (G, V) at uniforms (G, 1) in [0, 1): the first whose sum exceeds.

    In float64, so that the sums of a large vocabulary still tell its rare tokens apart.
    """
    sums = logprobs.double().exp().cumsum(-1)
    return torch.searchsorted(sums, uniforms * sums[:, -1:], right=True).clamp(
        max=logprobs.shape[-1] - 1
    )


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Logprobs (G, V) with minus infinity outside the fewest tokens whose sum reaches `top_p`."""
    ordered, places = logprobs.sort(-1, descending=True)
    probabilities = ordered.double().exp()
    before = probabilities.cumsum(-1) - probabilities  # of the tokens that are more likely
    cut = torch.where(before < top_p, ordered, -torch.inf)
    return torch.full_like(logprobs, -torch.inf).scatter_(-1, places, cut)


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
