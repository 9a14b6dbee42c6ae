"""Chooses the suite's problems and tests: python -m stepcoder.suite.generator.choose.

Draws instances of each family; runs the solution, its mutants and the family's other solutions on
random inputs; keeps a few inputs that tell the solution from all of these and execute all of its
lines. Drops instances in which some rule has no effect. Writes chosen.jsonl, a line for each
problem, and builds the shipped file from it. No sandbox: all programs are our own, not a model's.
"""

from __future__ import annotations

import ast
import json
import random
import sys
import trace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from types import CodeType
from typing import Any

from stepcoder.clean.mutants import mutants
from stepcoder.suite.generator import build
from stepcoder.suite.generator.families import FAMILIES
from stepcoder.suite.generator.family import Family, Instance, draw

PER_FAMILY = 120
DRAWN = 1500  # random instances of a family, of which the first good PER_FAMILY are kept
RIVALS = 60  # how many of them are the wrong programs for one another
POOL = 300  # random inputs, of which the tests are chosen
FEWEST, MOST = 5, 8
LONGEST_OUTPUT = 60
MOST_TICKS = 500

FAILED = object()  # the outcome of a program that raised or ran too long: equal to no value
REDUNDANT = {"removed statement", "removed else", "condition always true", "condition always false"}


class _CountTicks(ast.NodeTransformer):
    """Put a call of tick() at the start of each loop body."""

    def _loop(self, node: ast.For | ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(ast.Call(ast.Name("tick", ast.Load()), [], [])))
        return node

    visit_For = visit_While = _loop


