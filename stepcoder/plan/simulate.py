"""`python -m stepcoder.plan.simulate RUN_DIR`: how many engines, judges and trainers suit a step.

Takes what a recorded run of one process measured, and figures of a network and of other machines;
prints, for some numbers of GPUs, the split that makes a step shortest, and who waits for whom.

what it assumes:
  engines     share a step's completions; the longest one takes its own tokens' time at least
  judges      a CPU each; they judge while others generate
  trainers    share the microbatches, as many for each; every pass gathers the weights layer by
              layer, a backward pass sums gradients as well; nothing of it hides behind the work
  weights     reach the engines over the network after each step
With rollout.ahead >= 1 engines and trainers work at the same time, else one after the other.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from stepcoder import command
from stepcoder.config import Config, load_config
from stepcoder.errors import RunError
from stepcoder.report.run_dir import CONFIG, read_records

EPILOG = command.for_users(__doc__)
PASSES = 9  # over a model's weights for a microbatch: three to score, three to update each of two


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of a run's steps: seconds of one engine, judge and trainer, and tokens."""

    generate: float
    judge: float  # with the run's own judges, hidden or not
    rest: float  # rewards: done by one process
    train: float  # score and update
    tokens: float  # generated
    longest: float  # tokens of the longest completion


@dataclass(frozen=True, slots=True)
class Network:
    """What the machines and the wires between them do."""

    weights: float  # of the model
    layers: int
    bandwidth: float  # bytes a second of a process
    latency: float  # seconds of a collective
    token_s: float = 0.0  # seconds of a token of a completion that is alone in an engine
    at_once: float = math.inf  # trainers' worth of work that is done at once; a GPU each: all


def measured_in(folder: Path) -> Measured:
    """Return what the steps of a run measured; its first is left out, which warms up.

    Raises:
        RunError: it has fewer than three steps of RL.
    """
    records = [r for r in read_records(folder) if r["phase"] == "rl" and "time" in r][1:]
    if len(records) < 2:
        raise RunError(f"{folder}: fewer than three steps of RL; record a longer run")

    def of(*parts: str) -> float:
        return float(median(sum(r["time"].get(part, 0.0) for part in parts) for r in records))

    def judging(record: dict[str, list[tuple[str, float, float]]]) -> float:
        return sum(end - start for part, start, end in record["timeline"] if part == "judge")

    return Measured(
        of("generate"),
        median(map(judging, records)),
        of("reward"),
        of("score", "update"),
        median(r["tokens"] for r in records),
        median(max(tokens for _, tokens, _ in r["slowest"]["generate"]) for r in records),
    )


def pieces(config: Config, tokens: float, trainers: int) -> int:
    """Return how many microbatches of a step each of some trainers has."""
    ppo = config.ppo
    batch = tokens / ppo.minibatches
    count = -(-batch // min(ppo.tokens_per_microbatch, max(-(-batch // trainers), 1)))
    return int(-(-count // trainers)) * ppo.minibatches * ppo.epochs


def parts(
    seen: Measured, config: Config, network: Network, engines: int, judges: int, trainers: int
) -> dict[str, float]:
    """Return the seconds of each part of a step, by so many of each."""
    generate = max(seen.generate / engines, seen.longest * network.token_s)
    judge = max(seen.judge / judges - generate, 0.0)  # what generation does not hide
    size = 4 * network.weights
    sent = (trainers - 1) / trainers * size
    talk = 0.0
    if trainers > 1:
        a_pass = sent / network.bandwidth + (network.layers + 1) * network.latency
        talk = pieces(config, seen.tokens, trainers) * PASSES * a_pass
    sync = size / network.bandwidth * (trainers > 1 or engines > 1)
    work = seen.train / min(trainers, network.at_once) + talk
    return {"generate": generate, "judge": judge, "train": work + seen.rest, "sync": sync}


def seconds(found: dict[str, float], ahead: int) -> float:
    """Return the seconds of a step."""
    made = found["generate"] + found["judge"]
    return (max(made, found["train"]) if ahead else made + found["train"]) + found["sync"]


def best_split(
    seen: Measured, config: Config, network: Network, gpus: int, judges: int
) -> tuple[int, dict[str, float]]:
    """Return how many of some GPUs should be engines, and the parts of a step then.

    One GPU does both, one after the other.
    """
    if gpus == 1:
        return 1, parts(seen, config, network, 1, judges, 1)
    splits = {e: parts(seen, config, network, e, judges, gpus - e) for e in range(1, gpus)}
    best = min(splits, key=lambda e: seconds(splits[e], 1))
    return best, splits[best]


def arguments_of(argv: Sequence[str] | None) -> Namespace:
    """Read the command line; leaves with one line if it is wrong."""
    about = "Say how many engines, judges and trainers keep each other busy, from a recorded run."
    parser = command.Parser("stepcoder.plan.simulate", about, EPILOG)
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="of one process")
    parser.add_argument("--weights", type=float, required=True, help="of the model, 10^9")
    parser.add_argument("--layers", type=int, required=True, help="of the model")
    parser.add_argument("--bandwidth", type=float, default=40.0, help="10^9 bytes a second")
    parser.add_argument("--latency", type=float, default=30.0, help="of a collective, 10^-6 s")
    parser.add_argument("--token", type=float, default=0.0, help="of a lone completion, 10^-3 s")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    """Print the table."""
    if not (arguments.run / CONFIG).is_file():
        raise RunError(f"{arguments.run} is no folder of a run; give one that has {CONFIG}")
    config, seen = load_config(arguments.run / CONFIG, []), measured_in(arguments.run)
    network = Network(
        arguments.weights * 1e9,
        arguments.layers,
        arguments.bandwidth * 1e9,
        arguments.latency * 1e-6,
        arguments.token * 1e-3,
    )
    command.say(
        f"{'GPUs':>6}{'engines':>9}{'trainers':>9}{'judges':>8}{'s/step':>9}{'tokens/s':>11}"
        f"{'engines wait':>14}{'trainers wait':>15}",
        sys.stdout,
    )
    for gpus in arguments.gpus:
        engines, found = best_split(seen, config, network, gpus, 1)
        # As many judges as hide behind generation.
        judges = max(1, -int(-seen.judge // max(found["generate"], 1e-9)))
        engines, found = best_split(seen, config, network, gpus, judges)
        total = seconds(found, ahead=gpus > 1)
        idle = [1 - found[part] / total for part in ("generate", "train")]
        command.say(
            f"{gpus:6}{engines:9}{max(gpus - engines, 1):9}{judges:8}{total:9.2f}"
            f"{seen.tokens / total:11,.0f}{idle[0]:14.0%}{idle[1]:15.0%}",
            sys.stdout,
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = arguments_of(argv)
    return command.exit_status(lambda: run(arguments), "stepcoder.plan.simulate", resumable=False)


if __name__ == "__main__":
    command.leave(main())
