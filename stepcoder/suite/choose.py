"""Choose each instance's tests so that wrong programs fail them: python -m stepcoder.suite.choose.

Takes random inputs of the family; runs the solution, its mutants and the family's other solutions
on them; keeps a few inputs that tell the solution from all of these and execute all of its lines.
Writes tests.jsonl beside this file, a line an instance: its inputs, or why it was rejected. Only
for development: the suite reads the file. The programs run here are our own, not a model's.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from stepcoder.suite.build import CHOSEN, all_instances
from stepcoder.suite.family import Family, Instance
from stepcoder.suite.mutants import mutants

POOL = 500
FEWEST, MOST = 4, 8
LONGEST_OUTPUT = 60
MOST_TICKS = 500

FAILED = object()  # what an outcome is if the program raised or ran too long: equal to no value


class _TooLong(Exception):
    """A loop ran more than MOST_TICKS times."""


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
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks > MOST_TICKS:
            raise _TooLong

    namespace: dict[str, Any] = {"tick": tick}
    exec(compile(tree, "<suite>", "exec"), namespace)
    function = namespace[name]

    def outcome(args: Sequence[Any]) -> Any:
        nonlocal ticks
        ticks = 0
        try:
            return function(*args)
        except Exception:
            return FAILED

    return outcome


def executed_lines(source: str, name: str, args: Sequence[Any]) -> tuple[set[int], set[int]]:
    """Return the body lines that ran for these arguments, and all lines that could have."""
    namespace: dict[str, Any] = {}
    exec(compile(source, "<suite>", "exec"), namespace)
    code: CodeType = namespace[name].__code__
    lines: set[int] = set()

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        if frame.f_code is not code:
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        namespace[name](*args)
    finally:
        sys.settrace(before)
    possible = {line for *_, line in code.co_lines() if line is not None}
    return lines, possible - {code.co_firstlineno}


def pool(family: Family, count: int = POOL, seed: str = "pool") -> list[list[Any]]:
    """Return `count` random argument lists of a family."""
    rng = random.Random(f"{family.name}/{seed}")
    return [[sample(rng) for sample in family.args.values()] for _ in range(count)]


def differences(expected: Sequence[Any], got: Sequence[Any]) -> int:
    """Return a bit mask of the places where two lists of outcomes differ."""
    return sum(1 << i for i, (e, g) in enumerate(zip(expected, got, strict=True)) if e != g)


@dataclass
class Choice:
    """The chosen inputs, or why there are none; and how many mutants there were."""

    inputs: list[list[Any]] | None
    reason: str = ""
    mutants: int = 0
    equivalent: int = 0


def choose(instance: Instance, candidates: list[list[Any]], others: list[list[Any]]) -> Choice:
    """Return the inputs for an instance; `others` are outcomes of wrong programs on all inputs."""
    expected = [bounded(instance.solution)(args) for args in candidates]
    if FAILED in expected:
        return Choice(None, "raises")
    to_tell: list[int] = [differences(expected, other) for other in others]
    result = Choice(None)
    for kind, source in mutants(instance.solution):
        outcome = bounded(source)
        mask = differences(expected, [outcome(args) for args in candidates])
        result.mutants += 1
        result.equivalent += not mask
        if not mask and kind in REDUNDANT:
            result.reason = f"{kind} changes nothing"
            return result
        to_tell.append(mask)
    possible: set[int] = set()
    ran: Counter[int] = Counter()
    for index, args in enumerate(candidates):
        lines, possible = executed_lines(instance.solution, instance.family.name, args)
        for line in lines:
            ran[line] |= 1 << index
    if possible - set(ran):
        result.reason = "has lines that no input executes"
        return result
    short = [i for i, value in enumerate(expected) if len(repr(value)) <= LONGEST_OUTPUT]
    chosen = cover([*filter(None, to_tell), *ran.values()], short, candidates)
    if chosen is None:
        result.reason = f"needs more than {MOST} tests"
    else:
        result.inputs = [candidates[i] for i in chosen]
    return result


REDUNDANT = {"removed statement", "removed else", "condition always true", "condition always false"}


def cover(masks: list[int], usable: list[int], candidates: list[list[Any]]) -> list[int] | None:
    """Return FEWEST to MOST inputs such that each mask has a bit among them."""
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


def main() -> None:
    """Choose tests for all instances and write them."""
    groups: dict[str, list[Instance]] = {}
    for instance in all_instances():
        groups.setdefault(instance.family.name, []).append(instance)
    records = []
    for name, group in groups.items():
        candidates = pool(group[0].family)
        outcomes = [[*map(bounded(i.solution), candidates)] for i in group]
        choices = [choose(i, candidates, outcomes) for i in group]
        reasons = Counter(choice.reason for choice in choices if choice.reason)
        total = sum(c.mutants for c in choices if c.inputs)
        same = sum(c.equivalent for c in choices if c.inputs)
        sys.stderr.write(
            f"{name}: {sum(c.inputs is not None for c in choices)} of {len(group)} kept, {total} "
            f"mutants, {same} equivalent; rejected: {dict(reasons)}\n"
        )
        for instance, choice in zip(group, choices, strict=True):
            said = {"inputs": choice.inputs} if choice.inputs else {"rejected": choice.reason}
            records.append({"task_id": instance.task_id, **said})
    lines = (json.dumps(record, separators=(",", ":")) for record in records)
    CHOSEN.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
