"""Small faults put into a program, to see whether its tests notice them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from stepcoder.sandbox import syntax

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.Is: (ast.IsNot,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
BOOLEAN: dict[type[ast.boolop], type[ast.boolop]] = {ast.And: ast.Or, ast.Or: ast.And}
JUMPS: dict[type[ast.stmt], type[ast.stmt]] = {ast.Break: ast.Continue, ast.Continue: ast.Break}

Edit = tuple[str, Callable[[], None], Callable[[], None]]


def _replace(owner: ast.AST, field: str, new: object, kind: str) -> Edit:
    """Return the edit that sets a field of a node, and its undoing."""
    old = getattr(owner, field)
    return kind, lambda: setattr(owner, field, new), lambda: setattr(owner, field, old)


def _statement_edits(node: ast.AST) -> Iterator[Edit]:
    """Yield the edits of the statement lists that a node owns."""
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        if not isinstance(block, list):
            continue
        for index, statement in enumerate(block):
            others: list[tuple[str, ast.stmt]] = [("removed statement", ast.Pass())]
            if type(statement) in JUMPS:
                others.append(("break for continue", JUMPS[type(statement)]()))
            for kind, new in others:
                yield _replace(node, field, [*block[:index], new, *block[index + 1 :]], kind)
    if isinstance(node, ast.If | ast.For | ast.While) and node.orelse:
        yield _replace(node, "orelse", [], "removed else")


def _expression_edits(node: ast.AST) -> Iterator[Edit]:
    """Yield the edits of a node's own operators, constants and conditions."""
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            for new in COMPARISONS.get(type(op), ()):
                ops = [*node.ops[:index], new(), *node.ops[index + 1 :]]
                yield _replace(node, "ops", ops, "comparison")
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield _replace(node, "op", ARITHMETIC[type(node.op)](), "arithmetic")
    elif isinstance(node, ast.BoolOp):
        yield _replace(node, "op", BOOLEAN[type(node.op)](), "and for or")
    elif isinstance(node, ast.Constant):
        if type(node.value) is int:
            yield _replace(node, "value", node.value + 1, "constant")
            yield _replace(node, "value", node.value - 1, "constant")
        elif isinstance(node.value, str):
            yield _replace(node, "value", node.value + "?", "constant")
        elif isinstance(node.value, bool):
            yield _replace(node, "value", not node.value, "constant")
    elif isinstance(node, ast.Return) and node.value is not None:
        yield _replace(node, "value", ast.Constant(None), "returned value")
    if isinstance(node, ast.If | ast.While):
        yield _replace(node, "test", ast.UnaryOp(ast.Not(), node.test), "negated condition")
    if isinstance(node, ast.If):
        yield _replace(node, "test", ast.Constant(True), "condition always true")
        yield _replace(node, "test", ast.Constant(False), "condition always false")


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, source) of each program that differs from `source` by one fault."""
    tree = syntax.parse(source)
    for node in list(ast.walk(tree))[1:]:  # without the module: its own statements stay
        for kind, edit, undo in [*_statement_edits(node), *_expression_edits(node)]:
            edit()
            yield kind, ast.unparse(ast.fix_missing_locations(tree))
            undo()
