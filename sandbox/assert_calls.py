"""Compiles assert tests into call tests: `assert f([1, 2]) == 3` becomes a call and a condition.

Such a test needs no tester. The program is called with constants, and the condition is evaluated on
the returned value here, outside the sandbox, as for call tests. That takes one process instead of
two that talk to each other. If some test of a submission needs more than one call with constants,
all its tests go to a tester (`jobs`).

The test code is trusted, but the returned value is not. So conditions are limited to computations
that stay small for every value: comparisons with constants, and a few functions.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from stepcoder.sandbox import syntax
from stepcoder.sandbox.program import AssertTests, CallTests, Program, Submission

_LONGEST = 1 << 13  # characters of a test; longer ones hold tables of inputs for loops
_STATEMENTS = re.compile(
    r"^\s*(for|while|if|try|with|class|from|global|async|raise)\b", re.MULTILINE
)
_MAX_ITEMS = 100_000
_MAX_BITS = 10_000
_GOT = "_got"
_FUNCTIONS: dict[str, Any] = {"abs": abs, "int": int, "len": len, "round": round, "tuple": tuple}
_NAMES = {"__builtins__": {}, "isclose": math.isclose, **_FUNCTIONS}


@dataclass(frozen=True, slots=True, repr=False)
class Condition:
    """A condition on a returned value: that it equals `expected`, or `code`, with it as `_got`."""

    expected: Any = None
    code: types.CodeType | None = None
    text: str = ""  # of `code`, for people

    def holds(self, got: Any) -> bool:
        """Return whether the assert holds for a returned value, which is plain data."""
        try:
            if self.code is None:
                return bool(got == self.expected)
            return bool(eval(self.code, _NAMES, {_GOT: got}))
        except Exception:  # an assert that raises has failed
            return False

    def __repr__(self) -> str:
        """Return the text for "expected ..." in messages."""
        return repr(self.expected) if self.code is None else self.text


@dataclass(frozen=True, slots=True)
class CompiledAsserts(CallTests):
    """Asserts as call tests. The outputs are Conditions; a test with input None calls nothing."""

    def holds(self, index: int, got: Any) -> bool:
        """Return whether an assert holds for the value that its call returned."""
        return bool(self.outputs[index].holds(got))


class _NotSimpleError(Exception):
    """A test needs more than one call with constants."""


def compile_asserts(submission: Submission) -> Submission | None:
    """Return the submission with CompiledAsserts as its tests, None if some assert needs a tester.

    They decide only if the program returns plain data. With other values a tester can do more.
    """
    program, tests = submission.program, submission.tests
    if not isinstance(tests, AssertTests) or tests.shared_process or program.preamble:
        return None
    compiled = _compiled(program.entry_point, tests.setup, tests.asserts, tests.process_per_test)
    if compiled is None:
        return None
    name, calls = compiled
    return replace(
        submission, program=Program(program.source, name, language=program.language), tests=calls
    )


# Many programs are judged on the tests of one problem.
@lru_cache(maxsize=8192)
def _compiled(
    entry_point: str | None, setup: str, asserts: tuple[str, ...], process_per_test: bool
) -> tuple[str, CompiledAsserts] | None:
    root = (entry_point or "").partition("(")[0].partition(".")[0]
    try:
        _check_setup(setup)
        found = [_compiled_assert(text, root) for text in asserts]
    except (_NotSimpleError, SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    names = {name for name, _, _ in found if name is not None}
    if len(names) != 1:
        return None
    inputs: tuple[Any, ...] = tuple(arguments for _, arguments, _ in found)
    outputs = tuple(condition for _, _, condition in found)
    return names.pop(), CompiledAsserts(inputs, outputs, process_per_test=process_per_test)


def _check_setup(setup: str) -> None:
    """Accept imports of math, docstrings and assigned constants, which no simple assert uses."""
    if len(setup) > _LONGEST:
        raise _NotSimpleError
    for node in syntax.parse(setup).body:
        match node:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Import(names=[ast.alias(name="math", asname=None)]):
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
                ast.literal_eval(value)
            case _:
                raise _NotSimpleError


def _compiled_assert(text: str, root: str) -> tuple[str | None, list[Any] | None, Condition]:
    """Return the name that a test calls, the arguments and the condition on the value."""
    if len(text) > _LONGEST or _STATEMENTS.search(text):  # parsing takes longer than this
        raise _NotSimpleError
    body = syntax.parse(text).body
    alias: str | None = None
    name: str | None = None
    statements = body
    match body:
        case [
            ast.FunctionDef(
                name=check,
                args=ast.arguments(
                    posonlyargs=[],
                    args=[ast.arg(arg=alias)],
                    vararg=None,
                    kwonlyargs=[],
                    kwarg=None,
                ),
                decorator_list=[],
                body=statements,
            ),
            ast.Expr(
                value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id=name)], keywords=[])
            ),
        ] if called == check and name != check:
            pass
    conditions = [
        node for node in statements if not _is_docstring(node) and not _imports_math(node)
    ]
    match conditions:
        case [ast.Assert(test=condition)]:
            finder = _CallFinder(alias, root)
            condition = finder.visit(condition)
            return (name if alias else finder.name), finder.arguments, _condition(condition)
    raise _NotSimpleError


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imports_math(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import) and [(n.name, n.asname) for n in node.names] == [
        ("math", None)
    ]


class _CallFinder(ast.NodeTransformer):
    """Replaces the one call of the program by `_got` and checks the rest of the expression."""

    def __init__(self, alias: str | None, root: str) -> None:
        self.alias = alias
        self.root = root
        self.name: str | None = None
        self.arguments: list[Any] | None = None

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if node.keywords and not _is_isclose(node.func):
            raise _NotSimpleError
        match node.func:
            case ast.Name(id=name) if self._is_program(name):
                if self.arguments is not None:
                    raise _NotSimpleError
                self.name = name
                self.arguments = [constant(argument) for argument in node.args]
                return ast.copy_location(ast.Name(_GOT, ast.Load()), node)
            case ast.Name(id=name) if name in _FUNCTIONS:
                function = name
            case function_node if _is_isclose(function_node):
                function = "isclose"
            case _:
                raise _NotSimpleError
        node.func = ast.copy_location(ast.Name(function, ast.Load()), node.func)
        node.args = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            constant(keyword.value)
        return node

    def _is_program(self, name: str) -> bool:
        if self.alias is not None:
            return name == self.alias
        # In test code a builtin hides the program's function of the same name.
        return name == self.root or not hasattr(builtins, name)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        node.left = self.visit(node.left)
        node.comparators = [self.visit(other) for other in node.comparators]
        for i, (operator, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            left = node.comparators[i - 1] if i else node.left
            if isinstance(operator, (ast.Is, ast.IsNot)) and not (
                _singleton(left) or _singleton(right)
            ):
                raise _NotSimpleError
            # The program decides how long a search through its returned value takes.
            if isinstance(operator, (ast.In, ast.NotIn)):
                constant(right)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if not _has_call(node):
            return _as_constant(node)
        # Subtraction only, of numbers or sets: its result is never larger than its operands.
        if not isinstance(node.op, ast.Sub):
            raise _NotSimpleError
        node.left, node.right = self.visit(node.left), self.visit(node.right)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if not _has_call(node):
            return _as_constant(node)
        if not isinstance(node.op, (ast.Not, ast.USub)):
            raise _NotSimpleError
        node.operand = self.visit(node.operand)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.expr):
            raise _NotSimpleError
        return _as_constant(node)


def _is_isclose(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="math"), attr="isclose"):
            return True
    return False


def _singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and any(node.value is x for x in (None, True, False))


def _has_call(node: ast.expr) -> bool:
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _as_constant(node: ast.expr) -> ast.expr:
    constant(node)  # raises if it is no constant, or too large
    return node


def _condition(node: ast.expr) -> Condition:
    match node:
        case ast.Compare(left=ast.Name(id="_got"), ops=[ast.Eq()], comparators=[right]) if not (
            _has_call(right)
        ):
            return Condition(expected=constant(right))
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "<assert>", "eval")
    return Condition(code=code, text=ast.unparse(node).replace(_GOT, "value"))


_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}


def constant(node: ast.expr) -> Any:
    """Return the value of an expression of literals. Raises _NotSimpleError for any other."""
    match node:
        case ast.Constant(value=value) if value is not ...:
            return value
        case ast.List(elts=items):
            return [constant(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(constant(item) for item in items)
        case ast.Set(elts=items):
            return {constant(item) for item in items}
        case ast.Dict(keys=keys, values=values):
            pairs: Sequence[tuple[ast.expr | None, ast.expr]] = list(zip(keys, values, strict=True))
            return {constant(key): constant(value) for key, value in _whole(pairs)}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(constant(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_number(constant(operand))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _computed(type(operator), constant(left), constant(right))
    raise _NotSimpleError


def _whole(
    pairs: Sequence[tuple[ast.expr | None, ast.expr]],
) -> list[tuple[ast.expr, ast.expr]]:
    whole = [(key, value) for key, value in pairs if key is not None]
    if len(whole) != len(pairs):  # {**other}
        raise _NotSimpleError
    return whole


def _number(value: Any) -> int | float | complex:
    if not isinstance(value, (int, float, complex)):
        raise _NotSimpleError
    return value


def _computed(operator: type[ast.operator], left: Any, right: Any) -> Any:
    """Return `left operator right` if that cannot be large."""
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if numbers and operator is ast.Pow:
        if abs(right) > _MAX_BITS or abs(right) * max(_bits(left), 1) > _MAX_BITS:
            raise _NotSimpleError
    elif numbers:
        if max(_bits(left), _bits(right)) > _MAX_BITS:
            raise _NotSimpleError
    elif operator is ast.Mult:
        sequence, count = (right, left) if isinstance(left, int) else (left, right)
        if not isinstance(sequence, (str, bytes, list, tuple)) or not isinstance(count, int):
            raise _NotSimpleError
        if len(sequence) * max(count, 0) > _MAX_ITEMS:
            raise _NotSimpleError
    elif operator is not ast.Add or type(left) is not type(right):
        raise _NotSimpleError
    try:
        return _ARITHMETIC[operator](left, right)
    except (ArithmeticError, TypeError):
        raise _NotSimpleError from None


def _bits(value: float) -> int:
    return value.bit_length() if isinstance(value, int) else 64
