"""The tests that a problem's statement shows. No other test reaches a prompt or a choice.

Takes a Problem, gives `Visible`: its tests whose input and output stand in the statement (APPS,
LeetCode), or the examples there: doctests, asserts, and lines such as `f(2) == 3` or `f(2) -> 3`.
"""

from __future__ import annotations

import ast
import doctest
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from stepcoder.problems.names import called_name
from stepcoder.problems.problem import Problem
from stepcoder.problems.source import parse
from stepcoder.sandbox import AssertTests, CallTests, StdinTests, Tests
from stepcoder.sandbox.program import UnittestTests, test_text

_LONGEST = 500  # characters of a test that is shown
_BLOCK = re.compile(
    r"^[ \t]*(?:Sample )?Input *:?(.+?)^[ \t]*(?:Sample )?Output *:?(.+?)"
    r"(?=\n\s*\n|\n[ \t]*(?:Explanation|Note|Example|Sample|Input|-----)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_GIVES = re.compile(r"\s*(?:==|=>|->|=|➞|→|should return|returns?)\s*")


@dataclass(frozen=True, slots=True)
class Visible:
    """Tests that a statement shows.

    `shown` has of each what it asks and what it expects, as text; `without` is the statement with
    them cut out.
    """

    tests: Tests
    shown: tuple[tuple[str, str], ...]
    without: str


def visible_of(problem: Problem) -> Visible | None:
    """Return the tests that a problem's statement shows, None if it shows none."""
    tests = problem.tests
    if isinstance(tests, CallTests | StdinTests) and (found := _blocks(problem.prompt, tests)):
        without = problem.prompt
        for block, _ in found:
            without = without.replace(block[0], "")
        shown = tuple((block[1].strip(), block[2].strip()) for block, _ in found)
        return Visible(_chosen(tests, [place for _, place in found]), shown, without)
    if not problem.entry_point:
        return None
    examples = [*_doctests(problem.prompt)] or [*_lines(problem.prompt, problem.entry_point)]
    if not examples:
        return None
    cut = {line for _, _, _, lines in examples for line in lines}
    kept = [text for n, text in enumerate(problem.prompt.split("\n")) if n not in cut]
    asserts = tuple(f"{before}assert ({call}) == ({value})" for before, call, value, _ in examples)
    shown = tuple((before + call, value) for before, call, value, _ in examples)
    return Visible(AssertTests(asserts), shown, "\n".join(kept))


def shown_too(problem: Problem, count: int) -> tuple[Problem, Visible | None]:
    """Return a problem whose statement shows the first tests as well, and those tests."""
    tests, places = problem.tests, range(min(count, len(problem.tests)))
    shown = [_shown(problem, place) for place in places]
    if not shown or max(len(asked) + len(value) for asked, value in shown) > _LONGEST:
        return problem, None
    lines = "\n".join(asked + (f" == {value}" if value else "") for asked, value in shown)
    if isinstance(tests, StdinTests):
        lines = "\n\n".join(f"Input:\n{asked}\nOutput:\n{value}" for asked, value in shown)
    prompt = f"{problem.prompt.rstrip()}\n\nIt must pass these tests:\n{lines}\n"
    visible = Visible(_chosen(tests, places), tuple(shown), problem.prompt)
    return replace(problem, prompt=prompt), visible


def _shown(problem: Problem, place: int) -> tuple[str, str]:
    """Return what a test asks and what it expects; of other code than `assert a == b` all of it."""
    tests = problem.tests
    if isinstance(tests, StdinTests):
        return tests.inputs[place].strip(), tests.outputs[place].strip()
    if isinstance(tests, CallTests):
        arguments = ", ".join(map(repr, tests.inputs[place]))
        return f"{problem.entry_point}({arguments})", repr(tests.outputs[place])
    text = test_text(tests, place)
    match parse(text).body if isinstance(tests, AssertTests) else []:
        case [ast.Assert(test=ast.Compare(ops=[ast.Eq()], left=left, comparators=[right]))]:
            return ast.unparse(left), ast.unparse(right)
    return text, ""


def _chosen(tests: Any, places: Sequence[int]) -> Tests:
    """Return some of the tests."""

    def of(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[place] for place in places)

    chosen: Tests
    if isinstance(tests, AssertTests):
        chosen = replace(tests, asserts=of(tests.asserts))
    elif isinstance(tests, UnittestTests):
        chosen = replace(tests, names=of(tests.names))
    else:
        chosen = replace(tests, inputs=of(tests.inputs), outputs=of(tests.outputs), subtasks=())
    return chosen


def _blocks(statement: str, tests: CallTests | StdinTests) -> list[tuple[re.Match[str], int]]:
    """Return the pairs of input and output in a statement that are tests, each with its number."""
    plain = [(_plain(i), _plain(o)) for i, o in zip(tests.inputs, tests.outputs, strict=True)]
    found: dict[int, re.Match[str]] = {}
    for block in _BLOCK.finditer(statement):
        given, expected = _plain(block[1]), _plain(block[2])
        for place, (asked, answer) in enumerate(plain):
            if asked == given and (answer == expected or _number(answer) == _number(expected)):
                found.setdefault(place, block)
    return [(block, place) for place, block in sorted(found.items())]


def _plain(value: Any) -> str:
    """Return a value, or a text that shows one, without names, quotes, blanks and capitals."""
    if isinstance(value, list | tuple):
        value = json.dumps(value, default=repr)[1:-1] if value else ""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return re.sub(r"\b[a-z_]\w*\s*=|[\s'\"\[\]]", "", text.lower())


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


Example = tuple[str, str, str, range]  # statements before, call, value, lines of the statement


def _doctests(statement: str) -> Iterator[Example]:
    """Yield the doctests whose output is a value."""
    examples: list[doctest.Example] = []
    with suppress(ValueError):
        examples = doctest.DocTestParser().get_examples(statement)
    before = ""
    for example in examples:
        call, want = example.source.strip(), example.want.strip()
        if want and not example.exc_msg and _is_expression(call) and _is_expression(want):
            length = example.source.count("\n") + example.want.count("\n")
            yield before, call, want, range(example.lineno, example.lineno + length)
        elif not want and not _is_expression(call):
            before += example.source


def _lines(statement: str, entry_point: str) -> Iterator[Example]:
    """Yield the lines that say what a call of the entry point gives."""
    name = called_name(entry_point)
    for number, line in enumerate(statement.split("\n")):
        for match in re.finditer(rf"\b{re.escape(name)}\(", line):
            ends = [m.end() for m in re.finditer(r"\)", line) if m.end() > match.end()]
            call_end = next((e for e in ends if _is_expression(line[match.start() : e])), None)
            gives = call_end and _GIVES.match(line, call_end)
            if gives and (value := _longest_value(line[gives.end() :])):
                arguments = line[match.start() + len(name) : call_end]
                yield "", entry_point + arguments, value, range(number, number + 1)


def _longest_value(text: str) -> str:
    """Return the longest beginning of a text that is a literal."""
    for end in range(len(text), 0, -1):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            ast.literal_eval(text[:end].strip())
            return text[:end].strip().rstrip(".")  # of a sentence
    return ""


def _is_expression(text: str) -> bool:
    try:
        return isinstance(parse(text).body[0], ast.Expr)
    except (SyntaxError, IndexError):
        return False
