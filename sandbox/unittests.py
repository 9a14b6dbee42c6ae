"""Finds the names of the tests in a unittest module without running it.

Takes test code, gives "Class.method" for each test, in the order in which unittest runs them.
"""

from __future__ import annotations

import ast
import warnings

from stepcoder.sandbox import syntax

MAX_TEST_CODE_BYTES = 1 << 20


def test_names(code: str) -> tuple[str, ...]:
    """Return the tests of a module's TestCase classes; those made at run time are not found.

    Raises ValueError if there are none, if the code does not parse, or is over 1 MiB.
    """
    if len(code) > MAX_TEST_CODE_BYTES:
        raise ValueError("the unittest code is over 1 MiB; give the names of its tests")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            body = syntax.parse(code).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"the unittest code does not parse: {reason}") from None
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    names = []
    for name in sorted(classes):
        inside, outside = _ancestors(name, classes)
        if any(base.endswith("TestCase") for base in outside):
            methods = {method for cls in inside for method in _test_methods(classes[cls])}
            names += [f"{name}.{method}" for method in sorted(methods)]
    if not names:
        raise ValueError("the unittest code has no class of unittest.TestCase with test methods")
    return tuple(names)


def _ancestors(name: str, classes: dict[str, ast.ClassDef]) -> tuple[set[str], set[str]]:
    """Return a class with its bases within the module, and the names of its other bases."""
    inside, outside, waiting = set[str](), set[str](), [name]
    while waiting:
        name = waiting.pop()
        if name in inside:
            continue
        if name not in classes:
            outside.add(name)
            continue
        inside.add(name)
        # "TestCase" for unittest.TestCase
        waiting += [ast.unparse(base).rpartition(".")[2] for base in classes[name].bases]
    return inside, outside


def _test_methods(node: ast.ClassDef) -> list[str]:
    return [
        item.name
        for item in node.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
        and item.name.startswith("test")
    ]
