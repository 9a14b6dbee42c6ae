"""PPO's policy and value losses from log-probabilities and values, in one launch each way.

The definitions are `reference.ppo_policy_loss`, `reference.value_loss` and, for both under their
masks, `reference.ppo_loss`. The forward launch writes each token's gradient while it sums the loss,
and its last program to finish reduces the sums of all. The backward launch multiplies the gradients
by those of the losses, and does nothing where they are 1.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from stepcoder.kernels import reference
from stepcoder.kernels.dispatch import (
    arrival_counter,
    as_scalar,
    check_normalizer,
    check_tokens,
    on_its_device,
    use_triton,
)
from stepcoder.kernels.language import Pointer, Scalar, constexpr, jit, tl
from stepcoder.kernels.reference import ClipRange, HeadStatistics, KLEstimator, clip_range
from stepcoder.kernels.scale import scale_
from stepcoder.kernels.surrogate import SLOTS, finish, policy_terms, store_sums

BLOCK = 1024  # tokens that a program computes


@jit()
def ppo_loss_tokens(
    logprobs: Pointer,
    entropy: Pointer,
    old_logprobs: Pointer,
    advantages: Pointer,
    importance: Pointer,
    ref_logprobs: Pointer,
    executed_mask: Pointer,
    values: Pointer,
    old_values: Pointer,
    returns: Pointer,
    response_mask: Pointer,
    policy_normalizer: Pointer,  # () float32
    value_normalizer: Pointer,  # () float32
    gradients: Pointer,  # (3, T) float32: by logprobs, by entropy, by values
    policy_loss: Pointer,  # () float32
    value_loss: Pointer,  # () float32
    statistics: Pointer,  # (6,) float32
    sums: Pointer,  # (8, programs) float32
    arrivals: Pointer,  # () int32, zero before and after
    T: Scalar,
    clip_low: Scalar,
    clip_high: Scalar,
    dual_clip: Scalar,
    value_clip: Scalar,
    entropy_bonus: Scalar,
    kl_beta: Scalar,
    POLICY: constexpr,
    VALUE: constexpr,
    MASKED: constexpr,  # False: every token counts, and the mask pointers are unused
    ESTIMATOR: constexpr,
    BLOCK: constexpr,
    FOLD: constexpr,
) -> None:
    """Compute the losses that POLICY and VALUE ask for; one program for each BLOCK tokens.

    The pointers of a loss that is not asked for are unused. Tokens outside the masks are loaded and
    then left out: loads that depend on a mask in memory would not be vectorized.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    tokens = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < T
    inverse_policy_normalizer = 1 / tl.load(policy_normalizer)
    inverse_value_normalizer = 1 / tl.load(value_normalizer)
    if POLICY:
        valid = inside
        if MASKED:
            valid = inside & (tl.load(executed_mask + tokens, mask=inside, other=0) != 0)
        logprob = tl.load(logprobs + tokens, mask=inside, other=0.0)
        row_entropy = tl.load(entropy + tokens, mask=inside, other=0.0)
        old = tl.load(old_logprobs + tokens, mask=inside, other=0.0)
        advantage = tl.load(advantages + tokens, mask=inside, other=0.0)
        weight = tl.load(importance + tokens, mask=inside, other=0.0)
        ref = logprob
        if ESTIMATOR:
            ref = tl.load(ref_logprobs + tokens, mask=inside, other=0.0)
        loss, derivative, ratio, is_clipped, approx_kl, reference_kl = policy_terms(
            logprob, old, advantage, weight, ref, clip_low, clip_high, dual_clip, kl_beta, ESTIMATOR
        )
        loss -= entropy_bonus * row_entropy
        derivative = tl.where(valid, derivative * inverse_policy_normalizer, 0.0)
        by_entropy = tl.where(valid, -entropy_bonus * inverse_policy_normalizer, 0.0)
        tl.store(gradients + tokens, derivative, mask=inside)
        tl.store(gradients + T + tokens, by_entropy, mask=inside)
        store_sums(
            sums,
            program,
            programs,
            valid,
            loss,
            ratio,
            is_clipped,
            approx_kl,
            row_entropy,
            reference_kl,
        )
    if VALUE:
        valid = inside
        if MASKED:
            valid = inside & (tl.load(response_mask + tokens, mask=inside, other=0) != 0)
        value = tl.load(values + tokens, mask=inside, other=0.0)
        old = tl.load(old_values + tokens, mask=inside, other=0.0)
        wanted = tl.load(returns + tokens, mask=inside, other=0.0)
        clipped_value = old + tl.minimum(tl.maximum(value - old, -value_clip), value_clip)
        unclipped_error = value - wanted
        clipped_error = clipped_value - wanted
        is_clipped = clipped_error * clipped_error > unclipped_error * unclipped_error
        error = tl.where(is_clipped, clipped_error, unclipped_error)
        # The clipped value depends on the value only inside the bounds: outside, its gradient is 0.
        derivative = tl.where(is_clipped & (tl.abs(value - old) > value_clip), 0.0, error)
        derivative = tl.where(valid, derivative * inverse_value_normalizer, 0.0)
        tl.store(gradients + T + T + tokens, derivative, mask=inside)
        tl.store(sums + programs + program, tl.sum(tl.where(valid, 0.5 * error * error, 0.0)))

    tl.debug_barrier()  # all threads have written their sums before the counter is incremented
    if tl.atomic_add(arrivals, 1, sem="acq_rel") == programs - 1:
        finish(
            sums,
            programs,
            policy_loss,
            statistics,
            value_loss,
            inverse_policy_normalizer,
            inverse_value_normalizer,
            POLICY,
            VALUE,
            FOLD,
            ".cg",
        )
        tl.store(arrivals, 0)


