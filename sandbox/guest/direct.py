"""Runs assert and unittest tests in the program's own process, on the program's own objects.

Only for programs that pass `screen`; for others `run` records STRICT, and the judge starts a job in
which the tests have a process of their own (`tester`). What a screened program could still do is
kept from it here: the interpreter refuses it frames and code, classes of the library are frozen,
its own classes are guarded (`guards`). The tests' code is changed so that each assertion that fails
is noted, and the test fails unless its own code catches that, whatever else swallows it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import os
import random
import sys
import types
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from .. import _launcher
from . import guards, screen, stand_ins, tester, unittests
from .describe import FILENAME, describe
from .guards import STRICT, TEST_FILENAME, leave

TESTS_MODULE = "tests"

# Functions whose C code takes a StopIteration of the function they are given for their own end.
_CALLERS = screen.words(
    "map filter iter starmap accumulate takewhile dropwhile filterfalse groupby"
)
_FAILURE, _CAUGHT, _NOTED, _CALLED = "__failure__", "__caught__", "__noted__", "__called__"
_UNDER_TEST, _COMPARED = "__under_test__", "__compared__"

# Names that a test must not hand to a program, which could look into the test with them.
_HANDED = screen.GUARDED_BUILTINS | {"eval", "exec", "compile", "globals", "locals", "__import__"}
_INTROSPECTION = screen.words("inspect operator sys gc builtins types traceback importlib")


class Failure(AssertionError):
    """An assertion of a test that has failed. Its text is kept from the program."""

    def __init__(self, *arguments: Any) -> None:
        """Note the failure."""
        super().__init__()
        _failures.append((self, arguments))


Failure.__name__ = Failure.__qualname__ = "AssertionError"
Failure.__module__ = "builtins"
_failures: list[tuple[BaseException, tuple[Any, ...]]] = []


def forget(error: BaseException | None) -> None:
    """Forget a failed assertion, which the test itself has caught."""
    for failure in _failures:
        if failure[0] is error and not _through_program(error):
            error.args = failure[1]
            _failures.remove(failure)
            return


def _through_program(error: BaseException) -> bool:
    """Return whether the program has had a failed assertion, and may have raised it again."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == FILENAME:
            return True
        traceback = traceback.tb_next
    return False


def caught() -> None:
    """Begin a handler of the test."""
    guards.compared()
    forget(sys.exc_info()[1])


def noted() -> None:
    """Note a failed assertion of a library that is about to leave a `with` of the test."""
    guards.compared()
    error = sys.exc_info()[1]
    if not isinstance(error, AssertionError) or isinstance(error, Failure):
        return
    if not raised_by_program(error):
        _failures.append((error, error.args))
        error.args = ()


def called(function: Any) -> Any:
    """Return a function for `map` and the like, that does not end them by StopIteration."""
    if not callable(function) or isinstance(function, type):
        return function

    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except StopIteration:
            raise RuntimeError("the program raised StopIteration") from None

    return call


