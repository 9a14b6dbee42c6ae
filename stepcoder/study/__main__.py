"""python -m stepcoder.study: runs a study, or goes on with it, and writes page and CSV."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from stepcoder.errors import RunError
from stepcoder.options import ConfigError
from stepcoder.report.progress import clock
from stepcoder.study.page import write_page
from stepcoder.study.plan import Plan, bundled, read_plan
from stepcoder.study.results import results
from stepcoder.study.runner import is_done, run_plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run what is left of the study, and write its page."""
    parser = argparse.ArgumentParser(
        prog="python -m stepcoder.study",
        description="Compare recipes over seeds, from equal starts with equal budgets of tokens. "
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
    command = parser.parse_intermixed_args(arguments)
    console = Console()
    overrides = command.overrides
    if "=" in command.plan:  # an override came first
        command.plan, overrides = "embedded", [command.plan, *overrides]
    try:
        plan = read_plan(bundled(command.plan) or command.plan, overrides)
        if command.jobs is not None:
            plan = replace(plan, jobs=max(command.jobs, 1))
        folder = command.out or Path("runs") / f"study-{Path(command.plan).stem}"
        if not command.report:
            run_plan(plan, folder, progress(plan, folder, console))
        page = write_page(plan, results(plan, folder), folder)
    except (ConfigError, RunError) as error:
        Console(stderr=True).print(f"stepcoder.study: {error}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on", markup=False)
        return 130
    console.print(str(page), markup=False, highlight=False, soft_wrap=True)
    return 0


def progress(plan: Plan, folder: Path, console: Console) -> Callable[[list[str]], None]:
    """Return what shows how a study is going: a line a finished run, and the page rewritten."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    done = {run for run in plan.runs if is_done(folder, run)}
    before = len(done)
    status = console.status("starting ...") if console.is_terminal else None
    if status:
        status.start()

    def report(lines: list[str]) -> None:
        now = [run for run in plan.runs if run not in done and is_done(folder, run)]
        spent, left = time.monotonic() - begun, len(plan.runs) - len(done) - len(now)
        for run in now:
            done.add(run)
            pace = spent / max(len(done) - before, 1)
            rest = f", about {clock(pace * left)} left" if left else ""
            text = f"{run.name} done ({len(done)} of {len(plan.runs)} runs, {clock(spent)}{rest})"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if now:
            write_page(plan, results(plan, folder), folder)
        if status:
            status.update(f"{len(done)} of {len(plan.runs)} runs · " + " · ".join(lines))
            if not lines:
                status.stop()

    return report


if __name__ == "__main__":
    sys.exit(main())
