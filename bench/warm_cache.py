"""Compiles the kernels that the benchmarks run, in parallel: python bench/warm_cache.py on a GPU.

Triton compiles a kernel at its first call, seconds each, on one core. Here each process makes the
first call of one operation; later processes find the binaries in Triton's cache.
"""

from __future__ import annotations

import multiprocessing
import sys
import traceback

import measure
import torch

from stepcoder.kernels import gae, gae_with_statistics, logprob_entropy, ppo_head, ppo_loss


def head(aligned: bool, with_gradient: bool) -> None:
    """The LM head for a vocabulary that is a multiple of 16, or is not."""
    hidden = torch.randn(32, 64, device=measure.DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(160 if aligned else 131, 64, device=measure.DEVICE, dtype=torch.bfloat16)
    targets, tokens = torch.zeros(32, device=measure.DEVICE).long(), hidden[:, 0].float()
    if with_gradient:
        loss, *_ = ppo_head(
            hidden.requires_grad_(), weight.requires_grad_(), targets, *[tokens] * 3, 32.0, 0.2
        )
        loss.backward()
    else:
        with torch.no_grad():
            logprob_entropy(hidden, weight, targets)


def per_token() -> None:
    """GAE and the losses."""
    from test_tokens import gae_inputs, loss_inputs, loss_run

    inputs = gae_inputs([16] * 4, measure.DEVICE)
    gae(*inputs)
    gae_with_statistics(*inputs)
    loss_run(ppo_loss, loss_inputs(64, measure.DEVICE))()


TASKS = {
    "logprob": (head, True, False),
    "logprob, odd V": (head, False, False),
    "ppo_head": (head, True, True),
    "ppo_head, odd V": (head, False, True),
    "per token": (per_token,),
}


def run(name: str) -> None:
    """Run one task; a failure is printed and is this process's alone."""
    function, *arguments = TASKS[name]
    try:
        function(*arguments)
        if not measure.DRY:
            torch.cuda.synchronize()
        print(f"{name}: compiled", flush=True)
    except Exception:
        print(f"{name}:\n{traceback.format_exc()}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run, args=(name,)) for name in TASKS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
