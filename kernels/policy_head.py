"""The LM head fused with PPO's policy loss: loss and gradients in three matrix products.

The definition is `reference.ppo_head`: loss = sum_i f(log p_i, entropy_i) / normalizer. A token's
d(loss)/d(logits) depends on its own row alone, so the forward pass can compute it together with the
loss. It goes over chunks of rows, and for each computes `exp_logits` (product 1), the loss and
d(logits), dX (product 2) and the chunk's share of dW (product 3). The backward pass only multiplies
by the gradient of the loss that it is given. Where no gradient is wanted, only product 1 is done
and `exp_logits` are not stored.

A row's `exp_logits` are stored against k = log normalizer + log ratio, which is known beforehand:
the target's logit minus its old log-probability. A row whose ratio is not within 2^-LARGEST and
2^LARGEST gets no gradient.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from stepcoder.kernels import chunked_head, reference
from stepcoder.kernels.dispatch import (
    as_scalar,
    check_head,
    check_normalizer,
    check_tokens,
    in_pytorch,
    on_its_device,
    use_triton,
)
from stepcoder.kernels.language import Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.lm_head import (
    LARGEST,
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
from stepcoder.kernels.logprob import PARTIALS_WORKSPACE
from stepcoder.kernels.reference import (
    IGNORED,
    ClipRange,
    HeadStatistics,
    HeadTokens,
    KLEstimator,
    clip_range,
)
from stepcoder.kernels.scale import scale_
from stepcoder.kernels.surrogate import SLOTS, finish, policy_terms, store_sums

LOW_MEMORY = 320 << 20  # bytes: the smallest workspace with which large heads still run well
ROWS, TILES = 32, 32  # block shape of ppo_rows


@jit(do_not_specialize=["N", "programs"])
def ppo_rows(
    partials: Pointer,
    target_logits: Pointer,
    targets: Pointer,
    references: Pointer,  # (N,) float32, of exp_logits
    old_logprobs: Pointer,
    advantages: Pointer,
    importance: Pointer,
    ref_logprobs: Pointer,  # unused unless ESTIMATOR
    normalizer: Pointer,  # () float32
    row_terms: Pointer,  # (5, N) float32: lm_head_backward.RowTerms
    sums: Pointer,  # (8, programs) float32, at this chunk's first program
    programs: Scalar,  # of all chunks
    N: Scalar,
    vocab_blocks: Scalar,
    scale: Scalar,
    clip_low: Scalar,
    clip_high: Scalar,
    dual_clip: Scalar,
    entropy_bonus: Scalar,
    kl_beta: Scalar,
    ESTIMATOR: constexpr,
    IGNORED: constexpr,
    LARGEST: constexpr,
    ROWS: constexpr,
    TILES: constexpr,
) -> None:
    """Compute loss terms and gradient terms of a chunk; one program for each ROWS rows."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < N
    logprob, entropy, log_normalizer = row_statistics(
        partials, target_logits, rows, N, vocab_blocks, scale, TILES
    )
    kept = valid & (tl.load(targets + rows, mask=valid, other=0) != IGNORED)
    logprob = tl.where(kept, logprob, 0.0)
    entropy = tl.where(kept, entropy, 0.0)
    inverse_normalizer = 1 / tl.load(normalizer)
    old = tl.load(old_logprobs + rows, mask=valid, other=0.0)
    advantage = tl.load(advantages + rows, mask=valid, other=0.0)
    weight = tl.load(importance + rows, mask=valid, other=0.0)
    ref = logprob
    if ESTIMATOR:
        ref = tl.load(ref_logprobs + rows, mask=valid, other=0.0)
    loss, derivative, ratio, is_clipped, approx_kl, reference_kl = policy_terms(
        logprob, old, advantage, weight, ref, clip_low, clip_high, dual_clip, kl_beta, ESTIMATOR
    )
    loss -= entropy_bonus * entropy
    k = tl.load(references + rows, mask=valid, other=0.0)
    trained = kept & ~(tl.abs(log_normalizer - k) > LARGEST)
    derivative = tl.where(trained, derivative * inverse_normalizer, 0.0)
    entropy_derivative = tl.where(trained, -entropy_bonus * inverse_normalizer, 0.0)
    tl.store(row_terms + rows, log_normalizer, mask=valid)
    tl.store(row_terms + N + rows, derivative, mask=valid)
    tl.store(row_terms + 2 * N + rows, logprob, mask=valid)
    tl.store(row_terms + 3 * N + rows, entropy_derivative, mask=valid)
    tl.store(row_terms + 4 * N + rows, entropy, mask=valid)
    program = tl.program_id(0)
    store_sums(
        sums, program, programs, kept, loss, ratio, is_clipped, approx_kl, entropy, reference_kl
    )


