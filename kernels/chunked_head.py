"""The LM head where Triton does not run: `logprob_entropy` and `ppo_head` over chunks of rows.

The definitions are those of `reference`. Here no tensor has the size of all logits (N, V), and the
chunks share their buffers, because fresh pages cost a CPU more than much of the arithmetic. As the
Triton kernels do, `ppo_head` computes the gradients in its forward pass, by three matrix products.

A product of bfloat16 matrices is rounded to bfloat16: at a logit of 20, to a multiple of 0.125. The
logit of each row's target is therefore subtracted within the product, before that. The errors then
are 2^-9 of a logit's distance from the target's, which is small for every likely token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stepcoder.kernels import reference
from stepcoder.kernels.lm_head import chunks
from stepcoder.kernels.reference import ClipRange, HeadStatistics, HeadTokens, KLEstimator

WORKSPACE = 64 << 20  # bytes of a chunk's logits: enough rows for products at full speed
STRIP = 2 << 20  # bytes of the rows that a CPU handles between two products: they stay in its cache
BLOCK = 4096  # tokens of the vocabulary whose share of dW is summed at a time


class _Head:
    """A head with room for the logits of n rows (a chunk), and float32 ones of s rows (a strip)."""

    def __init__(self, hidden: Tensor, weight: Tensor, temperature: float, softcap: float) -> None:
        self.weight, self.temperature, self.softcap = weight, temperature, softcap
        accumulate = torch.promote_types(hidden.dtype, torch.float32)
        per_row = len(weight) * hidden.itemsize
        self.chunks = list(chunks(len(hidden), per_row, WORKSPACE)) or [slice(0, 0)]
        longest = self.chunks[0].stop
        self.buffer = hidden.new_empty(longest, len(weight))
        if not hidden.is_cuda:
            longest = max(STRIP // (len(weight) * accumulate.itemsize), 1)
        self.strip = hidden.new_empty(2, longest, len(weight), dtype=accumulate)

    def load(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a chunk's logits, and return its log-probabilities and entropies (n,)."""
        self.targets = targets[:, None]
        of_target = (hidden * self.weight[targets].to(self.strip.dtype)).sum(-1, keepdim=True)
        self.shift = of_target.to(hidden.dtype)  # (n, 1), subtracted from the logits
        self.logits = self.buffer[: len(hidden)]
        torch.addmm(self.shift, hidden, self.weight.T, beta=-1, out=self.logits)
        logprobs, self.entropy, self.log_normalizer = self.strip.new_empty(3, len(hidden))
        for rows, scaled, p in self._distributions():
            # The most likely token's p is 1 / sum(exp(z - max z)).
            self.log_normalizer[rows] = normalizer = scaled.amax(-1) - p.amax(-1).log()
            logprobs[rows] = scaled.gather(-1, self.targets[rows]).squeeze(-1) - normalizer
            self.entropy[rows] = normalizer - torch.linalg.vecdot(p, scaled)
        return logprobs, self.entropy.clone()

    def _distributions(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the chunk's rows strip by strip, with their scaled logits and softmax (s, V)."""
        for start in range(0, len(self.logits), self.strip.shape[1]):
            rows = slice(start, min(start + self.strip.shape[1], len(self.logits)))
            scaled, p = self.strip[:, : rows.stop - rows.start]
            scaled.copy_(self.logits[rows])
            if self.softcap:
                scaled.add_(self.shift[rows]).div_(self.softcap).tanh_().mul_(self.softcap)
            scaled.div_(self.temperature)
            yield rows, scaled, torch.softmax(scaled, -1, out=p)

    def differentiate(self, by_logprob: Tensor | None, by_entropy: Tensor | None) -> None:
        """Overwrite the loaded chunk's logits with the loss's gradient by them.

        At token j it is (g (1[j = target] - p_j) - h p_j (log p_j + entropy)) cap' / temperature,
        with the loss's derivatives g and h (n,) by the row's log-probability and its entropy.
        """
        g = torch.zeros_like(self.entropy) if by_logprob is None else by_logprob
        for rows, scaled, p in self._distributions():
            factor = -g[rows, None] / self.temperature
            if self.softcap:
                capped = scaled * (self.temperature / self.softcap)
            if by_entropy is None:
                gradient = p.mul_(factor)
            else:
                h = by_entropy[rows, None] / self.temperature
                log_p_and_entropy = scaled.add_((self.entropy - self.log_normalizer)[rows, None])
                gradient = p.mul_(log_p_and_entropy.mul_(-h).add_(factor))
            gradient.scatter_add_(-1, self.targets[rows], -factor)
            self.logits[rows] = gradient.mul_(1 - capped**2) if self.softcap else gradient


class _Gradients:
    """dX (N, H), and dW (V, H) summed over the chunks in float32 or wider; None where unwanted."""

    def __init__(self, hidden: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> None:
        accumulate = torch.promote_types(weight.dtype, torch.float32)
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=accumulate) if wanted[1] else None

    def add(self, rows: slice, head: _Head, hidden: Tensor) -> None:
        """Add the share of a chunk, given its states (n, H), from its differentiated logits."""
        if self.hidden is not None:
            torch.mm(head.logits, head.weight, out=self.hidden[rows])
        if self.weight is None:
            return
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(head.logits.T, hidden)
            return
        # Adding tensors of unlike dtypes is slow: each product is widened, while in the cache.
        for total, logits in zip(
            self.weight.split(BLOCK), head.logits.split(BLOCK, dim=1), strict=True
        ):
            total += torch.mm(logits.T, hidden).to(total.dtype)

    def finish(self, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return both, dW rounded once to the weight's dtype."""
        return self.hidden, None if self.weight is None else self.weight.to(weight.dtype)


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        hidden, weight, targets, *ctx.settings = inputs
        ctx.save_for_backward(hidden, weight, targets)
        ctx.set_materialize_grads(False)
        head = _Head(hidden, weight, *ctx.settings)
        parts = [head.load(hidden[rows], targets[rows]) for rows in head.chunks]
        logprobs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        head = _Head(hidden, weight, *ctx.settings)
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad[:2])
        for rows in head.chunks:
            head.load(hidden[rows], targets[rows])
            head.differentiate(*(None if d is None else d[rows] for d in derivatives))
            gradients.add(rows, head, hidden[rows])
        return (*gradients.finish(weight), None, None, None)


def logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`reference.logprob_entropy`; the backward pass computes the logits once more."""
    inputs = (hidden, weight, targets, temperature, softcap)
    outputs: tuple[Tensor, Tensor] = _LogprobEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return outputs


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        hidden, weight, targets, temperature, softcap, loss_of, wanted = inputs
        head = _Head(hidden, weight, temperature, softcap)
        gradients = _Gradients(hidden, weight, wanted)
        parts: list[tuple[Tensor, ...]] = []
        tokens: list[tuple[Tensor, ...]] = []
        for rows in head.chunks:
            terms = head.load(hidden[rows], targets[rows])
            with torch.enable_grad():
                loss, statistics = loss_of(rows, *(t.requires_grad_() for t in terms))
            parts.append((loss.detach(), *statistics))
            tokens.append(tuple(t.detach() for t in terms))
            if any(wanted):
                head.differentiate(*torch.autograd.grad(loss, terms, allow_unused=True))
                gradients.add(rows, head, hidden[rows])
        loss, clipped, approx_kl, entropy, ratio_min, ratio_max, reference_kl = (
            torch.stack(column) for column in zip(*parts, strict=True)
        )
        sums = (t.sum() for t in (loss, clipped, approx_kl, entropy))
        by_token = (torch.cat(column) for column in zip(*tokens, strict=True))
        outputs = (*sums, ratio_min.amin(), ratio_max.amax(), reference_kl.sum(), *by_token)
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.save_for_backward(*gradients.finish(weight))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        found = (g if g is None or factor == 1 else g * factor for g in ctx.saved_tensors)
        return (*found, None, None, None, None, None)


def ppo_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float | Tensor,
    clip: float | ClipRange,
    entropy_bonus: float = 0.0,
    temperature: float = 1.0,
    softcap: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, HeadStatistics, HeadTokens]:
    """`reference.ppo_head`, with its gradients computed in the forward pass."""

    def loss_of(rows: slice, logprobs: Tensor, entropy: Tensor) -> tuple[Tensor, HeadStatistics]:
        return reference.ppo_policy_loss(
            *(logprobs, entropy, old_logprobs[rows], advantages[rows], importance[rows]),
            *(normalizer, clip, entropy_bonus),
            None if ref_logprobs is None else ref_logprobs[rows],
            *(kl_beta, kl_estimator),
        )

    wanted = tuple(torch.is_grad_enabled() and t.requires_grad for t in (hidden, weight))
    inputs = (hidden, weight, targets, temperature, softcap, loss_of, wanted)
    loss, *statistics, logprobs, entropy = _Loss.apply(*inputs)  # type: ignore[no-untyped-call]
    return loss, HeadStatistics(*statistics), HeadTokens(logprobs, entropy)
