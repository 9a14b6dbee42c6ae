"""`python -m stepcoder.clean PROBLEMS -o OUT`: verified problems from raw ones.

Takes problems in any form of `problems`; leaves problems.jsonl, decisions.jsonl and a page in a
folder. Killed at any moment, the same command goes on; the same input gives the same bytes.

what lies in OUT afterwards:
  problems.jsonl   the problems that are kept, for stepcoder.train, .judge and .evaluate
  decisions.jsonl  a line a record of the input: kept, repaired or dropped, and why
  report.html      the page: what was kept and why not, coverage, tests, curricula
  journal/         what the sandbox said, so that a killed command goes on
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from stepcoder import command
from stepcoder.clean.judges import Judges
from stepcoder.clean.outcomes import EXTENDED, VERIFIED
from stepcoder.clean.page import key_figures, render
from stepcoder.clean.pipeline import Cleaning, Options, clean, decisions, write
from stepcoder.clean.records import read_candidates
from stepcoder.errors import InputError
from stepcoder.journal import Journal, Record, files_fingerprint, replace_file
from stepcoder.problems.problem import Problem, load_problems
from stepcoder.sandbox import Limits
from stepcoder.user_code import is_user_code

EPILOG = f"{command.for_users(__doc__)}\n{command.EXIT_STATUS}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Make verified problems from raw ones: check, repair, deduplicate, add tests."
    parser = command.Parser("stepcoder.clean", description, EPILOG)
    parser.add_argument("problems", type=Path, help="in a form of docs/data.md")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument(
        "--overlap",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="problems that must not be in the result, such as HumanEval and MBPP's test split",
    )
    parser.add_argument(
        "--overlap-split", metavar="SPLIT", help="only this split of the --overlap files (eval)"
    )
    parser.add_argument(
        "--tests", type=int, default=8, help="tests a problem shall have; 0 adds none (8)"
    )
    parser.add_argument(
        "--similarity", type=float, default=0.8,
        help="share of word triples from which on two statements are the same (0.8); 1: equal ones",
    )  # fmt: skip
    command.add_columns_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the generated tests (0)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs, each with other seeds, that must agree (3)"
    )
    # Wall time depends on the load of the machine, so only CPU time should end a program.
    command.add_sandbox_options(parser, "running", wall_s=10 * Limits().cpu_s)
    arguments = parser.parse(argv, "runs", "workers", *command.LIMITS)
    if arguments.tests < 0:
        parser.error(f"--tests is {arguments.tests}; it must be at least 0")
    if not 0 < arguments.similarity <= 1:
        parser.error(f"--similarity is {arguments.similarity}; it must be above 0 and at most 1")
    if arguments.overlap_split and not arguments.overlap:
        parser.error("--overlap-split needs --overlap")
    return arguments


def references(arguments: argparse.Namespace) -> list[Problem]:
    """Load the problems that must not be in the result. Raises ProblemError or InputError."""
    found: list[Problem] = []
    for path in arguments.overlap:
        if not path.exists():
            raise InputError(f"--overlap {path}: no such file or folder of problems")
        found += load_problems(path).problems
    return command.of_split(found, arguments.overlap_split, "--overlap-split")


def cleaning_settings(arguments: argparse.Namespace) -> Record:
    """Return all that the results depend on; a folder with other settings is refused."""
    others = ("overlap_split", "tests", "similarity", "seed", "runs")
    return {
        "problems": str(arguments.problems),
        "problems_fingerprint": files_fingerprint(arguments.problems),
        "overlap": [str(path) for path in arguments.overlap],
        "overlap_fingerprints": [files_fingerprint(path) for path in arguments.overlap],
        **{name: getattr(arguments, name) for name in others},
        **({"columns": arguments.columns} if arguments.columns else {}),
        **command.limits_given(arguments),
    }


def run(arguments: argparse.Namespace) -> int:
    """Clean, write the files, say what came out, and return the exit status."""
    if not is_user_code(str(arguments.problems)) and not arguments.problems.exists():
        raise InputError(f"{arguments.problems}: no such file or folder of problems")
    settings = cleaning_settings(arguments)
    known = references(arguments)
    try:
        records = list(read_candidates(arguments.problems, arguments.columns))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{arguments.problems} cannot be read ({error})") from None
    if not records:
        raise InputError(f"{arguments.problems} holds no record")
    options = Options(arguments.tests, arguments.similarity, arguments.seed)
    out, limits = arguments.output, command.limits_of(arguments)
    files, key = (VERIFIED, EXTENDED), itemgetter("number")
    with (
        Journal(out, settings, files, key, "a cleaning", out.glob("*.jsonl")) as journal,
        Judges(
            arguments.runs, arguments.workers, limits, arguments.isolation, arguments.libraries
        ) as judges,
        command.StepProgress() as progress,
    ):
        cleaning = clean(records, known, options, judges, journal, progress)
    lines = decisions(cleaning)
    write(out, cleaning, lines)
    replace_file(out / "report.html", render(lines, settings))
    command.say(f"{summary(cleaning, lines)}\n{out / 'report.html'}", sys.stdout)
    if cleaning.failed:
        command.say(f"the sandbox failed on {cleaning.failed} problems; run the command again")
    return 1 if cleaning.failed else 0


def summary(cleaning: Cleaning, lines: Sequence[Record]) -> str:
    """Return the result in three lines."""
    found = key_figures(lines)
    counts = Counter(line["reason"] for line in lines if line["decision"] == "dropped")
    reasons = ", ".join(f"{name} {n}" for name, n in counts.most_common())
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in cleaning.seconds.items())
    dropped = f"{counts.total()} dropped" + (f" ({reasons})" if reasons else "")
    kept, tests = found["kept"], found["tests"]
    text = f"{kept} of {len(lines)} kept, {found['repaired']} of them repaired; {dropped}"
    if found["unverified"]:
        text += f"\n{found['unverified']} more have no solution: written as they are, unverified"
    if kept:
        before, after = found["coverage_before"] / kept, found["coverage"] / kept
        text += f"\ntests {tests - found['generated_tests']} -> {tests}"
        text += f", coverage of the solutions {before:.1%} -> {after:.1%}"
    return f"{text}\nseconds: {seconds}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status (EPILOG)."""
    arguments = _arguments(argv)
    return command.exit_status(lambda: run(arguments), "stepcoder.clean")


if __name__ == "__main__":
    command.leave(main())
