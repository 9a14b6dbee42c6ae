"""The command `stepcoder`: `stepcoder NAME ...` is `python -m stepcoder.NAME ...`.

Imports no other module of ours before a command is chosen, so that --help comes at once.
"""

from __future__ import annotations

import runpy
import sys

import stepcoder

COMMANDS = {
    "train": "train a code model by reinforcement learning from unit-test results",
    "evaluate": "pass@k of a policy or of samples, with intervals",
    "refine": "more out of a policy at inference: self-critique, muFiX, EPiC, critic sampling",
    "judge": "judge a file of samples, or answer over HTTP (judge serve)",
    "clean": "make verified problems from raw ones",
    "plan": "say what a run will take of memory, before it is started",
    "report": "write the page of a run folder again",
    "study": "compare recipes over seeds",
    "suite": "write the embedded problems as a file",
    "check": "say what this machine has for training and judging, and what it lacks",
}
# The modules of the extra `train`, which a light install leaves out.
TRAIN = {"torch", "numpy", "transformers", "tokenizers", "safetensors", "tensorboard"}


def usage() -> str:
    """Return the help: a line for each command."""
    lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
    head = "usage: stepcoder COMMAND ...   (or python -m stepcoder.COMMAND ...)\n"
    foot = (
        "\n`stepcoder COMMAND --help` shows a command's options, `stepcoder --version` the version."
    )
    return "\n".join([head, *lines, foot])


def main() -> int:
    """Run the command that the first argument names; it leaves with its own exit status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--version"):
        sys.stdout.write(f"{stepcoder.__version__ if name == '--version' else usage()}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(f"stepcoder: no command {name!r}; there are {', '.join(COMMANDS)}\n")
        return 2
    sys.argv[1:] = arguments
    try:
        runpy.run_module(f"stepcoder.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name not in TRAIN:
            raise
        sys.stderr.write(
            f"stepcoder {name}: {error.name} is not installed: pip install 'stepcoder[train]'\n"
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
