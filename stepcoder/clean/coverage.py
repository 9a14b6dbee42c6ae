"""Coverage of a solution by its tests: which of its statements ran.

Takes source text and the lines that a tracer saw, gives the share of the statements that ran; as
with FGO, lines that no instruction belongs to do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass

from stepcoder.problems.source import parse


@dataclass(frozen=True, slots=True)
class Coverage:
    """Statements of a program, and how many of them some test ran."""

    statements: int
    ran: int

    @property
    def share(self) -> float:
        """The share that ran; 1 for a program without statements."""
        return self.ran / self.statements if self.statements else 1.0


def coverage(source: str, executed_lines: Collection[int]) -> Coverage:
    """Return how much of a source that parses ran."""
    spans = statement_spans(parse(source))
    lines = set(executed_lines)
    return Coverage(len(spans), sum(not lines.isdisjoint(span) for span in spans))


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
            first = min(_first_line(inner) for inner in body)
            end = max(min(end, first - 1), node.lineno)
        spans.append(range(_first_line(node), end + 1))
    return spans


_SILENT = (ast.Global, ast.Nonlocal, ast.Try, ast.TryStar)


def _is_silent(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.AnnAssign) and node.value is None


def _first_line(node: ast.AST) -> int:
    lines: list[int] = [inner.lineno for inner in getattr(node, "decorator_list", [])]
    pattern = getattr(node, "pattern", node)  # of a case
    lines.append(getattr(pattern, "lineno", 1))
    return min(lines)