class _Instrument(ast.NodeTransformer):
    """Notes failed assertions of test code, and which objects it has made by their class."""

    def __init__(self, *trees: ast.Module) -> None:
        """Find the names that are only ever bound to objects made by their class, T()."""
        nodes = [node for tree in trees for node in ast.walk(tree)]
        self.bound: Counter[str] = Counter()
        self.imported: set[str] = set()
        for node in nodes:
            match node:
                case ast.Name(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                    self.bound[ast.unparse(node)] += 1
                case ast.AugAssign():  # another operator of the same object
                    self.bound[ast.unparse(node.target)] -= 1
                case ast.arg(arg=name):
                    self.bound[name] += 1
                case ast.Import(names=aliases):
                    self.imported |= {alias.asname or alias.name for alias in aliases}
        self.made: set[str] = set()
        for _ in range(2):  # the second time with what operators make of those of the first
            made: Counter[str] = Counter()
            for node in nodes:
                match node:
                    case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)):
                        pairs = list(zip(targets, values, strict=False))
                    case ast.Assign([target], value):
                        pairs = [(target, value)]
                    case _:
                        continue
                made.update(ast.unparse(target) for target, v in pairs if self._makes(v))
            self.made = {name for name, times in made.items() if times == self.bound[name]}

    def _makes(self, node: ast.expr) -> bool:
        """Return whether an expression makes an object by its class, to judge by the name.

        Or by an operator, of such objects and constants.
        """
        match node:
            case ast.BinOp(left, _, right):
                leaves = [self._makes(side) for side in (left, right)]
                plain = [not any(map(_may_call, ast.walk(side))) for side in (left, right)]
                return any(leaves) and all(m or p for m, p in zip(leaves, plain, strict=True))
            case ast.UnaryOp(ast.USub() | ast.UAdd() | ast.Invert(), operand):
                return self._makes(operand)
            case ast.Name() | ast.Attribute():
                return ast.unparse(node) in self.made
            case ast.Call(func=ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name))):
                return name[0].isupper() and not self.bound[name]
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
                return name[0].isupper() and module in self.imported
        return False

    def _put_under_test(self, node: ast.expr) -> ast.expr:
        """Let an object of a class under test say what it equals, as by any other method."""
        return _called(_UNDER_TEST, node) if self._makes(node) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        left, right = node.left, node.comparators[0]
        if not isinstance(node.ops[0], (ast.In, ast.NotIn)):
            node.left = self._put_under_test(left)
        if node.left is left:
            node.comparators[0] = self._put_under_test(right)
        changed = node.left is not left or node.comparators[0] is not right
        self.generic_visit(node)
        return _called(_COMPARED, node) if changed else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        left, right = node.left, node.right
        node.left = self._put_under_test(left)
        if node.left is left:
            node.right = self._put_under_test(right)
        changed = node.left is not left or node.right is not right
        self.generic_visit(node)
        return _called(_COMPARED, node) if changed else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        if ast.unparse(node.target) not in self.made:
            return node
        tested = _statement(f"{_UNDER_TEST}({ast.unparse(node.target)})", node)
        return [tested, node, _statement(f"{_COMPARED}()", node)]

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        raised = ast.Call(ast.Name(_FAILURE, ast.Load()), [node.msg] if node.msg else [], [])
        fails = ast.If(ast.UnaryOp(ast.Not(), node.test), [ast.Raise(raised, None)], [])
        return ast.fix_missing_locations(ast.copy_location(fails, node))

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id == "AssertionError":
                inner.id = _FAILURE
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, _statement(f"{_CAUGHT}()", node))
        return node

    def visit_With(self, node: ast.With | ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        handler = ast.ExceptHandler(None, None, [_statement(f"{_NOTED}()", node), ast.Raise()])
        inner = ast.Try(node.body, [handler], [], [])
        node.body = [ast.fix_missing_locations(ast.copy_location(inner, node))]
        return node

    visit_AsyncWith = visit_With

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        compares = name == "divmod" or str(name).startswith("assert")
        for at, asked in enumerate(node.args[:2] if compares and len(node.args) > 1 else ()):
            node.args[at] = self._put_under_test(asked)
            if node.args[at] is not asked:
                self.generic_visit(node)
                return _called(_COMPARED, node)
        self.generic_visit(node)
        if name in _CALLERS:
            node.args = [
                argument
                if isinstance(argument, (ast.Starred, ast.Constant))
                else _called(_CALLED, argument)
                for argument in node.args
            ]
        return node


def _may_call(node: ast.AST) -> bool:
    return isinstance(node, (ast.Call, ast.Name, ast.Attribute))


def _called(function: str, node: ast.expr) -> ast.expr:
    """Return the call of a function on an expression."""
    call = ast.copy_location(ast.Call(ast.Name(function, ast.Load()), [node], []), node)
    return ast.fix_missing_locations(call)


def _statement(text: str, at: ast.AST) -> ast.stmt:
    statement = ast.parse(text).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, at)
    return statement


def compile_test(text: str, *setup: ast.Module) -> types.CodeType:
    """Compile a piece of test code. Raises RefusedError if it opens itself to the program."""
    tree = ast.parse(text)
    _check_test(tree)
    instrument = _Instrument(tree, *setup)
    return compile(instrument.visit(tree), TEST_FILENAME, "exec", dont_inherit=True)


