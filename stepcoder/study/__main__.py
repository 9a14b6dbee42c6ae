"""`python -m stepcoder.study`: runs or continues a study, and writes its page and CSV files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from stepcoder.command import Parser, exit_status, say
from stepcoder.report.progress import clock
from stepcoder.study.page import write_page
from stepcoder.study.plan import Plan, bundled, is_done, read_plan
from stepcoder.study.results import run_results
from stepcoder.study.runner import run_plan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for wrong input, 130 if interrupted."""
    arguments = _arguments(argv)
    return exit_status(lambda: run(arguments), "stepcoder.study")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "stepcoder.study",
        "Compare recipes over seeds, from equal starts with equal budgets of tokens. "
        "Called again with the same --out it goes on where it was stopped, be it by kill -9.",
    )
    parser.add_argument(
        "plan",
        nargs="?",
        default="embedded",
        help='a YAML file (see stepcoder/study/plan.py), or "embedded" (default) or "h200"',
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="its folder (runs/study-NAME)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (the plan's)")
    parser.add_argument("--report", action="store_true", help="only write the page anew")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="of all runs")
    arguments = parser.parse_intermixed_args(argv)
    if "=" in arguments.plan:  # an override came first
        arguments.overrides.insert(0, arguments.plan)
        arguments.plan = "embedded"
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Run what is left of the study and write its page."""
    plan = read_plan(bundled(arguments.plan) or arguments.plan, arguments.overrides)
    if arguments.jobs is not None:
        plan = replace(plan, jobs=max(arguments.jobs, 1))
    folder = arguments.out or Path("runs") / f"study-{Path(arguments.plan).stem}"
    if not arguments.report:
        run_plan(plan, folder, progress(plan, folder))
    say(str(write_page(plan, run_results(plan, folder), folder)), sys.stdout)
    return 0


def progress(plan: Plan, folder: Path) -> Callable[[list[str]], None]:
    """Return a function that shows where the runs are, for `run_plan`.

    It prints a line for each run that is done, and then writes the page again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    begun = time.monotonic()
    done = {run for run in plan.runs if is_done(folder, run)}
    before = len(done)
    status = console.status("starting ...")
    if console.is_terminal:
        status.start()

    def report(lines: list[str]) -> None:
        now = [run for run in plan.runs if run not in done and is_done(folder, run)]
        spent, left = time.monotonic() - begun, len(plan.runs) - len(done) - len(now)
        for run in now:
            done.add(run)
            pace = spent / max(len(done) - before, 1)
            rest = f", about {clock(pace * left)} left" if left else ""
            count = f"{len(done)} of {len(plan.runs)} runs"
            say(f"{run.name} done ({count}, {clock(spent)}{rest})", sys.stdout)
        if now:
            write_page(plan, run_results(plan, folder), folder)
        status.update(f"{len(done)} of {len(plan.runs)} runs · " + " · ".join(lines))
        if not lines:
            status.stop()

    return report


if __name__ == "__main__":
    sys.exit(main())