def ppo_policy_loss(
    logprobs: Tensor,
    entropy: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    normalizer: float | Tensor,
    clip: float | ClipRange,
    entropy_bonus: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, HeadStatistics]:
    """Clipped PPO policy loss over N trained tokens; see `reference.ppo_policy_loss`.

    All tensors are (N,), float32 for the kernel; logprobs and entropy carry the gradient.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes or devices do not match, or the estimator is unknown.
    """
    if not use_triton("ppo_loss", logprobs, torch.float32):
        return reference.ppo_policy_loss(
            *(logprobs, entropy, old_logprobs, advantages, importance),
            *(normalizer, clip, entropy_bonus),
            *(ref_logprobs, kl_beta, kl_estimator),
        )
    policy = _policy(logprobs, entropy, old_logprobs, advantages, importance, ref_logprobs)
    settings = (*clip_range(clip), 0.0, entropy_bonus, kl_beta)
    normalizers = (normalizer, normalizer)
    loss, _, statistics = _launch(policy, None, None, normalizers, settings, kl_estimator)
    return loss, statistics


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, normalizer: float | Tensor, clip: float
) -> Tensor:
    """Clipped value loss over N tokens; see `reference.value_loss`.

    All tensors are (N,), float32 for the kernel; values carry the gradient.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes or devices do not match.
    """
    if not use_triton("value_loss", values, torch.float32):
        return reference.value_loss(values, old_values, returns, normalizer, clip)
    value = {"values": values, "old_values": old_values, "returns": returns}
    settings = (*clip_range(0.0), clip, 0.0, 0.0)
    return _launch(None, value, None, (normalizer, normalizer), settings, "k3")[1]


