"""Coverage of a solution by its tests: which of its statements ran.

Takes a syntax tree and the lines that a tracer saw, gives the statements that ran; as with FGO,
lines that no instruction belongs to do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

# Not seen by a tracer, or seen as their body is.
_SILENT = (ast.Global, ast.Nonlocal, ast.Try, ast.TryStar)


def executed_statements(spans: Sequence[range], lines: frozenset[int]) -> set[int]:
    """Return the places of the statements of which a line ran."""
    return {i for i, span in enumerate(spans) if not lines.isdisjoint(span)}


def coverage(spans: Sequence[range], lines: frozenset[int]) -> float:
    """Return the share of the statements that ran; 1 for a program without statements."""
    return len(executed_statements(spans, lines)) / len(spans) if spans else 1.0


def statement_spans(tree: ast.Module) -> list[range]:
    """Return the lines of each statement, of compound ones those of the header.

    Left out are those that no tracer sees: declarations, docstrings, other constants, and
    annotations without a value. A `try:` counts as its body does.
    """
    spans = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or isinstance(node, _SILENT) or _is_silent(node):
            continue
        end = node.end_lineno or node.lineno
        body: list[ast.AST] = getattr(node, "body", None) or getattr(node, "cases", None) or []
        if body:
            end = max(min(end, min(map(_first_line, body)) - 1), node.lineno)
        spans.append(range(_first_line(node), end + 1))
    return spans


def _is_silent(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.AnnAssign) and node.value is None


def _first_line(node: ast.AST) -> int:
    header = getattr(node, "pattern", node)  # of a case
    nodes: list[ast.AST] = [header, *getattr(node, "decorator_list", [])]
    return min(getattr(each, "lineno", 1) for each in nodes)
