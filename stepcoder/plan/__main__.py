"""`python -m stepcoder.plan MODEL`: what a run will take of memory, before it is started.

Takes a model's config.json and the options of a run; prints an account by phase.

The models are built without weights (on PyTorch's meta device) by the code that builds a run's, and
microbatches of the longest prompts and completions go through the update, forward and backward,
while the tensors that are alive are added up. Shapes decide all of it: no family has a formula.

what the account holds:
  always      weights (LoRA: the base once), float32 masters, the optimizers' states, the reference,
              the copy of the transformers engine; with vLLM on a CPU its server
  generate    the KV cache of rollout.group_size completions; with vLLM on a GPU its share
  score       a microbatch without gradient; an offloaded reference
  update      gradients, what a microbatch keeps for its backward pass, and the most that the LM
              head, a layer's backward pass or the optimizer's step needs besides
It leaves out the interpreter with its libraries (0.6 GiB of a CPU's memory) and what an allocator
wastes. Rows are as long as prompt.max_prompt_tokens and rollout.max_new_tokens allow. With --gpus
it is that of each of so many processes of torchrun, whose engine is elsewhere.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stepcoder import command
from stepcoder.config import load_config
from stepcoder.errors import RunError
from stepcoder.options import ConfigError

if TYPE_CHECKING:
    from stepcoder.plan.account import Account

EPILOG = command.for_users(__doc__)
# What saves memory, from what costs the least to what changes the training.
SAVINGS = (
    "model.checkpointing=true",
    "model.offload_reference=true",
    "ppo.tokens_per_microbatch=4096",
    "rollout.group_size=16",
    "rollout.memory_share=0.25",
    "model.critic=head",
    "model.lora_rank=16",
)


def arguments_of(argv: Sequence[str] | None) -> Namespace:
    """Read the command line; leaves with one line if it is wrong."""
    about = "Say what a run will take of memory, in GiB by phase, from a model's config.json."
    parser = command.Parser("stepcoder.plan", about, EPILOG)
    parser.add_argument("model", metavar="MODEL", help="folder or hub id, as model.path takes it")
    parser.add_argument("--config", metavar="FILE", type=Path, help="options of the run, as train")
    parser.add_argument("--memory", metavar="GB", type=float, help="of the device (10^9 bytes)")
    parser.add_argument("--gpus", metavar="N", type=int, default=1, help="of torchrun's processes")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="as train")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.memory is not None and not arguments.memory > 0:
        parser.error(f"--memory is {arguments.memory:g}; it must be above 0")
    if arguments.gpus < 1:
        parser.error(f"--gpus is {arguments.gpus}; it must be at least 1")
    return arguments


def table_of(account: Account) -> str:
    """Return the account as a table, in GiB."""
    lines = [f"{'GiB':42}{'always':>9}" + "".join(f"{name:>10}" for name in account.sums)]
    columns = (account.always, account.generate, account.score, account.update)
    for place, parts in enumerate(columns):
        for name, size in parts.items():
            if size:
                lines.append(
                    f"{name:42}" + " " * (10 * place - (place > 0)) + f"{size / 2**30:9.2f}"
                )
    always = sum(account.always.values()) / 2**30
    sums = "".join(f"{size / 2**30:10.2f}" for size in account.sums.values())
    return "\n".join([*lines, f"{'sum':42}{always:9.2f}{sums}"])


def savings(peak: int, memory: float, estimate: Callable[[list[str]], Account]) -> Iterator[str]:
    """Say which options, one after the other, make a run fit that does not; or that none do."""
    chosen: list[str] = []
    for option in SAVINGS:
        if peak <= memory:
            break
        try:
            smaller = estimate([*chosen, option]).peak
        except (ConfigError, RunError):  # does not go with the others
            continue
        if smaller < peak:
            chosen.append(option)
            peak = smaller
            yield f"  with {' '.join(chosen)}: {peak / 2**30:.1f} GiB"
    if peak > memory:
        yield "  no option of those that save memory makes it fit: take a smaller model or batch"


def run(arguments: Namespace) -> int:
    """Print the account, and what would make it fit where it does not; returns the exit status."""
    # Imported where it is needed: torch takes seconds, and --help and mistakes need none of it.
    from stepcoder.plan.account import account_of, shape_of

    def estimate(options: list[str]) -> Account:
        config = load_config(
            arguments.config, [f"model.path={arguments.model}", *arguments.overrides, *options]
        )
        named = config.model.critic_path
        return account_of(
            config,
            shape_of(arguments.model, "MODEL"),
            shape_of(named, "model.critic_path") if named else None,
            arguments.memory and arguments.memory * 1e9,
            arguments.gpus,
        )

    account = estimate([])
    command.say(table_of(account), sys.stdout)
    phase = max(account.sums, key=account.sums.__getitem__)
    line = f"peak: {account.peak / 2**30:.1f} GiB, {phase}"
    if arguments.memory is None:
        command.say(line, sys.stdout)
        return 0
    fits = account.peak <= arguments.memory * 1e9
    room = f"{arguments.memory:g} GB ({arguments.memory * 1e9 / 2**30:.1f} GiB)"
    command.say(f"{line}; {'fits' if fits else 'does not fit'} {room}", sys.stdout)
    for saving in savings(account.peak, arguments.memory * 1e9, estimate):
        command.say(saving, sys.stdout)
    return 0 if fits else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 where the run does not fit."""
    arguments = arguments_of(argv)
    return command.exit_status(lambda: run(arguments), "stepcoder.plan", resumable=False)


if __name__ == "__main__":
    command.leave(main())
