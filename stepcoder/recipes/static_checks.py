"""What a compiler would say of a Python program: the line of its first static error.

Checked are syntax and names that nothing in the program binds, by Python's own parser.
"""

from __future__ import annotations

import ast
import builtins

from stepcoder.problems.names import bound_anywhere
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
    bound = _ALWAYS_BOUND | bound_anywhere(tree)
    if "*" in bound:
        return None
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return min((name.lineno for name in names if name.id not in bound), default=None)