def bounded(source: str) -> Callable[[Sequence[Any]], Any]:
    """Return a function from an argument list to the program's outcome (FAILED if none)."""
    tree = ast.fix_missing_locations(_CountTicks().visit(ast.parse(source)))
    name = next(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    namespace: dict[str, Any] = {}
    exec(compile(tree, "<suite>", "exec"), namespace)

    def outcome(args: Sequence[Any]) -> Any:
        # Raises StopIteration once it was called more than MOST_TICKS times.
        namespace["tick"] = iter(range(MOST_TICKS)).__next__
        try:
            return namespace[name](*args)
        except Exception:
            return FAILED

    return outcome


def executed_lines(source: str, name: str, args: Sequence[Any]) -> tuple[set[int], set[int]]:
    """Return the body lines that ran for these arguments, and all lines that could have."""
    namespace: dict[str, Any] = {"__file__": "<suite>"}  # code without a file is not traced
    exec(compile(source, "<suite>", "exec"), namespace)
    tracer = trace.Trace(trace=False)
    tracer.runfunc(namespace[name], *args)
    code: CodeType = namespace[name].__code__
    possible = {line for *_, line in code.co_lines() if line not in (None, code.co_firstlineno)}
    return {line for _, line in tracer.results().counts} & possible, possible


def pool(family: Family, count: int = POOL, seed: str = "pool") -> list[list[Any]]:
    """Return up to `count` random argument lists of a family, all different."""
    rng = random.Random(f"{family.name}/{seed}")
    drawn = [[sample(rng) for sample in family.args.values()] for _ in range(count)]
    return list({repr(args): args for args in drawn}.values())


def differences(expected: Sequence[Any], got: Sequence[Any]) -> int:
    """Return a bit mask of the places where two lists of outcomes differ."""
    return sum(1 << i for i, (e, g) in enumerate(zip(expected, got, strict=True)) if e != g)


@dataclass(frozen=True)
class Choice:
    """The inputs chosen for an instance and how many mutants it has; or why it is no good."""

    inputs: tuple[list[Any], ...] = ()
    mutants: int = 0
    equivalent: int = 0
    rejected: str = ""


def choose(instance: Instance, candidates: list[list[Any]], others: list[list[Any]]) -> Choice:
    """Return the choice for an instance; `others` are outcomes of wrong programs on all inputs."""
    banks = instance.family.slots.values()
    codes = [bank[i].code for bank, i in zip(banks, instance.phrases, strict=True)]
    rules = [code for code in codes if code and not code.isdigit()]
    if len(set(rules)) < len(rules):
        return Choice(rejected="has the same phrase twice")
    expected = [*map(bounded(instance.solution), candidates)]
    if FAILED in expected:
        return Choice(rejected="raises")
    masks = []
    for kind, source in sorted(mutants(instance.solution), key=lambda m: m[0] not in REDUNDANT):
        masks.append(differences(expected, [*map(bounded(source), candidates)]))
        if kind in REDUNDANT and not masks[-1]:
            return Choice(rejected=f"{kind} changes nothing")
    possible: set[int] = set()
    ran: Counter[int] = Counter()
    for index, args in enumerate(candidates):
        lines, possible = executed_lines(instance.solution, instance.family.name, args)
        for line in lines:
            ran[line] |= 1 << index
    if possible - set(ran):
        return Choice(rejected="has lines that no input executes")
    rivals = [differences(expected, other) for other in others]
    short = [i for i, value in enumerate(expected) if len(repr(value)) <= LONGEST_OUTPUT]
    chosen = cover([*filter(None, masks + rivals), *ran.values()], short, candidates)
    if chosen is None:
        return Choice(rejected=f"needs more than {MOST} tests")
    return Choice(tuple(candidates[i] for i in chosen), len(masks), masks.count(0))


def cover(masks: list[int], usable: list[int], candidates: list[list[Any]]) -> list[int] | None:
    """Return FEWEST to MOST inputs such that each mask has a bit among them, None if it cannot."""
    usable = sorted(usable, key=lambda i: (len(repr(candidates[i])), i))
    covers = {i: sum(1 << k for k, mask in enumerate(masks) if mask >> i & 1) for i in usable}
    chosen: list[int] = []
    left = (1 << len(masks)) - 1
    while left or len(chosen) < FEWEST:
        if len(chosen) == MOST:
            return None
        free = [i for i in usable if i not in chosen]
        best = max(free, key=lambda i: ((covers[i] & left).bit_count(), covers[i].bit_count()))
        if left and not covers[best] & left:
            return None
        chosen.append(best)
        left &= ~covers[best]
    return sorted(chosen)


def choose_family(family: Family, count: int = PER_FAMILY) -> list[tuple[Instance, Choice]]:
    """Return the family's first `count` good instances, no two with equal solutions."""
    candidates = pool(family)
    drawn = list(draw(family, DRAWN))
    others = [[*map(bounded(rival.solution), candidates)] for rival in drawn[:RIVALS]]
    rejected: Counter[str] = Counter()
    kept: dict[str, tuple[Instance, Choice]] = {}
    for instance in drawn:
        if len(kept) == count or instance.key in kept:
            continue
        choice = choose(instance, candidates, others)
        if choice.rejected:
            rejected[choice.rejected] += 1
            continue
        kept[instance.key] = instance, choice
    choices = [choice for _, choice in kept.values()]
    sys.stderr.write(
        f"{family.name}: {len(kept)} kept, {sum(c.mutants for c in choices)} mutants, "
        f"{sum(c.equivalent for c in choices)} equivalent; rejected {dict(rejected)}\n"
    )
    return list(kept.values())


def chosen_lines(index: int) -> dict[str, str]:
    """Return the lines of chosen.jsonl of the family with this index, by the problems' keys."""
    return {
        instance.key: json.dumps(
            {"task_id": instance.task_id, "phrases": instance.phrases, "inputs": choice.inputs},
            separators=(",", ":"),
        )
        for instance, choice in choose_family(FAMILIES[index])
    }


def main() -> None:
    """Choose the problems of all families, some at a time, and write both files."""
    lines: dict[str, str] = {}
    # Processes get and give indexes and text, since the samplers of a family cannot be pickled.
    with Pool() as processes:
        for family in processes.imap(chosen_lines, range(len(FAMILIES))):
            # Two families may come to one solution: the first one has it.
            lines |= {key: line for key, line in family.items() if key not in lines}
    build.CHOSEN.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")
    build.main()


if __name__ == "__main__":
    main()