def _check_test(tree: ast.Module) -> None:
    """Raise RefusedError if a test hands itself, modules or means of introspection around."""
    modules: dict[str, str] = {}
    handed = set(_HANDED)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _check_library(alias.name)
                modules[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            _check_library(node.module or "")
            if node.module in _INTROSPECTION:
                handed |= {alias.asname or alias.name for alias in node.names}
    used: set[int] = set()  # nodes that are only called, or only asked for an attribute
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(id(node.value))
        elif isinstance(node, ast.Call):
            used.add(id(node.func))
            if _is_tests_own(node.func):
                used.update(map(id, node.args))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and id(node) not in used
            and (node.id in handed or node.id in modules)
        ):
            raise screen.RefusedError(f"the test hands over {node.id}")
        if isinstance(node, ast.Attribute) and id(node) not in used:
            module = modules.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
            if module in _INTROSPECTION and node.attr not in ("stdout", "stdin", "stderr", "argv"):
                raise screen.RefusedError(f"the test hands over {module}.{node.attr}")
        if isinstance(node, ast.ClassDef) and _is_case(node):
            for inner in ast.walk(node):
                name = inner.id if isinstance(inner, ast.Name) else ""
                if name in ("self", "cls") and id(inner) not in used:
                    raise screen.RefusedError("the test hands itself over")


def _check_library(name: str) -> None:
    """Raise RefusedError if a test has objects of a library that evaluates text.

    DataFrame.eval and Symbol.subs read the variables of all that runs.
    """
    root = name.partition(".")[0]
    if root in sys.modules and root not in ("numpy", "program", *sys.stdlib_module_names):
        raise screen.RefusedError(f"tests with {root}")


def _is_case(node: ast.ClassDef) -> bool:
    return any("TestCase" in ast.unparse(base) for base in node.bases)


def _is_tests_own(function: ast.expr) -> bool:
    """Return whether a call is of a TestCase's method, or of a builtin that keeps nothing."""
    match function:
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
            return name.startswith(("assert", "add", "enter", "subTest"))
        case ast.Attribute(attr="setUp" | "tearDown" | "setUpClass" | "tearDownClass"):
            return True
        case ast.Name(id=name):
            return name in screen.GUARDED_BUILTINS | {"super", "type", "isinstance", "print", "id"}
    return False


def prepared(
    source: str, module: types.ModuleType, entry_point: str | None, *, numpy: bool
) -> types.CodeType:
    """Return the program's code for this mode. Raises RefusedError."""
    tree = ast.parse(source)
    guards.patterns = any(isinstance(n, ast.MatchClass) and n.patterns for n in ast.walk(tree))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    guards.statements = {
        (node.col_offset, node.end_lineno or 0, node.end_col_offset or 0) for node in classes
    }
    if screen.screen(tree, entry_point, module.__dict__, numpy=numpy):
        tree = stand_ins.put_in(tree, module)
    return compile(tree, FILENAME, "exec", dont_inherit=True)


def rehearse(source: str, times: int) -> None:
    """Do in the worker, before it forks children, what no run has to do again.

    The library's classes are frozen here: a child would copy the pages of all of them.
    """
    test = "assert isinstance(f(1), list) and abs(f(2)[0] - 1) < 2, 'no'"
    for _ in range(times):
        compile_test(test)
        prepared(source, types.ModuleType("program"), "f", numpy=False)
    freeze_library()


def freeze_library() -> None:
    """Make the classes of all loaded modules of the library immutable."""
    global _modules
    waiting: list[type] = [object]
    found: set[type] = set()
    while waiting:
        new: set[type] = set(type.__subclasses__(waiting.pop())) - found
        found |= new
        waiting += new
    immutable = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
    kept = (Failure, weakref.finalize)  # the library itself changes the latter
    # Other libraries change classes of their own, and the screen lets no program import them.
    guarded = sys.stdlib_module_names | {"numpy", "_sandbox"}
    _frozen.update(
        k
        for k in found
        if k not in kept
        and not k.__flags__ & immutable
        and str(k.__module__).partition(".")[0] in guarded
    )
    _launcher.freeze(list(_frozen), True)
    _modules = _loaded()


def _loaded() -> int:
    return len(sys.modules) - ("program" in sys.modules)


