"""What a compiler would say of a Python program: the line of its first static error.

Checked are syntax and names that nothing in the program binds, by Python's own parser.
"""

from __future__ import annotations

import ast
import builtins

from stepcoder.problems.source import parse

_ALWAYS_BOUND = {*dir(builtins), "__name__", "__file__", "__doc__"}


def static_error(source: str) -> int | None:
    """Return the 1-based line of the first static error, None if there is none.

    A star import may bind anything, so no name counts as unbound then.
    """
    try:
        tree = parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = _ALWAYS_BOUND | {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=str(name)) | ast.AsyncFunctionDef(name=str(name)):
                bound.add(name)
            case ast.ClassDef(name=str(name)) | ast.arg(arg=str(name)):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                bound.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.alias(name="*"):
                return None
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
            case ast.Global(names=listed) | ast.Nonlocal(names=listed):
                bound.update(listed)
    unbound = [n.lineno for n in names if n.id not in bound]
    return min(unbound, default=None)
