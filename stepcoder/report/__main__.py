"""python -m stepcoder.report RUN_DIR [--watch]: write the page of a run again, or follow it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stepcoder.command import Parser, exit_status, say
from stepcoder.report.page import write_report
from stepcoder.report.watch import LIVE, watch


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of the run folder that is named on the command line, and say where."""
    parser = Parser("stepcoder.report", "Write RUN_DIR/report.html, the page of a run.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the folder of a run")
    parser.add_argument(
        "--watch",
        action="store_true",
        help=f"write RUN_DIR/{LIVE} after every step while the run trains; a browser that shows it "
        "follows by itself. A run that has not begun is waited for. Ctrl-C ends the watching only",
    )
    arguments = parser.parse_args(argv)
    run = arguments.run

    def work() -> int:
        if arguments.watch:
            watch(run, partial(print, flush=True))
        else:
            say(str(write_report(run)), sys.stdout)
        return 0

    return exit_status(work, "stepcoder.report", resumable=False)


if __name__ == "__main__":
    sys.exit(main())
