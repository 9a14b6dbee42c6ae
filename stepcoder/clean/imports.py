"""Imports that a solution forgot: which names nothing binds, and the statement that binds each.

Takes a syntax tree and the preamble that runs before it, gives import statements of the standard
library only.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from functools import cache

from stepcoder.problems.names import bound_anywhere
from stepcoder.problems.problem import Problem
from stepcoder.problems.prompts import starter_part
from stepcoder.problems.source import parse

# In this order: a name of two modules is taken from the first.
MODULES = (
    "typing", "collections", "heapq", "itertools", "functools", "bisect", "math", "string", "re",
    "sys", "random", "operator", "copy", "decimal", "fractions", "datetime", "dataclasses",
    "statistics", "json", "os", "time", "io", "enum", "cmath", "calendar", "textwrap", "hashlib",
)  # fmt: skip
# Whose functions are used without their module's name, in programs that lost `from ... import`.
_OFTEN_BARE = (*MODULES[:8], "operator", "copy", "decimal", "fractions", "datetime", "dataclasses")
# More likely a forgotten variable than one of these.
_UNLIKELY = frozenset(
    {"count", "repeat", "cycle", "tee", "dist", "sub", "add", "index", "e", "inv"}
)
_SYS_NAMES = frozenset({"stdin", "stdout", "stderr", "setrecursionlimit", "maxsize"})


def missing_imports(source: str, tree: ast.Module, preamble: str) -> list[str]:
    """Return an import statement for each well-known name that is used and bound nowhere.

    `source` is the text of the tree: most programs have no word that could be one.
    """
    if not (set(_WORD.findall(source)) & _known().keys()) - _names_of(preamble):
        return []
    used: dict[str, set[str]] = {}  # name: the attributes that are taken of it
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.setdefault(node.id, set())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    bound = _bound(tree)
    if "*" in bound:
        return []
    names = (used.keys() & _known().keys()) - bound - _BUILTINS - _names_of(preamble)
    return sorted({statement for name in names if (statement := _statement(name, used[name]))})


def add_imports(problem: Problem, statements: list[str]) -> dict[str, str]:
    """Return the solution, and the starter code if it begins the solution, with imports on top."""
    lines = "\n".join(statements) + "\n"
    changes = {"canonical_solution": lines + problem.canonical_solution.lstrip("\n")}
    if starter_part(problem):
        changes["starter_code"] = lines + problem.starter_code.lstrip("\n")
    return changes


_WORD = re.compile(r"\w+")
_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__"}


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that a program binds anywhere; "*" is one where that cannot be known."""
    bound = bound_anywhere(tree) - {"*"}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="__future__"):  # must stay the first statement
                bound.add("*")
            case ast.ImportFrom(module=module, names=[ast.alias(name="*")]):
                bound |= _public(module) if module in MODULES else {"*"}
    return bound


@cache
def _names_of(preamble: str) -> frozenset[str]:
    return frozenset(_bound(parse(preamble)))


@cache
def _public(module: str) -> frozenset[str]:
    loaded = importlib.import_module(module)
    return frozenset(getattr(loaded, "__all__", None) or {n for n in dir(loaded) if n[0] != "_"})


@cache
def _known() -> dict[str, str]:
    """Return the module of each name that is used without it."""
    found = {name: "sys" for name in _SYS_NAMES} | {name: name for name in MODULES}
    for module in _OFTEN_BARE:
        for name in sorted(_public(module) - _UNLIKELY - _BUILTINS):
            if len(name) > 1:
                found.setdefault(name, module)
    return found


def _statement(name: str, attributes: set[str]) -> str:
    """Return the import that binds a name as it is used; "" if none is known."""
    if name in MODULES and (not attributes or attributes & set(dir(importlib.import_module(name)))):
        both = name in _public(name) and not attributes
        return f"from {name} import {name}" if both else f"import {name}"
    if name in MODULES and name in _public(name):  # datetime.now(), copy(x)
        return f"from {name} import {name}"
    module = _known().get(name)
    return f"from {module} import {name}" if module and module != name else ""
