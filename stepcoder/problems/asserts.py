"""Splits test code into single tests: the asserts of HumanEval, MBPP and LeetCode.

Takes source text that raises on failure; gives AssertTests. Its pieces, run one after the other in
one namespace, run the same asserts on the same values as the whole text.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from stepcoder.problems.names import DEFINITIONS, bound_names, loaded_names
from stepcoder.problems.source import parse, split_lines
from stepcoder.sandbox.program import AssertTests

_LONGEST = 1 << 16


def split_asserts(code: str) -> AssertTests:
    """Return the tests of `code`, one for each assert that can stand alone.

    Leading imports, definitions and literals become the setup. Two layouts are split: asserts at
    the top level, and `def check(candidate): ...` followed by `check(name)`; the body of `check` is
    split only if no piece uses a local variable of another. Statements between two asserts stay
    with the second. All other code is one test, and so is code over 64 KiB: EvalPlus has tables of
    inputs of that size, which take long to parse. Raises SyntaxError if the code does not parse.
    """
    code = code.removeprefix("\ufeff")
    if len(code) > _LONGEST:
        return AssertTests((code,))
    lines = split_lines(code)
    body = parse(code).body
    count = next((i for i, node in enumerate(body) if not _is_setup(node)), len(body))
    setup = _text(lines, body[:count])
    pieces = _check_pieces(lines, body)
    if pieces is not None:
        return AssertTests(tuple(pieces), _text(lines, body[:-2]))
    groups = _groups(body[count:])
    return AssertTests(tuple(_text(lines, group) for group in groups) or (code,), setup)


def _check_pieces(lines: Sequence[str], body: Sequence[ast.stmt]) -> list[str] | None:
    """Return one `check` for each group of statements of the given one; None if that is unsafe.

    The statements stay inside a function: as globals, the local variables of a test could shadow
    names that the program uses (HumanEval/38 has one called `str`).
    """
    match body[-2:]:
        case [
            ast.FunctionDef(name=name, decorator_list=[]) as check,
            ast.Expr(value=ast.Call(func=ast.Name(id=called))) as call,
        ] if name == called and check.body[0].lineno > check.lineno:
            pass
        case _:
            return None
    imports = [node for node in check.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    groups = _groups([node for node in check.body if node not in imports])
    if len(groups) < 2:
        return None
    bound = [bound_names(*group) for group in groups]
    loaded = [loaded_names(*group) for group in groups]
    for i, names in enumerate(bound):
        if any(names & others for j, others in enumerate(loaded) if j != i):
            return None
    header = "\n".join(lines[check.lineno - 1 : check.body[0].lineno - 1])
    opening = [header, *(_text(lines, [node]) for node in imports)]
    return ["\n".join([*opening, _text(lines, group), _text(lines, [call])]) for group in groups]


def _groups(statements: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """Split statements after each one that holds an assert, but never within a line."""
    groups: list[list[ast.stmt]] = []
    closed = True
    for node in statements:
        shares_line = bool(groups) and _first_line(node) <= _last_line(groups[-1][-1])
        if closed and not shares_line:
            groups.append([])
        groups[-1].append(node)
        closed = any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
    if len(groups) > 1 and not closed:
        trailing = groups.pop()
        groups[-1].extend(trailing)
    return groups


def _is_setup(node: ast.stmt) -> bool:
    """Return whether a leading statement belongs to the setup: it calls nothing of the program."""
    if isinstance(node, ast.Assign):
        return not any(isinstance(inner, (ast.Call, ast.Name)) for inner in ast.walk(node.value))
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, (ast.Import, ast.ImportFrom, *DEFINITIONS))


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _last_line(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _text(lines: Sequence[str], statements: Sequence[ast.stmt]) -> str:
    """Return the whole lines from the first statement to the last one."""
    if not statements:
        return ""
    return "\n".join(lines[_first_line(statements[0]) - 1 : _last_line(statements[-1])])
