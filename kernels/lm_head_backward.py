"""The LM head's gradient: d(logits) from the stored E_j = 2^(x_j-k), then dX and dW by products.

    d loss / d logit_j = (g (1[j = target] - p_j) - h p_j (log p_j + entropy)) cap' / temperature

where g and h are the loss's derivatives by the row's log-probability and by its entropy, and
p_j = E_j / Z with Z = 2^(log normalizer - k). Without h and cap this is E_j - Z 1[j = target] times
a number of the row's, -g / (Z temperature): then only the target's entry of `exp_logits` is
written, and the number multiplies the rows of X and of dX. Otherwise `logits_gradient` overwrites
all entries, in bfloat16. The target's entry is computed from the float32 log-probability, because
1 - p of a bfloat16 p near 1 has no correct digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcoder.kernels.language import INTERPRETED, Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.lm_head import LARGEST, chunks, vocab_tiles

DEFAULT_WORKSPACE = 1280 << 20  # bytes
COLUMNS = 4096  # columns that a program of logits_gradient computes


@jit(do_not_specialize=["N"])
def logits_gradient(
    exp_logits: Pointer,  # (N, V) bfloat16: 2^(x-k) in, d(logits) out
    references: Pointer,  # (N,) float32: k
    row_terms: Pointer,  # (5, N) float32: see RowTerms
    targets: Pointer,  # (N,) int64
    N: Scalar,
    V: Scalar,
    stride: Scalar,  # of a row of exp_logits, in elements
    temperature: Scalar,
    softcap: Scalar,
    COLUMNS: constexpr,
    ENTROPY: constexpr,  # whether any h is other than 0
    SOFTCAP: constexpr,
    LARGEST: constexpr,
    UPCAST: constexpr,
) -> None:
    """Turn 2^(x-k) into d(logits); one program for each row and strip of COLUMNS columns."""
    strips = tl.cdiv(V, COLUMNS)
    row = tl.program_id(0) // strips
    columns = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < V
    log_normalizer = tl.load(row_terms + row)  # base 2
    grad_logprob = tl.load(row_terms + N + row)
    target = tl.load(targets + row).to(tl.int32)
    log_z = log_normalizer - tl.load(references + row)
    log_z = tl.minimum(tl.maximum(log_z, -LARGEST), LARGEST)
    where = exp_logits + row.to(tl.int64) * stride + columns
    e = tl.load(where, mask=inside, other=0.0)
    if UPCAST:
        e = e.to(tl.float32)
    p = e.to(tl.float32) * tl.exp2(-log_z)
    logprob = tl.load(row_terms + 2 * N + row)
    p = tl.where(columns == target, tl.exp2(logprob * 1.4426950408889634), p)
    gradient = grad_logprob * (tl.where(columns == target, 1.0, 0.0) - p)
    if ENTROPY or SOFTCAP:
        # Where 2^(x-k) underflowed, p is 0, and so is its gradient for any finite log p.
        log2_p = tl.log2(tl.maximum(p, 1e-37))
    if ENTROPY:
        grad_entropy = tl.load(row_terms + 3 * N + row)
        entropy = tl.load(row_terms + 4 * N + row)
        gradient -= grad_entropy * p * (log2_p * 0.6931471805599453 + entropy)
    if SOFTCAP:
        capped = (log2_p + log_normalizer) * (0.6931471805599453 * temperature / softcap)
        gradient *= tl.maximum(1 - capped * capped, 0.0)
    tl.store(where, (gradient / temperature).to(tl.bfloat16), mask=inside)


@dataclass(frozen=True)
class RowTerms:
    """What the gradient of a chunk of N rows needs besides its `exp_logits`."""

    # (5, N) float32: base-2 log normalizer, loss's derivative by logprob, logprob, loss's
    # derivative by entropy, entropy
    tensor: Tensor
    with_entropy: bool  # False: all derivatives by entropy are 0


@dataclass
class HeadGradients:
    """dX and dW of an LM head, computed chunk by chunk; one that is not wanted is empty."""

    hidden: Tensor  # (N, H) or (0,)
    weight: Tensor  # (V, H) or (0,); float32 where it is summed over chunks
    dtype: torch.dtype  # of dW in the end

    @staticmethod
    def like(hidden: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        """Allocate the gradients that are wanted (of hidden, of weight), as they are returned."""
        dx, dw = (
            torch.empty_like(like) if wants else like.new_empty(0)
            for like, wants in zip((hidden, weight), wanted, strict=True)
        )
        return dx, dw

    @classmethod
    def empty(
        cls, hidden: Tensor, weight: Tensor, wanted: tuple[bool, bool], chunks: int
    ) -> HeadGradients:
        """Allocate what is wanted. A dW that several chunks add up to has room for its sum.

        Summed in bfloat16, 64 chunks would have twice the error of a single product.
        """
        dx, dw = cls.like(hidden, weight, wanted)
        if wanted[1] and chunks != 1:
            dw = torch.zeros_like(weight, dtype=torch.float32)
        return cls(dx, dw, weight.dtype)

    def add(
        self, rows: slice, logits_grad: Tensor, scale: Tensor | None, hidden: Tensor, weight: Tensor
    ) -> None:
        """Add a chunk's share: of states (n, H) and d(logits) = scale (n, 1) logits_grad (n, V)."""
        if self.hidden.numel():
            dx = torch.mm(logits_grad, weight, out=self.hidden[rows])
            if scale is not None:
                dx *= scale
        if scale is not None:
            hidden = torch.mul(hidden, scale, out=torch.empty_like(hidden))
        if self.weight.dtype == self.dtype and self.weight.numel():
            torch.mm(logits_grad.T, hidden, out=self.weight)
        elif self.weight.is_cuda:
            product = (logits_grad.T, hidden, torch.float32)
            torch.addmm(self.weight, *product, out=self.weight)
        elif self.weight.numel():
            self.weight.addmm_(logits_grad.T.float(), hidden.float())

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return both, dW rounded once."""
        return self.hidden, self.weight.to(self.dtype)


@dataclass
class Workspace:
    """The only large buffer of a pass with gradient: a chunk's `exp_logits`, then its d(logits)."""

    buffer: Tensor  # (rows, padded V) bfloat16
    vocab: int

    @classmethod
    def create(cls, rows: list[slice], weight: Tensor) -> Workspace:
        """Allocate for the largest chunk, with rows padded as TMA's stores need."""
        longest = max((piece.stop - piece.start for piece in rows), default=0)
        vocab = weight.shape[0]
        return cls(weight.new_empty(longest, _padded(vocab)), vocab)

    def view(self, rows: slice) -> Tensor:
        """Return the part for a chunk's n rows, (n, V)."""
        return self.buffer[: rows.stop - rows.start, : self.vocab]


