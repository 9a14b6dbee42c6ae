"""Names in Python source: what binds them, what uses them, and what an entry point calls.

Takes syntax trees of `source.parse` and entry points ("two_sum", "Solution().twoSum"); gives names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BINDERS = (ast.Name, ast.alias, *DEFINITIONS)


def bound_at(node: ast.AST) -> Iterator[str]:
    """Yield the names that one node binds, its children aside; "*" for a star import.

    `del` counts, as it does where Python decides which names are local to a function.
    """
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name.partition(".")[0]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


def bound_anywhere(tree: ast.AST) -> set[str]:
    """Return the names that a tree binds in any of its scopes; "*" is one for a star import."""
    return {name for node in ast.walk(tree) for name in bound_at(node)}


def bound_names(*statements: ast.stmt) -> set[str]:
    """Return the names that statements bind in their own scope by assignment, import, definition.

    Of a definition that is its name alone. The body of a compound statement belongs to its scope,
    and so do functions within that body, whose own variables are not told apart.
    """
    names: set[str] = set()
    for statement in statements:
        inner = (statement,) if isinstance(statement, DEFINITIONS) else ast.walk(statement)
        for node in inner:
            if isinstance(node, _BINDERS):
                names.update(bound_at(node))
    return names


def loaded_names(*nodes: ast.AST) -> set[str]:
    """Return the names whose values nodes use."""
    return {
        node.id
        for root in nodes
        for node in ast.walk(root)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def defined_name(entry_point: str) -> str:
    """Return the top-level name that an entry point needs: "Solution" of "Solution().twoSum"."""
    return entry_point.partition("(")[0].partition(".")[0]


def entry_point_in(tree: ast.Module, name: str) -> str:
    """Return how tests reach a function of a program that may have put it into a class Solution.

    For sets that give the bare name: their harnesses look into the program as well.
    """
    methods = [
        bound_names(*node.body)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Solution"
    ]
    return f"Solution().{name}" if any(name in found for found in methods) else name


def called_name(entry_point: str) -> str:
    """Return the name of the function or method that is called: "twoSum" of "Solution().twoSum"."""
    return entry_point.rpartition(".")[2]
