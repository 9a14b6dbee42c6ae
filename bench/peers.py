"""Peers of the LM head's kernels, each as a function to per-token log-probabilities.

Imported where they are installed; `load` raises with the reason otherwise, and the row is skipped.
PPO's policy loss on top is the reference's, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stepcoder.kernels import reference

Logprobs = Callable[[Tensor, Tensor, Tensor], Tensor]


def load(name: str) -> Logprobs:
    """Return a peer by name.

    Raises:
        ImportError: it is not installed, or this version of it lacks the operation.
    """
    return _LOADERS[name]()


def _naive() -> Logprobs:
    return lambda *head: reference.logprob_entropy(*head)[0]


def _compiled() -> Logprobs:
    return torch.compile(_naive())


def _torch_chunked() -> Logprobs:
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    return lambda hidden, weight, targets: (
        -F.linear_cross_entropy(hidden, weight, targets, reduction="none")
    )


def _liger_scaled() -> Logprobs:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as Function

    return lambda hidden, weight, targets: -Function.apply(hidden, weight, targets)


def _liger_linear() -> Logprobs:
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction as Function

    def logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return -Function.apply(hidden, weight, targets, None, None, -100, 0.0, 0.0, "none")[0]

    return logprobs


def _cut() -> Logprobs:
    from cut_cross_entropy import linear_cross_entropy

    return lambda hidden, weight, targets: (
        -linear_cross_entropy(hidden, weight, targets, reduction="none")
    )


_LOADERS: dict[str, Callable[[], Logprobs]] = {
    "naive": _naive,
    "torch.compile": _compiled,
    "torch chunked": _torch_chunked,
    "Liger scaled CE": _liger_scaled,
    "Liger linear CE": _liger_linear,
    "cut-cross-entropy": _cut,
}
NAMES = tuple(_LOADERS)


def liger_grpo(
    hidden: Tensor, weight: Tensor, targets: Tensor, old: Tensor, advantages: Tensor
) -> Tensor:
    """Liger's chunked GRPO loss, over 8 sequences, with one advantage a sequence.

    Raises:
        ImportError: Liger is not installed.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    rows = 8
    loss = LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False, loss_type="dapo")
    ids = targets.view(rows, -1)
    result: Tensor = loss(
        hidden.view(rows, ids.shape[1], -1),
        weight,
        ids,
        torch.ones_like(ids),
        advantages.view(rows, -1)[:, 0],
        old_per_token_logps=old.view(rows, -1),
    )[0]
    return result
