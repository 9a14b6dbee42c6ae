"""Rollouts as one packed batch of tokens, and minibatches of it.

A batch is a set of 1-D tensors over T tokens. `cu_seqlens` marks its segments: a prompt, then every
response to it, then the next prompt. Nothing is padded, and the samples of one prompt share it: the
models compute a prompt once, however many responses follow. A row is one prompt with one response.
Two masks are kept apart: `response_mask` says which tokens are transitions (chosen by the policy),
`executed_mask` which of those the policy loss trains (FGO).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from stepcoder.models import ranks
from stepcoder.models.attention import Packing, moved, planned

PER_SEGMENT = ("is_response",)
PER_ROW = ("task_rewards", "outcomes")
WIDTH = 2048  # of a decoder of 1 to 2 billion weights


@dataclass(frozen=True)
class Batch:
    """B rows in S packed segments of T tokens. Fields after `token_rewards` come with the scores.

    Values of a token sit at its own position; outside `response_mask` they are zero. A batch on a
    GPU has its `host`, which says where rows and masked tokens lie: a mask is changed in both.
    """

    tokens: Tensor  # (T,) int64
    cu_seqlens: Tensor  # (S+1,) int32
    is_response: Tensor  # (S,) bool; a False is a prompt, and the Trues after it are its rows
    response_mask: Tensor  # (T,) bool
    executed_mask: Tensor  # (T,) bool, the response tokens that the policy loss trains (FGO)
    engine_logprobs: Tensor  # (T,) float32, as the sampler reported them
    task_rewards: Tensor  # (B,) float32, on the last token of each row
    outcomes: Tensor | None = None  # (B,) int64, `rewards.Outcome`
    token_rewards: Tensor | None = None  # (T,) float32, where a recipe rewards single tokens
    old_logprobs: Tensor | None = None  # (T,) float32, of the policy before the update
    ref_logprobs: Tensor | None = None  # (T,) float32, of the reference, if there is one
    entropy: Tensor | None = None  # (T,) float32, of the policy before the update
    values: Tensor | None = None  # (T,) float32, of the critic before the update
    advantages: Tensor | None = None  # (T,) float32
    returns: Tensor | None = None  # (T,) float32
    importance: Tensor | None = None  # (T,) float32, truncated engine-mismatch weight
    host: Batch | None = None  # the same rows on the CPU; None: this is there itself

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tokens.device

    @planned
    def packing(self) -> Packing:
        """Where each row's tokens lie: what attention over the packed segments needs."""
        return Packing.of(self.cu_seqlens, self.is_response)

    @property
    def position_ids(self) -> Tensor:
        """Place (T,) of every token in its row, int64: a response counts on from its prompt."""
        return self.packing.position_ids

    @planned
    def predictor_index(self) -> Tensor:
        """Position (T,) of the token before each one in its row, int64: its state chose the token.

        Of a first response token that is its prompt's last token, which may lie far ahead of it.
        """
        packing = self.packing
        index = (torch.arange(len(self.tokens), device=self.tokens.device) - 1).clamp(min=0)
        index[packing.starts[packing.responses]] = packing.ends[packing.prompts] - 1
        return index

    @planned
    def response_ends(self) -> Tensor:
        """Position of the last token of each row, (B,) int64."""
        return self.packing.ends[self.packing.responses] - 1

    @planned
    def response_positions(self) -> Tensor:
        """Positions of the response tokens, (N,) int64."""
        return self.response_mask.nonzero().squeeze(-1)

    @planned
    def executed_positions(self) -> Tensor:
        """Positions of the tokens that the policy loss trains, (M,) int64."""
        return self.executed_mask.nonzero().squeeze(-1)

    @planned
    def groups(self) -> list[list[int]]:
        """Row numbers, the rows that share a prompt together."""
        prompts = self.packing.prompts.tolist()
        return [list(rows) for _, rows in groupby(range(len(prompts)), key=prompts.__getitem__)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.task_rewards)

    def scatter_responses(self, values: Tensor) -> Tensor:
        """Place (N,) values of the response tokens at their positions: (T,), zero elsewhere."""
        spread = torch.zeros(len(self.tokens), dtype=values.dtype, device=values.device)
        spread[self.response_positions] = values
        return spread

    def broadcast_rows(self, values: Tensor) -> Tensor:
        """Give (B,) values of the rows to each of their response tokens: (T,), zero elsewhere."""
        by_segment = values.new_zeros(len(self.packing.lengths))
        by_segment[self.packing.responses] = values
        return by_segment.repeat_interleave(self.packing.lengths, output_size=len(self.tokens))

    def sum_by_row(self, values: Tensor) -> Tensor:
        """Sum (T,) values over each row's response: (B,)."""
        positions = self.response_positions
        row = self.broadcast_rows(torch.arange(len(self), device=values.device))[positions]
        return values.new_zeros(len(self)).index_add_(0, row, values[positions])

    @property
    def kl(self) -> Tensor:
        """Log pi_old - log pi_ref (T,) of the response tokens; all 0 without a reference."""
        assert self.old_logprobs is not None
        if self.ref_logprobs is None:
            return torch.zeros_like(self.old_logprobs)
        return self.old_logprobs - self.ref_logprobs

    def kl_by_row(self) -> Tensor:
        """KL of each whole response from the reference, (B,): the sum over its tokens."""
        return self.sum_by_row(self.kl)

    def index(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Segments of some rows, and the positions of all their tokens in this order, int64.

        A prompt comes once for the neighbors that share it.
        """
        packing = (self.host or self).packing
        prompts, responses = packing.prompts.tolist(), packing.responses.tolist()
        segments: list[int] = []
        for prompt, rows in groupby(chosen, key=prompts.__getitem__):
            segments += [prompt, *(responses[row] for row in rows)]
        lengths = packing.lengths[segments]
        shift = packing.starts[segments] - cumulative(lengths)[:-1]  # (segments,)
        positions = torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)
        return moved(torch.tensor(segments), self.device), moved(positions, self.device)

    def select(self, chosen: Sequence[int]) -> Batch:
        """Return the batch of some rows, in the order given."""
        segments, index = self.index(chosen)
        row_index = moved(torch.tensor(chosen), self.device)

        def pick(name: str, value: Tensor) -> Tensor:
            if name in PER_SEGMENT:
                return value[segments]
            return value[row_index if name in PER_ROW else index]

        picked: dict[str, Any] = {
            field.name: pick(field.name, value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and field.name != "cu_seqlens"
        }
        picked["host"] = self.host and self.host.select(chosen)
        return Batch(cu_seqlens=cumulative(self.packing.lengths[segments]), **picked)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return self if device.type == self.device.type else moved(self, device)


def cumulative(lengths: Tensor) -> Tensor:
    """Turn segment lengths (S,) into cu_seqlens (S+1,) int32."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


@dataclass(frozen=True)
class Row:
    """One rollout as token ids: what `pack` puts end to end."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    logprobs: Sequence[float]  # of the response tokens, as the engine reported them
    executed: Sequence[bool]  # of the response tokens
    reward: float  # on the last token
    outcome: int = 0  # `rewards.Outcome`
    token_rewards: Sequence[float] = ()  # of the response tokens; () is zeros


def pack(rows: Sequence[Row]) -> Batch:
    """Put rollouts end to end; neighbors with equal prompts share it.

    Raises:
        ValueError: a row without prompt or response tokens (no state precedes its first action).
    """
    for row in rows:
        if not row.prompt_ids or not row.response_ids:
            raise ValueError("a rollout needs at least one prompt token and one response token")
    segments: list[Row] = []  # a prompt is a segment of which nothing is trained or rewarded
    for prompt, sharing in groupby(rows, key=lambda row: tuple(row.prompt_ids)):
        size = len(prompt)
        segments += [Row((), prompt, [0.0] * size, [False] * size, 0.0), *sharing]
    lengths = torch.tensor([len(s.response_ids) for s in segments])
    is_response = torch.tensor([len(s.prompt_ids) > 0 for s in segments])
    rewards = [r for s in segments for r in s.token_rewards or [0.0] * len(s.response_ids)]
    logprobs = [logprob for s in segments for logprob in s.logprobs]
    return Batch(
        tokens=torch.tensor([token for s in segments for token in s.response_ids]),
        cu_seqlens=cumulative(lengths),
        is_response=is_response,
        response_mask=is_response.repeat_interleave(lengths),
        executed_mask=torch.tensor([executed for s in segments for executed in s.executed]),
        engine_logprobs=torch.tensor(logprobs, dtype=torch.float32),
        task_rewards=torch.tensor([r.reward for r in rows], dtype=torch.float32),
        outcomes=torch.tensor([r.outcome for r in rows]),
        token_rewards=torch.tensor(rewards, dtype=torch.float32),
    )


def microbatches(batch: Batch, tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Split a batch into pieces of at most `tokens` tokens, rows of like length together.

    Yields (row numbers in `batch`, piece). Rows of one prompt stay together where they fit; else
    each piece has the prompt anew. A row longer than `tokens` comes alone.
    """
    packing = (batch.host or batch).packing
    prompts: list[int] = packing.lengths[packing.prompts].tolist()
    responses: list[int] = packing.lengths[packing.responses].tolist()

    def longest(group: list[int]) -> int:
        return max(prompts[row] + responses[row] for row in group)

    chosen: list[int] = []
    used = 0
    for group in sorted(batch.groups, key=longest, reverse=True):
        prompt = prompts[group[0]]
        if chosen and used + prompt + sum(responses[row] for row in group) > tokens:
            yield chosen, batch.select(chosen)
            chosen, used = [], 0
        used += prompt
        for row in group:
            if chosen and used + responses[row] > tokens:
                yield chosen, batch.select(chosen)
                chosen, used = [], prompt
            chosen.append(row)
            used += responses[row]
    if chosen:
        yield chosen, batch.select(chosen)


def cost(batch: Batch) -> float:
    """Return the work of a forward pass in units of a token's matrix products.

    Those of a decoder layer of width H take some 24 H^2 operations a token, attention to L tokens
    (half of them on average, as it is causal) 2 H L. Only the balance of processes depends on it.
    """
    packing = (batch.host or batch).packing
    lengths = packing.lengths.double()
    own, before = lengths * lengths, lengths[packing.prompts] * lengths[packing.responses]
    return float(lengths.sum() + (own.sum() + 2 * before.sum()) / (12 * WIDTH))


def shared_microbatches(batch: Batch, tokens: int) -> Iterator[tuple[list[int], Batch, bool]]:
    """Yield this process's microbatches, as many as every process has.

    The last field is False for one whose result does not count (`ranks.share`). With several
    processes the pieces are at most their share of the batch, so that each has one.
    """
    if ranks.count() == 1:
        yield from ((rows, piece, True) for rows, piece in microbatches(batch, tokens))
        return
    pieces = list(microbatches(batch, min(tokens, -(-len(batch.tokens) // ranks.count()))))
    for (rows, piece), counts in ranks.share(pieces, [cost(p) for _, p in pieces]):
        yield rows, piece, counts


def minibatches(batch: Batch, count: int, generator: torch.Generator) -> Iterator[Batch]:
    """Split a batch into `count` random minibatches of whole rows (fewer if rows are fewer).

    Rows of one prompt stay neighbors, so that minibatches share prompts too.
    """
    groups = batch.groups
    order = torch.randperm(len(groups), generator=generator).tolist()
    shuffled = torch.tensor([row for group in order for row in groups[group]])
    for chosen in shuffled.tensor_split(min(count, len(batch))):
        yield batch.select(chosen.tolist())
