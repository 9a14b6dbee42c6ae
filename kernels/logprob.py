"""Log-probability and entropy of each row of the LM head, without logits in memory.

    logprobs_i = log softmax(z_i)[target_i],  entropy_i = -sum_j p_ij log p_ij,  z = hidden W^T / t

The definition is `reference.logprob_entropy`. The forward pass is one matrix product, with at most
32 MiB of memory besides the inputs. The backward pass repeats the product, its exponentials against
the normalizer that the forward pass has found, and computes dX and dW, over chunks of rows. PPO's
loss has its own function, `ppo_head`, with three products instead of these four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepcoder.kernels import chunked_head, reference
from stepcoder.kernels.dispatch import check_head, in_pytorch, on_its_device, use_triton
from stepcoder.kernels.language import Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.lm_head import (
    LOG2_E,
    chunks,
    launch_tiles,
    row_statistics,
    target_logits,
    vocab_tiles,
)
from stepcoder.kernels.lm_head_backward import (
    DEFAULT_WORKSPACE,
    HeadGradients,
    RowTerms,
    Workspace,
    d_logits,
    gradient_chunks,
)
from stepcoder.kernels.reference import IGNORED

PARTIALS_WORKSPACE = 28 << 20  # bytes of tile statistics at a time, without gradient
ROWS, TILES = 32, 32  # block shape of finish_rows


@jit(do_not_specialize=["N"])
def finish_rows(
    partials: Pointer,
    target_logits: Pointer,
    targets: Pointer,
    logprobs: Pointer,
    entropy: Pointer,
    log_normalizer: Pointer,
    N: Scalar,
    vocab_blocks: Scalar,
    scale: Scalar,
    IGNORED: constexpr,
    ROWS: constexpr,
    TILES: constexpr,
) -> None:
    """Combine the tiles of each row into the (N,) outputs; one program for each ROWS rows."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    logprob, row_entropy, normalizer = row_statistics(
        partials, target_logits, rows, N, vocab_blocks, scale, TILES
    )
    kept = tl.load(targets + rows, mask=rows < N, other=0) != IGNORED
    tl.store(logprobs + rows, tl.where(kept, logprob, 0.0), mask=rows < N)
    tl.store(entropy + rows, tl.where(kept, row_entropy, 0.0), mask=rows < N)
    tl.store(log_normalizer + rows, normalizer, mask=rows < N)


def logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    softcap: float = 0.0,
    workspace_bytes: int = DEFAULT_WORKSPACE,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each row under softmax(logits / temperature).

    Args:
        hidden: (..., H) final hidden states, such as (N, H) packed rows or (B, T, H); that at a
            place predicts the target there. For the kernel, bfloat16 and H a multiple of 16.
        weight: (V, H) LM head, of the same dtype.
        targets: (...) int64 token ids. Where one is -100, both results are 0, without gradient; the
            kernel returns NaN for another one outside [0, V).
        temperature: the sampling temperature: the results are the sampler's own probabilities.
        softcap: c > 0 replaces each logit z of hidden W^T by c tanh(z / c); 0 means no cap.
        workspace_bytes: memory that the kernel's backward may use besides the gradients.

    Returns:
        logprobs (...) and entropy (...) in nats, float32 (float64 for float64 inputs), both
        differentiable.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes, devices or strides do not match, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"logprob_entropy: temperature is {temperature}; it must be positive")
    rows, ids = hidden.flatten(0, -2), targets.flatten()  # (N, H), (N,)
    if use_triton("logprob_entropy", hidden, torch.bfloat16):
        rows, ids = rows.contiguous(), ids.contiguous()
        check_head("logprob_entropy", rows, weight, ids)
        logprobs, entropy, _ = _forward(rows, weight, ids, temperature, softcap, workspace_bytes)
    else:
        compute = in_pytorch(reference.logprob_entropy, chunked_head.logprob_entropy)
        kept = ids != IGNORED
        outputs = compute(rows, weight, torch.where(kept, ids, 0), temperature, softcap)
        logprobs, entropy = (torch.where(kept, output, 0.0) for output in outputs)
    return logprobs.view(targets.shape), entropy.view(targets.shape)


@torch.library.custom_op("stepcoder::logprob_entropy", mutates_args=())
@on_its_device
def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    softcap: float,
    workspace_bytes: int,  # noqa: ARG001 (the backward's)
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and base-2 log normalizers, (N,)."""
    logprobs, entropy, log_normalizer = (
        hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3)
    )
    of_targets = target_logits(hidden, weight, targets, softcap)
    per_row = 12 * vocab_tiles(len(weight), hidden.device)
    for rows in chunks(len(hidden), per_row, PARTIALS_WORKSPACE):
        partials = launch_tiles(hidden[rows], weight, temperature, softcap)
        count = rows.stop - rows.start
        finish_rows[(-(-count // ROWS),)](
            *(partials, of_targets[rows], targets[rows]),
            *(logprobs[rows], entropy[rows], log_normalizer[rows]),
            *(count, partials.shape[1], LOG2_E / temperature),
            IGNORED=IGNORED,
            ROWS=ROWS,
            TILES=TILES,
        )
    return logprobs, entropy, log_normalizer


@_forward.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    like = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    return like, torch.empty_like(like), torch.empty_like(like)


@torch.library.custom_op("stepcoder::logprob_entropy_backward", mutates_args=())
@on_its_device
def _backward(
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    entropy: Tensor,
    log_normalizer: Tensor,
    temperature: float,
    softcap: float,
    workspace_bytes: int,
    hidden_wanted: bool,
    weight_wanted: bool,
) -> tuple[Tensor, Tensor]:
    pieces = gradient_chunks(len(hidden), len(weight), hidden.device, workspace_bytes)
    gradients = HeadGradients.empty(hidden, weight, (hidden_wanted, weight_wanted), len(pieces))
    workspace = Workspace.create(pieces, weight)
    kept = targets != IGNORED
    g, h = (
        torch.zeros_like(logprobs) if grad is None else torch.where(kept, grad, 0.0)
        for grad in (grad_logprobs, grad_entropy)
    )
    terms = torch.stack((log_normalizer, g, logprobs, h, entropy))
    for rows in pieces:
        exp_logits, references = workspace.view(rows), log_normalizer[rows]
        launch_tiles(hidden[rows], weight, temperature, softcap, exp_logits, references)
        row_terms = RowTerms(terms[:, rows].contiguous(), with_entropy=grad_entropy is not None)
        logits_grad, scale = d_logits(
            exp_logits, references, row_terms, targets[rows], temperature, softcap
        )
        gradients.add(rows, logits_grad, scale, hidden[rows], weight)
    return gradients.finish()


@_backward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    _, _, hidden, weight, *_, hidden_wanted, weight_wanted = inputs
    return HeadGradients.like(hidden, weight, (hidden_wanted, weight_wanted))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(hidden, weight, targets, *output)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    gradients = _backward(grad_logprobs, grad_entropy, *ctx.saved_tensors, *ctx.settings, *wanted)
    chosen = [g if wants else None for g, wants in zip(gradients, wanted, strict=True)]
    return (*chosen, *[None] * 4)


_forward.register_autograd(_differentiate, setup_context=_save)