def thaw_library() -> None:
    """Undo `freeze_library`, for tests that do not share their process with a program."""
    _launcher.freeze(list(_frozen), False)


def hold_in() -> None:
    """Put up what a program cannot pass; for the rest of this process."""
    if _loaded() != _modules:  # the preamble has imported more
        freeze_library()
    _launcher.freeze(guards.OF_THE_LIBRARY, False)
    guards.guard_sets()
    guards.guard_named_tuples()
    _launcher.freeze(guards.OF_THE_LIBRARY, True)
    copy._reconstruct = _checked_reconstruct  # type: ignore[attr-defined]
    _launcher.watch_classes(guards.on_class)
    _launcher.refuse_introspection(FILENAME, leave)


_modules = 0  # how many were loaded when `_frozen` was found
_frozen: set[type] = set()
_reconstruct = copy._reconstruct  # type: ignore[attr-defined]


def _checked_reconstruct(
    x: Any, memo: Any, function: Any, arguments: Any, state: Any = None, *rest: Any, **keywords: Any
) -> Any:
    """Copy an object by what its `__reduce__` says, but give its state to no other object."""

    def make(*given: Any) -> Any:
        made = function(*given)
        if state is not None and type(made) is not type(x):
            leave("a copy of another class")
        return made

    for names in state if type(state) is tuple else (state,):
        plain = type(names) is dict and all(map(_may_be_set, names))
        if isinstance(names, dict) and not plain and not hasattr(type(x), "__setstate__"):
            leave("a copy with other attributes")

    return _reconstruct(x, memo, make, arguments, state, *rest, **keywords)


def _may_be_set(name: Any) -> bool:
    return type(name) is str and screen.allowed_attribute(name, store=True)


def allow_patches() -> None:
    """Let the tests' own patches change frozen classes."""
    from unittest import mock

    def thawing(method: Callable[..., Any]) -> Callable[..., Any]:
        def patch(self: Any, *error: Any) -> Any:
            target = self.getter()
            frozen = isinstance(target, type) and target in _frozen
            if frozen:
                _launcher.freeze([target], False)
            try:
                return method(self, *error)
            finally:
                if frozen:
                    _launcher.freeze([target], True)

        return patch

    for name in ("__enter__", "__exit__"):
        setattr(mock._patch, name, thawing(getattr(mock._patch, name)))


def raised_by_program(error: BaseException) -> bool:
    """Return whether the program, and not the test, raised an exception."""
    own = False
    traceback = error.__traceback__
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename == FILENAME:
            own = True
        elif filename == TEST_FILENAME:
            own = False
        traceback = traceback.tb_next
    return own


class _Builtins(dict[str, Any]):
    """The builtins of test code: Python's, and behind them the program's names as they are now."""

    def __init__(self, program: dict[str, Any]) -> None:
        # The interpreter looks for these in the dict itself.
        hooks = ("__import__", "__build_class__")
        super().__init__({name: builtins.__dict__[name] for name in hooks})
        self.program = program

    def __missing__(self, name: str) -> Any:
        try:
            return builtins.__dict__[name]
        except KeyError:
            if name.startswith("__"):
                raise
            return self.program[name]


class _Tests(types.ModuleType):
    """The module of test code. What is patched in it is patched in the program too."""

    def __setattr__(self, name: str, value: Any) -> None:
        program = _program.__dict__
        if name in program and not name.startswith("__"):
            _patched.setdefault(name, program[name])
            program[name] = value
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in _patched:
            _program.__dict__[name] = _patched.pop(name)
        if name in self.__dict__:
            super().__delattr__(name)


_program: types.ModuleType
_patched: dict[str, Any] = {}


