"""Whether a program's output could depend on the hash seed, the random seed, time or the system.

Takes source text, gives a bool: False only where the syntax shows that it cannot, so that a second
run would be wasted.
"""

from __future__ import annotations

import ast
import random
import re
from functools import cache

from stepcoder.problems.source import parse

# fmt: off
_MODULES = frozenset({
    "math", "cmath", "collections", "collections.abc", "heapq", "itertools", "functools", "bisect",
    "string", "re", "sys", "typing", "operator", "decimal", "fractions", "json", "copy",
    "dataclasses", "enum", "abc", "statistics", "textwrap", "array", "io", "numbers", "contextlib",
    "doctest", "__future__",
})
# fmt: on
_NAMES = frozenset(
    {"set", "frozenset", "hash", "id", "dir", "vars", "globals", "locals", "object", "open", "exec"}
    | {"eval", "__import__", "getsizeof", "environ", "hash_info", "time", "perf_counter"}
    | {name for name in dir(random) if not name.startswith("_")}
)
_TELLING = _NAMES | {"import", "keys", "items"}  # without one of them there is nothing to look for
_WORD = re.compile(r"\w+")
_SET_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)


def may_vary(*sources: str) -> bool:
    """Return whether any of the sources could give another output in another run."""
    return any(map(_may_vary, sources))


@cache
def _may_vary(source: str) -> bool:
    words = set(_WORD.findall(source))
    if "{" not in source and words.isdisjoint(_TELLING):
        return False
    try:
        tree = parse(source)
    except SyntaxError:
        return True
    return any(map(_varies, ast.walk(tree)))


def _varies(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _NAMES
        case ast.Set() | ast.SetComp():
            return True
        case ast.Import(names=aliases):
            return any(alias.name not in _MODULES for alias in aliases)
        case ast.ImportFrom(module=module, names=aliases):
            return module not in _MODULES or any(alias.name in _NAMES for alias in aliases)
        case (
            ast.BinOp(left=ast.Call(func=ast.Attribute(attr="keys" | "items")), op=op)
            | ast.BinOp(right=ast.Call(func=ast.Attribute(attr="keys" | "items")), op=op)
        ):
            return isinstance(op, _SET_OPERATORS)
    return False