def ppo_loss(
    logprobs: Tensor,
    entropy: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    importance: Tensor,
    executed_mask: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    policy_normalizer: float | Tensor,
    value_normalizer: float | Tensor,
    clip: float | ClipRange,
    value_clip: float,
    entropy_bonus: float = 0.0,
    ref_logprobs: Tensor | None = None,
    kl_beta: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> tuple[Tensor, Tensor, HeadStatistics]:
    """Both losses over all T packed tokens, each under its own mask; see `reference.ppo_loss`.

    All tensors are (T,), float32 for the kernel (masks bool); logprobs, entropy and values carry
    the gradient.

    Raises:
        TypeError: the kernel does not take a dtype.
        ValueError: shapes or devices do not match, or the estimator is unknown.
    """
    if not use_triton("ppo_loss", logprobs, torch.float32):
        return reference.ppo_loss(
            *(logprobs, entropy, old_logprobs, advantages, importance, executed_mask),
            *(values, old_values, returns, response_mask),
            policy_normalizer,
            value_normalizer,
            clip,
            value_clip,
            entropy_bonus,
            ref_logprobs,
            kl_beta,
            kl_estimator,
        )
    return _launch(
        _policy(logprobs, entropy, old_logprobs, advantages, importance, ref_logprobs),
        {"values": values, "old_values": old_values, "returns": returns},
        {"executed_mask": executed_mask, "response_mask": response_mask},
        (policy_normalizer, value_normalizer),
        (*clip_range(clip), value_clip, entropy_bonus, kl_beta),
        kl_estimator,
    )


LOSS_TENSORS = ("logprobs", "entropy", "old_logprobs", "advantages", "importance")
POLICY_TENSORS = (*LOSS_TENSORS, "ref_logprobs")
TENSORS = (*POLICY_TENSORS, "executed_mask", "values", "old_values", "returns", "response_mask")


def _policy(*tensors: Tensor | None) -> dict[str, Tensor]:
    named = zip(POLICY_TENSORS, tensors, strict=True)
    return {name: tensor for name, tensor in named if tensor is not None}


def _launch(
    policy: dict[str, Tensor] | None,
    value: dict[str, Tensor] | None,
    masks: dict[str, Tensor] | None,
    normalizers: tuple[float | Tensor, float | Tensor],
    settings: tuple[float, ...],
    kl_estimator: str,
) -> tuple[Tensor, Tensor, HeadStatistics]:
    """Check the named inputs and pass them to the custom operator in its order."""
    if kl_estimator not in get_args(KLEstimator):
        raise ValueError(f"kl_estimator is {kl_estimator!r}; it takes k1, k2 or k3")
    tensors = (policy or {}) | (value or {}) | (masks or {})
    like = next(iter(tensors.values()))
    check_tokens("ppo_loss", like.device, like.shape, **tensors)
    estimator = int(kl_estimator[1]) if "ref_logprobs" in tensors else 0
    if settings[-1] and not estimator:
        raise ValueError(f"ppo_loss: kl_beta is {settings[-1]}; it needs ref_logprobs")
    for normalizer in normalizers:
        check_normalizer("ppo_loss", normalizer)
    contiguous = [tensors[n].contiguous() if n in tensors else None for n in TENSORS]
    # One of the losses alone has one normalizer, which stands for both.
    scalars = [as_scalar(normalizer, like.device) for normalizer in dict.fromkeys(normalizers)]
    given = (*contiguous, scalars[0], scalars[-1], *settings, estimator)
    policy_loss, value_loss_, statistics, _ = _forward(*given)
    return policy_loss, value_loss_, HeadStatistics(*statistics.unbind())


@torch.library.custom_op("stepcoder::ppo_loss", mutates_args=())
@on_its_device
def _forward(
    logprobs: Tensor | None,
    entropy: Tensor | None,
    old_logprobs: Tensor | None,
    advantages: Tensor | None,
    importance: Tensor | None,
    ref_logprobs: Tensor | None,
    executed_mask: Tensor | None,
    values: Tensor | None,
    old_values: Tensor | None,
    returns: Tensor | None,
    response_mask: Tensor | None,
    policy_normalizer: Tensor,
    value_normalizer: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
    value_clip: float,
    entropy_bonus: float,
    kl_beta: float,
    estimator: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Policy loss (), value loss (), statistics (6,), gradients (3, T)."""
    like = values if logprobs is None else logprobs
    assert like is not None
    outputs = _outputs(like)
    policy_loss, value_loss_, statistics, gradients = outputs
    programs = max(-(-len(like) // BLOCK), 1)
    sums = like.new_empty(len(SLOTS), programs)
    policy = (logprobs, entropy, old_logprobs, advantages, importance, ref_logprobs)
    value = (values, old_values, returns, response_mask)
    ppo_loss_tokens[(programs,)](
        *[like if tensor is None else tensor for tensor in (*policy, executed_mask, *value)],
        policy_normalizer,
        value_normalizer,
        gradients,
        policy_loss,
        value_loss_,
        statistics,
        sums,
        arrival_counter(like.device),
        len(like),
        clip_low,
        clip_high,
        dual_clip,
        value_clip,
        entropy_bonus,
        kl_beta,
        POLICY=logprobs is not None,
        VALUE=values is not None,
        MASKED=executed_mask is not None,
        ESTIMATOR=estimator,
        BLOCK=BLOCK,
        FOLD=1024,
    )
    return outputs


@_forward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(next(tensor for tensor in inputs if tensor is not None))


def _outputs(like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return like.new_empty(()), like.new_empty(()), like.new_empty(6), like.new_empty(3, len(like))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    _, _, statistics, gradients = output
    ctx.mark_non_differentiable(statistics, gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradients)


def _differentiate(
    ctx: Any, policy_factor: Tensor | None, value_factor: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    (gradients,) = ctx.saved_tensors
    result: list[Tensor | None] = [None] * 20
    first = value_factor if policy_factor is None else policy_factor
    second = policy_factor if value_factor is None else value_factor
    if first is not None and second is not None:
        scale_(gradients, first, second, 2 * gradients.shape[1])
        # The arguments of _forward that carry a gradient: logprobs, entropy and values.
        inputs = (policy_factor, 0), (policy_factor, 1), (value_factor, 7)
        for row, (factor, place) in enumerate(inputs):
            if factor is not None and ctx.needs_input_grad[place]:
                result[place] = gradients[row]
    return tuple(result)


_forward.register_autograd(_differentiate, setup_context=_save)
