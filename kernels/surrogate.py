"""PPO's clipped surrogate inside Triton kernels: a token's loss, derivative and statistics.

The definition is `reference.ppo_policy_loss`. Two kernels call these functions: `ppo_head` between
the LM head's product and its gradient, `ppo_loss` on log-probabilities computed before.
"""

from __future__ import annotations

from stepcoder.kernels.language import Block, Pointer, Scalar, constexpr, jit, tl

# What each program writes of its tokens, one float32 each, in this order: sums, then the smallest
# and the largest ratio.
SLOTS = (
    "policy_loss",
    "value_loss",
    "clipped",
    "approx_kl",
    "entropy",
    "reference_kl",
    "min",
    "max",
)


@jit()
def exp_excess(x: Block) -> Block:
    """exp(x) - 1 - x, by its series where x is small and the subtraction would cancel."""
    series = x * x * (0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120))))
    return tl.where(tl.abs(x) < 0.125, series, tl.exp(x) - 1 - x)


@jit()
def policy_terms(
    logprob: Block,
    old_logprob: Block,
    advantage: Block,
    importance: Block,
    ref_logprob: Block,
    clip_low: Scalar,
    clip_high: Scalar,
    dual_clip: Scalar,
    kl_beta: Scalar,
    ESTIMATOR: constexpr,  # 0: no KL term; 1, 2, 3: k1, k2, k3
) -> Block:
    """Compute the terms of a block of tokens, each of the inputs' shape.

    Returns:
        The loss and its derivative by logprob (neither divided by the normalizer), the ratio, a
        bool that says where the ratio is clipped (the gradient is zero there), the k3
        estimate of the KL divergence from the old policy, and the estimate against the reference.
    """
    log_ratio = logprob - old_logprob
    ratio = tl.exp(log_ratio)
    gains = advantage > 0  # where only the upper bound clips; where not, the lower and the dual one
    clipped_ratio = tl.maximum(ratio, tl.where(gains, 0.0, 1 - clip_low))
    clipped_ratio = tl.minimum(clipped_ratio, tl.where(gains, 1 + clip_high, dual_clip))
    is_clipped = (clipped_ratio != ratio) & (advantage != 0)
    loss = -importance * clipped_ratio * advantage
    derivative = tl.where(is_clipped, 0.0, loss)
    reference_kl = tl.zeros_like(loss)
    if ESTIMATOR:
        d = ref_logprob - logprob
        if ESTIMATOR == 1:
            reference_kl = -d
            kl_derivative = tl.full(d.shape, 1.0, tl.float32)
        elif ESTIMATOR == 2:
            reference_kl = d * d * 0.5
            kl_derivative = -d
        else:
            reference_kl = exp_excess(d)
            kl_derivative = -(reference_kl + d)
        loss += kl_beta * reference_kl
        derivative += kl_beta * kl_derivative
    return loss, derivative, ratio, is_clipped, exp_excess(log_ratio), reference_kl


@jit()
def store_sums(
    sums: Pointer,  # (8, programs) float32
    program: Scalar,
    programs: Scalar,
    valid: Block,
    loss: Block,
    ratio: Block,
    is_clipped: Block,
    approx_kl: Block,
    entropy: Block,
    reference_kl: Block,
) -> None:
    """Write what a program contributes to the slots of the policy loss."""
    here = sums + program
    tl.store(here, tl.sum(tl.where(valid, loss, 0.0)))
    tl.store(here + 2 * programs, tl.sum(tl.where(valid & is_clipped, 1.0, 0.0)))
    tl.store(here + 3 * programs, tl.sum(tl.where(valid, approx_kl, 0.0)))
    tl.store(here + 4 * programs, tl.sum(tl.where(valid, entropy, 0.0)))
    tl.store(here + 5 * programs, tl.sum(tl.where(valid, reference_kl, 0.0)))
    tl.store(here + 6 * programs, tl.min(tl.where(valid, ratio, float("inf"))))
    tl.store(here + 7 * programs, tl.max(tl.where(valid, ratio, float("-inf"))))


@jit()
def finish(
    sums: Pointer,  # (8, programs) float32
    programs: Scalar,
    policy_loss: Pointer,  # () float32, unused unless POLICY
    statistics: Pointer,  # (6,) float32, in HeadStatistics' order, unused unless POLICY
    value_loss: Pointer,  # () float32, unused unless VALUE
    inverse_policy_normalizer: Scalar,
    inverse_value_normalizer: Scalar,
    POLICY: constexpr,
    VALUE: constexpr,
    BLOCK: constexpr,
    CACHE: constexpr,
) -> None:
    """Reduce the slots of all programs to losses and statistics, in one pass over them.

    Always in the same order: results repeat bit for bit. CACHE is the loads' cache modifier: ".cg"
    where the same launch wrote the sums.
    """
    slot = tl.arange(0, 8)[:, None]
    is_sum, is_min = slot < 6, slot == 6
    written = tl.where(slot == 1, VALUE, POLICY)  # memory that no program wrote is not read
    start = tl.where(is_sum, 0.0, tl.where(is_min, float("inf"), float("-inf")))
    folded = tl.zeros((8, BLOCK), tl.float32) + start
    for first in range(0, programs, BLOCK):
        column = first + tl.arange(0, BLOCK)[None, :]
        pointers = sums + slot * programs + column
        there = written & (column < programs)
        part = tl.load(pointers, mask=there, other=start, cache_modifier=CACHE)
        extreme = tl.where(is_min, tl.minimum(folded, part), tl.maximum(folded, part))
        folded = tl.where(is_sum, folded + part, extreme)
    slot, is_sum, is_min = tl.arange(0, 8), tl.arange(0, 8) < 6, tl.arange(0, 8) == 6
    extremes = tl.where(is_min, tl.min(folded, 1), tl.max(folded, 1))
    total = tl.where(is_sum, tl.sum(folded, 1), extremes)  # (8,)
    if POLICY:
        loss = tl.sum(tl.where(slot == 0, total, 0.0))
        tl.store(policy_loss, loss * inverse_policy_normalizer)
        smallest = tl.sum(tl.where(is_min, total, 0.0))
        largest = tl.sum(tl.where(slot == 7, total, 0.0))
        of_none = tl.where(slot < 6, total, 1.0)
        total = tl.where(largest < smallest, of_none, total)
        place = tl.where(slot < 5, slot - 2, tl.where(slot == 5, 5, slot - 3))
        tl.store(statistics + place, total, mask=slot >= 2)
    if VALUE:
        loss = tl.sum(tl.where(slot == 1, total, 0.0))
        tl.store(value_loss, loss * inverse_value_normalizer)