def gradient_chunks(rows: int, vocab: int, device: torch.device, workspace: int) -> list[slice]:
    """Split rows into chunks whose `exp_logits` and tile statistics fit the workspace, in bytes."""
    per_row = 2 * _padded(vocab) + 12 * vocab_tiles(vocab, device) + 64
    return list(chunks(rows, per_row, workspace))


def d_logits(
    exp_logits: Tensor,
    references: Tensor,
    terms: RowTerms,
    targets: Tensor,
    temperature: float,
    softcap: float,
) -> tuple[Tensor, Tensor | None]:
    """Overwrite a chunk's `exp_logits` (n, V), and return them with a scale (n, 1), or None for 1.

    d(logits) are their product.
    """
    rows, vocab = exp_logits.shape
    if not terms.with_entropy and not softcap:
        log_normalizer, by_logprob, logprobs = terms.tensor[:3, :, None]
        z = (log_normalizer - references[:, None]).clamp(-LARGEST, LARGEST).exp2()
        of_target = torch.expm1(logprobs) * z  # (p - 1) Z
        place = targets[:, None].clamp(0, vocab - 1)  # what is no token has no g, or a NaN
        exp_logits.scatter_(1, place, of_target.to(exp_logits.dtype))
        return exp_logits, by_logprob / (-temperature * z)
    logits_gradient[(rows * -(-vocab // COLUMNS),)](
        exp_logits,
        references,
        terms.tensor,
        targets,
        rows,
        vocab,
        exp_logits.stride(0),
        temperature,
        softcap,
        COLUMNS=COLUMNS,
        ENTROPY=terms.with_entropy,
        SOFTCAP=bool(softcap),
        LARGEST=LARGEST,
        UPCAST=INTERPRETED,
        num_warps=8,
    )
    return exp_logits, None


def _padded(vocab: int) -> int:
    return -(-vocab // 64) * 64
