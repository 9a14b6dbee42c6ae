"""Kinds of bugs (arXiv 2407.06153): 3 classes, 12 sub-classes, told by rules where they can be.

Takes a verdict and the program, gives a name of KINDS. The rules look at the exception, the status,
expected and returned value, and the program's syntax tree. What they cannot tell is UNDECIDED: the
paper's authors, and a model after them, read programs for that. C.2 and C.4 are told only by their
plainest cases: a program that ignores its input, answers that are one off.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from typing import Any, TypeGuard

from stepcoder.problems.names import called_name
from stepcoder.problems.source import parse
from stepcoder.sandbox.verdict import Status, Verdict

KINDS = {
    "A.1 incomplete syntax": "an unfinished statement, bracket or quote, a missing colon",
    "A.2 indentation": "lines that are indented inconsistently",
    "A.3 library import": "an import that is missing, or of what is not there",
    "B.1 API misuse": "a wrong attribute, argument or type where something is called",
    "B.2 definition missing": "a name that is used and defined nowhere, or later",
    "B.3 boundary check": "an edge of the input is not handled: an index, a key, a zero",
    "B.4 argument": "the function's parameters differ from the task's in number or order",
    "B.5 runtime minors": "too slow, endless recursion, an exception of the program's own",
    "C.1 misunderstanding": "a wrong idea of the task or of the algorithm",
    "C.2 hallucination": "plausible code that does something else",
    "C.3 output format": "type, precision, order or layout of the answer",
    "C.4 functional minors": "off by one, a wrong initial value",
}
UNDECIDED = "undecided"
_KIND = {name[:3]: name for name in KINDS}
_OF_ERROR = {
    "SyntaxError": "A.1",
    **dict.fromkeys(("IndentationError", "TabError"), "A.2"),
    **dict.fromkeys(("ImportError", "ModuleNotFoundError"), "A.3"),
    **dict.fromkeys(("AttributeError", "TypeError"), "B.1"),
    **dict.fromkeys(("NameError", "UnboundLocalError"), "B.2"),
    **dict.fromkeys(("IndexError", "KeyError", "ValueError"), "B.3"),
    **dict.fromkeys(("ZeroDivisionError", "OverflowError"), "B.3"),
    **dict.fromkeys(("RecursionError", "SystemExit"), "B.5"),
    "EOFError": "C.3",  # it reads more than it is given
}
_LIMITS = {Status.CPU_TIME_LIMIT, Status.WALL_TIME_LIMIT, Status.MEMORY_LIMIT, Status.OUTPUT_LIMIT}
_UNJUDGED = {Status.ACCEPTED, Status.INFRASTRUCTURE_ERROR, Status.NOT_RUN}
# Names of `typing` and `collections` that programs use without their module, and famous aliases.
_IMPORTED = {"np", "pd", "List", "Dict", "Set", "Tuple", "Optional", "Any", "Union", "Counter"}
_IMPORTED |= {"defaultdict", "deque", "OrderedDict", "namedtuple", "lru_cache", "reduce", "sqrt"}


def bug_of(verdict: Verdict, source: str, entry_point: str | None = None) -> str | None:
    """Return the kind of bug that a verdict shows, UNDECIDED, or None where it shows none."""
    if verdict.status in _UNJUDGED:
        return None
    try:
        tree = parse(source)
    except (SyntaxError, RecursionError):
        tree = ast.Module([], [])
    if verdict.status is Status.WRONG_ANSWER:
        code = _of_wrong_answer(verdict, tree, entry_point)
    else:
        code = _of_error(verdict, tree, entry_point)
    return _KIND.get(code, UNDECIDED)


def _of_error(verdict: Verdict, tree: ast.Module, entry_point: str | None) -> str:
    raised, line = verdict.error_type or "", verdict.error_line
    if verdict.status in _LIMITS:
        return "B.5"
    if any(isinstance(n, ast.Raise | ast.Assert) and n.lineno == line for n in ast.walk(tree)):
        return "B.5"
    if line is None and _is_call_error(verdict.message, entry_point):
        return "B.4"
    name = re.search(r"name '(\w+)' is not defined", verdict.message)
    if raised == "NameError" and name and name[1] in _IMPORTED | sys.stdlib_module_names:
        return "A.3"
    return _OF_ERROR.get(raised, "")


def _is_call_error(message: str, entry_point: str | None) -> bool:
    """Return whether a message says that the entry point was called with other arguments."""
    name = re.escape(called_name(entry_point or ""))
    return re.match(rf"TypeError: (\w+\.)*{name}\(\) (missing|takes|got)", message) is not None


def _of_wrong_answer(verdict: Verdict, tree: ast.Module, entry_point: str | None) -> str:
    pairs = [pair for pair in _answers(verdict) if pair]
    function = next((n for n in ast.walk(tree) if _defines(n, entry_point)), None)
    nodes = list(ast.walk(function or tree))
    if _is_call_error(verdict.message, entry_point):
        return "B.4"
    if pairs and all(_differ_in_format(*pair) for pair in pairs):
        return "C.3"
    returns = any(isinstance(n, ast.Return | ast.Yield) and n.value is not None for n in nodes)
    calls = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    if function is not None and not returns and "print" in calls:
        return "C.3"
    if isinstance(function, ast.FunctionDef):
        parameters = {a.arg for a in (*function.args.posonlyargs, *function.args.args)} - {"self"}
        used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        if parameters and not parameters & used:
            return "C.2"
    if pairs and all(_are_one_off(*pair) for pair in pairs):
        return "C.4"
    passed = any(test.status is Status.ACCEPTED for test in verdict.tests)
    return "" if passed else "C.1"


def _defines(node: ast.AST, entry_point: str | None) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == called_name(entry_point or "")


def _answers(verdict: Verdict) -> Iterator[tuple[Any, Any] | None]:
    """Yield expected and returned value of each wrong answer, None where they are not known."""
    for test in verdict.tests:
        if test.status is Status.WRONG_ANSWER:
            found = re.fullmatch(r"expected (?:stdout )?(.*), got (.*)", test.message)
            try:
                yield (ast.literal_eval(found[1]), ast.literal_eval(found[2])) if found else None
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                yield None  # no plain data, or cut


def _differ_in_format(expected: Any, got: Any) -> bool:
    """Return whether a value is right but for its type, precision, order or layout."""
    if got is None:
        return False
    if _is_number(expected) and _is_number(got):
        return 0 < abs(expected - got) <= 0.01 * max(abs(expected), 0.1)
    if isinstance(expected, str) and isinstance(got, str):
        numbers = [re.findall(r"-?\d+\.?\d*", text) for text in (expected, got)]
        letters = [re.sub(r"\W", "", text).lower() for text in (expected, got)]
        return letters[0] == letters[1] != "" or numbers[0] == numbers[1] != []
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        return sorted(map(repr, expected)) == sorted(map(repr, got))
    return type(expected) is not type(got)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_one_off(expected: Any, got: Any) -> bool:
    """Return whether numbers differ by one, or sequences by an element at an end."""
    if _is_number(expected) and _is_number(got):
        return abs(expected - got) == 1
    if isinstance(expected, str | list | tuple) and type(expected) is type(got):
        short, long = sorted((expected, got), key=len)
        return len(long) - len(short) == 1 and short in (long[1:], long[:-1])
    return False