@jit(do_not_specialize=["programs"])
def finish_head(
    sums: Pointer,
    programs: Scalar,
    policy_loss: Pointer,
    statistics: Pointer,
    normalizer: Pointer,
    BLOCK: constexpr,
) -> None:
    """Reduce the sums of all chunks to the loss and the statistics, in one program."""
    inverse = 1 / tl.load(normalizer)
    finish(
        *(sums, programs, policy_loss, statistics, policy_loss, inverse, inverse),
        *(True, False, BLOCK, ""),
    )


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
    workspace_bytes: int = DEFAULT_WORKSPACE,
) -> tuple[Tensor, HeadStatistics, HeadTokens]:
    """Clipped PPO policy loss of tokens from their hidden states and the LM head.

        loss, statistics, tokens = ppo_head(
            hidden, lm_head.weight, labels, old_logprobs, advantages,
            importance=torch.ones_like(advantages), normalizer=(labels != -100).sum().float(),
            clip=0.2,
        )

    The forward pass computes the gradients, and they can be taken once: a second backward through
    the same loss raises PyTorch's error about tensors modified in place, unless the gradient given
    to the first was 1.

    Args:
        hidden: (..., H) states that predict the targets: (N, H) packed rows, or (B, T, H). Best are
            rows of the trained tokens alone, as FGO (fine-grained optimization, arXiv 2402.01391)
            masks tokens here: a row that is there is multiplied, masked or not. For the kernel,
            bfloat16 and H a multiple of 16.
        weight: (V, H) LM head, of the same dtype.
        targets: (...) int64 token ids; -100 masks its row.
        old_logprobs: (...) float32 under the policy that the advantages were computed for.
        advantages: (...) float32.
        importance: (...) float32 truncated importance weights that correct for the mismatch between
            inference engine and trainer, 1 for none.
        normalizer: the number of trained tokens of the whole minibatch (not of this microbatch); as
            a () float32 tensor on the device it costs no wait and no compilation of its own.
        clip: PPO's epsilon, or a range with its further numbers.
        entropy_bonus: coefficient of the entropy term.
        temperature: the sampling temperature.
        softcap: c > 0 replaces each logit z by c tanh(z / c); 0 means no cap.
        ref_logprobs: (...) float32 under the reference policy; None means no KL term.
        kl_beta: coefficient of the KL term.
        kl_estimator: k1, k2 or k3 (see reference.ppo_policy_loss).
        workspace_bytes: memory that the kernel may use besides dX and dW; LOW_MEMORY is the
            smallest useful value for large vocabularies. Where it means several chunks of rows, dW
            is summed over them in float32, which takes twice its own memory besides.

    Returns:
        The scalar loss, differentiable by hidden and weight, and detached: statistics, and the
        tokens' log-probabilities and entropies.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes, devices or strides do not match, the estimator is unknown, the
            temperature or normalizer is not positive, or kl_beta has no ref_logprobs.
    """
    if not temperature > 0:
        raise ValueError(f"ppo_head: temperature is {temperature}; it must be positive")
    if kl_estimator not in get_args(KLEstimator):
        raise ValueError(f"ppo_head: kl_estimator is {kl_estimator!r}; it takes k1, k2 or k3")
    if kl_beta and ref_logprobs is None:
        raise ValueError(f"ppo_head: kl_beta is {kl_beta}; it needs ref_logprobs")
    check_normalizer("ppo_head", normalizer)
    ids, rows = targets.flatten(), hidden.flatten(0, -2)  # (N,), (N, H)
    by_token = [
        None if t is None else t.flatten()
        for t in (old_logprobs, advantages, importance, ref_logprobs)
    ]
    if not use_triton("ppo_head", hidden, torch.bfloat16):
        kept = ids != IGNORED
        *by_token, ref = (None if t is None else t[kept] for t in by_token)
        compute: Any = in_pytorch(reference.ppo_head, chunked_head.ppo_head)
        loss, statistics, found = compute(
            *(rows[kept], weight, ids[kept], *by_token),
            *(normalizer, clip, entropy_bonus, temperature, softcap, ref, kl_beta, kl_estimator),
        )
        tokens = [t.new_zeros(len(ids)).masked_scatter(kept, t) for t in found]
    else:
        named = {"old_logprobs": old_logprobs, "advantages": advantages, "importance": importance}
        if ref_logprobs is not None:
            named["ref_logprobs"] = ref_logprobs
        rows, ids = rows.contiguous(), ids.contiguous()
        check_head("ppo_head", rows, weight, ids)
        check_tokens("ppo_head", hidden.device, targets.shape, **named)
        loss, sums, tokens, _, _ = _forward(
            *(rows, weight, ids, *(None if t is None else t.contiguous() for t in by_token)),
            as_scalar(normalizer, hidden.device),
            *(*clip_range(clip), entropy_bonus, temperature, softcap, kl_beta),
            0 if ref_logprobs is None else int(kl_estimator[1]),
            workspace_bytes,
            *(torch.is_grad_enabled() and t.requires_grad for t in (hidden, weight)),
        )
        statistics = HeadStatistics(*sums.unbind())
    return loss, statistics, HeadTokens(*(t.view(targets.shape) for t in tokens))


