"""What the readers of published forms share: fields of a record, and which solution fits its tests.

Takes records (JSON data); gives values of the wanted types, solutions and entry points.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

from stepcoder.problems.json_text import loads
from stepcoder.problems.names import bound_names, entry_point_in
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.source import parse

ProblemRecord = dict[str, Any]
T = TypeVar("T")

_KIND_NAMES: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}


def field(record: ProblemRecord, name: str, kind: type[T], expected: str = "") -> T:
    """Return a required field of a record; raise BrokenRecordError if absent or of another type."""
    wanted = expected or _KIND_NAMES[kind]
    if record.get(name) is None:
        raise BrokenRecordError(f'field "{name}" is missing (expected {wanted})')
    value = record[name]
    if not isinstance(value, kind):
        raise BrokenRecordError(
            f'field "{name}" is {json.dumps(value, default=repr)[:40]} (expected {wanted})'
        )
    return value


def decoded(record: ProblemRecord, name: str, kind: type[T]) -> T:
    """Return a required field that is JSON in a text, or decoded already."""
    if isinstance(record.get(name), str):
        try:
            record = {name: loads(record[name])}
        except ValueError as error:
            raise BrokenRecordError(f'field "{name}" is not JSON ({error})') from None
    return field(record, name, kind)


def check_entry_point(entry_point: str | None, solution: str) -> None:
    """Raise BrokenRecordError unless the solution parses and defines what the tests call."""
    try:
        tree = parse(solution)
    except SyntaxError as error:
        raise BrokenRecordError(f"the canonical solution does not parse ({error})") from None
    if entry_point is None:
        return
    owner, _, method = entry_point.rpartition("().")
    name = owner or method
    found = definition(tree, name)
    if found is None:
        raise BrokenRecordError(f'the canonical solution does not define "{name}"')
    if (
        owner
        and isinstance(found, ast.ClassDef)
        and not found.bases
        and method not in bound_names(*found.body)
    ):
        raise BrokenRecordError(f'the canonical solution does not define "{name}.{method}"')


def definition(tree: ast.Module, name: str) -> ast.stmt | None:
    """Return the first statement of a program that binds a name."""
    return next((node for node in tree.body if name in bound_names(node)), None)


def entry_point_of(name: str | None, starter: str) -> str | None:
    """Return how tests reach a function that the starter code may put into a class Solution."""
    return name and ("Solution()." if "class Solution" in starter else "") + name


def fitting_solution(
    solutions: Iterable[Any], name: str | None, starter: str
) -> tuple[str, str | None]:
    """Return the first solution that parses and defines what the tests call, and the entry point.

    Where the starter code does not say whether the function is a method, the solution does. If
    none fits, the first solution is returned, for whoever checks it to say why; "" if there is
    none.
    """
    entry_point = entry_point_of(name, starter)
    given = [str(solution) for solution in solutions if str(solution or "").strip()]
    for solution in given:
        with suppress(SyntaxError, BrokenRecordError):
            tree = parse(solution)
            reached = entry_point_in(tree, name) if name and entry_point == name else entry_point
            check_entry_point(reached, solution)
            return solution, reached
    return (given[0] if given else ""), entry_point


def message_text(chat: Any) -> str:
    """Return what the users of a chat say: data sets of other trainers hold prompts as messages."""
    turns = [
        t for t in chat if isinstance(t, dict) and t.get("role") not in ("system", "assistant")
    ]
    return "\n\n".join(str(turn.get("content")) for turn in turns)
