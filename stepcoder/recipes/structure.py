"""How alike two programs are in structure: CodeBLEU's two matches (arXiv 2009.10297).

Takes two sources, gives the share of the reference's subtrees or data-flow edges that the candidate
has, 0..1. Both are read by Python's own parser; a candidate that does not parse has none.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from stepcoder.problems.source import parse

Edge = tuple[str, str, tuple[str, ...]]  # variable, relation, the variables that it comes from

# A list comprehension is a nest of small nodes: these carry no structure of their own.
_LEAVES = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def ast_match(candidate: str, reference: str) -> float:
    """Return the share of the reference's subtrees that the candidate has (PPOCoder, 3.2).

    A subtree is the nested types of its nodes: names and constants do not count. As in CodeBLEU's
    code, a subtree that the reference has twice counts twice, whatever the candidate's number.
    """
    wanted = subtrees(reference)
    if not wanted:
        return 0.0
    having = set(subtrees(candidate))
    return sum(tree in having for tree in wanted) / len(wanted)


def subtrees(source: str) -> list[str]:
    """Return every subtree that has children, as the nested types of its nodes."""
    found: list[str] = []

    def shape(node: ast.AST) -> str:
        children = [c for c in ast.iter_child_nodes(node) if not isinstance(c, _LEAVES)]
        if not children:
            return type(node).__name__
        text = f"({type(node).__name__} {' '.join(map(shape, children))})"
        found.append(text)
        return text

    try:
        shape(parse(source))
    except (SyntaxError, RecursionError):
        return []
    return found


def data_flow_match(candidate: str, reference: str) -> float:
    """Return the share of the reference's data-flow edges that the candidate has (PPOCoder, 3.3).

    Variables are numbered by first appearance, so that their names do not count. An edge is matched
    once. A reference without data flow gives 0.
    """
    wanted = Counter(data_flow(reference))
    if not wanted:
        return 0.0
    having = Counter(data_flow(candidate))
    return sum((wanted & having).values()) / sum(wanted.values())


def data_flow(source: str) -> list[Edge]:
    """Return the edges of a program: what each assignment computes from, where each use comes from.

    ("var_2", "computedFrom", ("var_0", "var_1")) is an assignment, also by `for` and in place;
    ("var_0", "comesFrom", ("var_0",)) the use of a variable that was bound before.
    """
    try:
        tree = parse(source)
    except SyntaxError:
        return []
    numbers: dict[str, str] = {}
    edges = []
    for name, relation, parents in _edges(tree, set()):
        for variable in (*parents, name):
            numbers.setdefault(variable, f"var_{len(numbers)}")
        edges.append((numbers[name], relation, tuple(numbers[p] for p in parents)))
    return edges


def _edges(node: ast.AST, bound: set[str]) -> Iterator[Edge]:
    """Yield the edges below a node in the order of the source; `bound` grows on the way."""
    match node:
        case ast.arg(arg=name):
            bound.add(name)
        case ast.Name(id=name, ctx=ast.Load()):
            if name in bound:
                yield name, "comesFrom", (name,)
        case ast.Assign(targets=targets, value=value):
            yield from _assignment(targets, value, bound)
        case ast.AugAssign(target=target, value=value):
            yield from _assignment([target], value, bound, kept=True)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield from _assignment([target], value, bound)
        case ast.NamedExpr(target=target, value=value):
            yield from _assignment([target], value, bound)
        case ast.For(target=target, iter=value, body=body, orelse=orelse):
            yield from _assignment([target], value, bound)
            for statement in (*body, *orelse):
                yield from _edges(statement, bound)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for generator in node.generators:
                yield from _assignment([generator.target], generator.iter, bound)
                for condition in generator.ifs:
                    yield from _edges(condition, bound)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            for part in parts:
                yield from _edges(part, bound)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _edges(child, bound)


def _assignment(
    targets: list[ast.expr], value: ast.expr, bound: set[str], kept: bool = False
) -> Iterator[Edge]:
    """Yield the uses in a value, then what each target computes from (itself too if `kept`)."""
    yield from _edges(value, bound)
    used = [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id in bound]
    for target in targets:
        for node in ast.walk(target):
            if not isinstance(node, ast.Name):
                continue
            if isinstance(node.ctx, ast.Load):  # xs[i] = ...: both are used
                yield from _edges(node, bound)
                continue
            own = [node.id] if kept and node.id in bound else []
            yield node.id, "computedFrom", tuple(dict.fromkeys([*own, *used]))
            bound.add(node.id)