def namespace_of_tests(
    module: types.ModuleType,
    preamble: dict[str, Any],
    entry_point: str | None,
    texts: list[str],
) -> _Tests:
    """Return the module for test code: it sees what the program defines and Python does not."""
    global _program
    _program = module
    tests = _Tests(TESTS_MODULE)
    namespace = tests.__dict__
    namespace["__builtins__"] = _Builtins(module.__dict__)
    root = tester.root_of(entry_point)
    for name, value in module.__dict__.items():
        hidden = hasattr(builtins, name) and name != root
        if isinstance(value, (types.FunctionType, type, types.ModuleType)) and not hidden:
            namespace[name] = value
    for name, value in preamble.items():
        if name != root and not isinstance(value, type) and not name.startswith("__"):
            namespace[name] = value
    if root in module.__dict__:
        namespace[root] = module.__dict__[root]
    theirs = {name: v for name, v in module.__dict__.items() if name not in preamble}
    namespace.update(tester.pythons_own(theirs, root, texts))
    namespace.update(
        {
            _FAILURE: Failure,
            _CAUGHT: caught,
            _NOTED: noted,
            _CALLED: called,
            _UNDER_TEST: guards.put_under_test,
            _COMPARED: guards.compared,
        }
    )
    sys.modules[TESTS_MODULE] = sys.modules["__main__"] = tests
    return tests


def prepare_unittest() -> None:
    """Make unittest note failed assertions, and which of them a test expects."""
    import unittest.case

    case: Any = unittest.case
    changed = [case.TestCase, case._AssertRaisesContext]
    _launcher.freeze(changed, False)
    case.TestCase.failureException = Failure
    leave = case._AssertRaisesContext.__exit__

    def leaving(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        expected = leave(self, kind, error, traceback)
        if expected:
            forget(error)
        return expected

    case._AssertRaisesContext.__exit__ = leaving
    _launcher.freeze(changed, True)


def run(
    source: str,
    module: types.ModuleType,
    entry_point: str | None,
    payload: tuple[str, str, list[str]],
    execute: Callable[[types.CodeType, types.ModuleType], bool],
) -> None:
    """Run tests ("asserts" or "unittests", their code, the asserts or names) on a program."""
    kind, setup, tests = payload
    preamble = dict(module.__dict__)
    try:
        asserts = tests if kind == "asserts" else ()
        tree = ast.parse(setup)
        codes = [compile_test(setup), *(compile_test(text, tree) for text in asserts)]
        for value in preamble.values():
            if isinstance(value, types.ModuleType):
                _check_library(value.__name__)
        code = prepared(source, module, entry_point, numpy="numpy" in sys.modules)
    except (screen.RefusedError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _launcher.record_error((type(error).__name__, str(error)[:300], None, STRICT))
        return
    if kind == "unittests":
        prepare_unittest()
    if any("mock" in text for text in (setup, *tests)):
        if "cached_property" in source:  # it writes into the dict of any object
            _launcher.record_error(("RefusedError", "cached_property", None, STRICT))
            return
        allow_patches()
    random_seed = random.getstate()
    hold_in()
    random.setstate(random_seed)
    if not execute(code, module):
        return
    own = namespace_of_tests(module, preamble, entry_point, [setup, *asserts])
    try:
        if kind == "unittests":
            unittests.prepare(own)
        exec(codes[0], own.__dict__)
        if kind == "unittests":
            runner = unittests.Runner(own, tests, lambda _: _launcher.retrace())
            runner.failed, runner.ended, runner.swallowed = record, end_test, swallowed
            runner.run(_launcher.first_test())
            return
    except BaseException as error:
        record(error)
        return
    for i in range(_launcher.first_test(), len(tests)):
        _launcher.retrace()
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + i)
        try:
            exec(codes[1 + i], own.__dict__)
            if (hidden := swallowed()) is not None:
                raise hidden
            _launcher.record_value(None, unittests.not_plain)
        except BaseException as error:
            record(error)
        end_test()
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + len(tests))


def swallowed() -> BaseException | None:
    """Return a failed assertion that something other than the test has caught."""
    return _failures[0][0] if _failures else None


def end_test() -> None:
    """End a test. A program that may have learnt a value from it sees no other: the process ends.

    The event loop then runs the tests that are left in a process of their own.
    """
    _failures.clear()
    guards.handed = False
    if guards.asked:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue
        os._exit(0)


def record(error: BaseException) -> None:
    """Record why a test failed, and whether the program or the test itself raised it."""
    guards.asked |= guards.handed
    own = raised_by_program(error)
    name, message, line = describe(error)
    for failure, arguments in _failures:
        if failure is error and arguments:
            message = str(arguments[0])[:500]
    _launcher.record_error((name, message, line if own else None, own))