@torch.library.custom_op("stepcoder::ppo_head", mutates_args=())
@on_its_device
def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    ref_logprobs: Tensor | None,
    normalizer: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
    entropy_bonus: float,
    temperature: float,
    softcap: float,
    kl_beta: float,
    estimator: int,
    workspace_bytes: int,
    hidden_wanted: bool,
    weight_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss (), statistics (6,), tokens (2, N), dX and dW (empty where not wanted)."""
    vocab, device = len(weight), hidden.device
    workspace = None
    if hidden_wanted or weight_wanted:
        pieces = gradient_chunks(len(hidden), vocab, device, workspace_bytes)
        workspace = Workspace.create(pieces, weight)
    else:
        pieces = list(chunks(len(hidden), 12 * vocab_tiles(vocab, device), PARTIALS_WORKSPACE))
    wanted = (hidden_wanted, weight_wanted)
    gradients = HeadGradients.empty(hidden, weight, wanted, len(pieces))
    tokens = hidden.new_empty(2, len(hidden), dtype=torch.float32)
    programs = -(-len(hidden) // ROWS)  # of all chunks: each but the last is a multiple of ROWS
    sums = hidden.new_empty(len(SLOTS), max(programs, 1), dtype=torch.float32)
    of_targets = target_logits(hidden, weight, targets, softcap)
    # A masked row has no target's logit; any reference will do there.
    references = (LOG2_E * (of_targets / temperature - old_logprobs)).nan_to_num_()
    for rows in pieces:
        exp_logits, k = (workspace.view(rows), references[rows]) if workspace else (None, None)
        partials = launch_tiles(hidden[rows], weight, temperature, softcap, exp_logits, k)
        count = rows.stop - rows.start
        terms = RowTerms(hidden.new_empty(5, count, dtype=torch.float32), bool(entropy_bonus))
        ppo_rows[(-(-count // ROWS),)](
            partials,
            of_targets[rows],
            targets[rows],
            references[rows],
            old_logprobs[rows],
            advantages[rows],
            importance[rows],
            (importance if ref_logprobs is None else ref_logprobs)[rows],
            normalizer,
            terms.tensor,
            sums[:, rows.start // ROWS :],
            programs,
            count,
            partials.shape[1],
            LOG2_E / temperature,
            clip_low,
            clip_high,
            dual_clip,
            entropy_bonus,
            kl_beta,
            ESTIMATOR=estimator,
            IGNORED=IGNORED,
            LARGEST=LARGEST,
            ROWS=ROWS,
            TILES=TILES,
        )
        tokens[:, rows] = terms.tensor[2::2]
        if workspace:
            logits_grad, factor = d_logits(
                workspace.view(rows), references[rows], terms, targets[rows], temperature, softcap
            )
            gradients.add(rows, logits_grad, factor, hidden[rows], weight)
    loss = hidden.new_empty((), dtype=torch.float32)
    statistics = hidden.new_empty(6, dtype=torch.float32)
    finish_head[(1,)](sums, programs, loss, statistics, normalizer, BLOCK=1024)
    return loss, statistics, tokens, *gradients.finish()


@_forward.register_fake
def _(hidden: Tensor, weight: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    shapes = ((), (6,), (2, hidden.shape[0]))
    outputs = [hidden.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return *outputs, *HeadGradients.like(hidden, weight, settings[-2:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    _, statistics, tokens, hidden_grad, weight_grad = output
    ctx.mark_non_differentiable(statistics, tokens, hidden_grad, weight_grad)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden_grad, weight_grad)


def _differentiate(ctx: Any, factor: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None, None]
    for place, gradient in enumerate(ctx.saved_tensors):
        if factor is not None and ctx.needs_input_grad[place]:
            scale_(gradient, factor, factor, 0)
            gradients[place] = gradient
    return (*gradients, *[None] * 17)


_forward.register_autograd(_differentiate, setup_context=_save)
