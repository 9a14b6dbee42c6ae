"""python bench/taxonomy_accuracy.py FILE... [--limit N]: how often the rules name a known bug.

Puts one fault of each sub-class that fits into canonical solutions, judges the faulty programs, and
prints of those that fail how many the rules of `stepcoder.taxonomy` name rightly, wrongly, or not.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from stepcoder.clean.mutants import mutants
from stepcoder.problems.names import called_name
from stepcoder.problems.problem import Problem, load_problems, program_of
from stepcoder.sandbox import Judge, Limits, Submission
from stepcoder.taxonomy import KINDS, UNDECIDED, bug_of

# What a mutation of the program's logic stands for.
OF_MUTANT = {
    "C.1": {"arithmetic", "and for or", "negated condition", "removed statement", "removed else"},
    "C.4": {"constant", "comparison"},
}


def faults(problem: Problem, other: Problem, draw: random.Random) -> dict[str, str]:
    """Return a faulty program of each sub-class that fits."""
    source, name = problem.canonical_solution, called_name(problem.entry_point or "")
    head = re.search(rf"^([ \t]*)def {re.escape(name)}\(([^)]*)\).*:[ \t]*\n", source, re.MULTILINE)
    if not head:
        return {}
    inner = head[1] + "    "
    start, end = source[: head.end()], source[head.end() :]
    line = end.split("\n")[0]
    returned = re.compile(r"^(\s*)return (.+)$", re.MULTILINE)
    found = {
        "A.1": source[: head.end()].rstrip().removesuffix(":") + "\n" + end,
        "A.2": start + " " + line + "\n" + end.partition("\n")[2] + f"\n{inner} {line}",
        "A.3": "import library_that_is_not_there\n" + source,
        "B.1": start + f"{line[: len(line) - len(line.lstrip())]}len(0)\n" + end,
        "B.2": returned.sub(r"\1return undefined_name", source, count=1),
        "B.3": start + f"{line[: len(line) - len(line.lstrip())]}[][0]\n" + end,
        "B.4": source.replace(f"def {name}(", f"def {name}(one_more, ", 1),
        "B.5": start + f"{line[: len(line) - len(line.lstrip())]}while True: pass\n" + end,
        "C.2": re.sub(
            rf"\b{re.escape(called_name(other.entry_point or ''))}\b",
            name,
            other.canonical_solution,
        ),
        "C.3": returned.sub(r"\1return [\2]", source),
    }
    made: defaultdict[str, list[str]] = defaultdict(list)
    for kind, text in mutants(source):
        for code, kinds in OF_MUTANT.items():
            if kind in kinds:
                made[code].append(text)
    return found | {code: draw.choice(texts) for code, texts in made.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each sub-class, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=50, help="problems of each file (50)")
    arguments = parser.parse_args(argv)
    problems, draw = [], random.Random(0)
    for file in arguments.files:
        usable = [p for p in load_problems(file).problems if p.entry_point and p.canonical_solution]
        problems += draw.sample(usable, min(arguments.limit, len(usable)))
    made = []
    for problem, other in zip(problems, [*problems[1:], problems[0]], strict=True):
        try:
            made += [(problem, code, text) for code, text in faults(problem, other, draw).items()]
        except (SyntaxError, ValueError):
            continue
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    limits = Limits(cpu_s=0.5, wall_s=2.0)  # a loop without end takes all of it
    with Judge() as judge:
        submissions = (
            Submission(program_of(p, text), p.tests, limits, stop_at_first_failure=code == "B.5")
            for p, code, text in made
        )
        for index, verdict in judge.map(submissions):
            problem, code, text = made[index]
            if bug := bug_of(verdict, text, problem.entry_point):
                told[code][bug] += 1
    print("injected | failing | named rightly | same class | undecided | most often named")
    for name in KINDS:
        counts, total = told[name[:3]], told[name[:3]].total()
        if total:
            same = sum(n for bug, n in counts.items() if bug[0] == name[0])
            shares = [counts[name], same, counts[UNDECIDED]]
            texts = [f"{share / total:.0%}" for share in shares]
            print(" | ".join([name, str(total), *texts, counts.most_common(1)[0][0]]))
    total = sum(c.total() for c in told.values())
    right = sum(c[name] for name in KINDS for c in [told[name[:3]]])
    undecided = sum(c[UNDECIDED] for c in told.values())
    print(f"all | {total} | {right / total:.0%} | undecided {undecided / total:.0%}")


if __name__ == "__main__":
    sys.exit(main())
