"""The tester: runs test code in a process of its own, away from the program that it tests.

Names that neither the test code, the preamble nor Python defines are fetched from the program: data
as a copy, functions and classes as proxies (`rpc`, `proxy`).
"""

from __future__ import annotations

import ast
import builtins
import collections
import importlib
import math
import random
import sys
import types
from collections.abc import Iterable
from typing import Any

from .. import _launcher
from . import rpc, transfer, unittests
from .describe import describe


def run_tester(request: tuple[Any, ...], channel: int) -> None:
    """Run the tests against the program at the other end of the channel."""
    kind, preamble, entry_point, setup, stop_at_first_failure, tests = request
    asserts = tests if kind == "tester" else []
    _launcher.enter_phase(_launcher.PHASE_COMPILE)
    try:
        codes = [compile_test(text) for text in (setup, *asserts)]
    except BaseException as error:
        _launcher.record_error(describe(error))
        return
    _launcher.enter_phase(_launcher.PHASE_LOAD)
    module = types.ModuleType(rpc.TESTS_MODULE)
    namespace = module.__dict__
    if preamble:
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), namespace)
    connection = rpc.Connection(channel, preamble_classes(namespace), open_to_all=False)
    try:
        take_names(connection, namespace, codes, entry_point, (setup, *asserts))
        random.seed = seed_both(connection, random.seed)
        if kind == "unittester":
            unittests.prepare(module)
        exec(codes[0], namespace)
        if kind == "unittester":
            runner = unittests.Runner(module, tests, lambda i: connection.ask("test", i))
            runner.failed = lambda error: record(connection, error)
            runner.is_over = lambda: connection.gone
            runner.run(stop_at_first_failure=stop_at_first_failure)
            return
    except rpc.GoneError:
        return
    except BaseException as error:
        record(connection, error)
        return
    for i, code in enumerate(codes[1:]):
        _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + i)
        try:
            connection.ask("test", i)
            exec(code, namespace)
            if connection.gone:  # the test may have caught the GoneError
                return
            _launcher.record_value(None, unittests.not_plain)
        except rpc.GoneError:
            return
        except BaseException as error:
            record(connection, error)
            if stop_at_first_failure:
                break
    _launcher.enter_phase(_launcher.PHASE_FIRST_TEST + len(asserts))


def seed_both(connection: rpc.Connection, seed: Any) -> Any:
    """Return a random.seed that seeds the program's process too."""

    def seed_here_and_there(*arguments: Any) -> None:
        seed(*arguments)
        connection.ask("seed", *arguments)

    return seed_here_and_there


def compile_test(text: str) -> types.CodeType:
    """Compile a piece of test code."""
    return compile(text, "<test>", "exec", dont_inherit=True)


def preamble_classes(namespace: dict[str, Any]) -> dict[str, type]:
    """Return the classes that the preamble itself defines."""
    name = namespace["__name__"]
    return {
        key: value
        for key, value in namespace.items()
        if isinstance(value, type) and value.__module__ == name and value.__name__ == key
    }


def take_names(
    connection: rpc.Connection,
    namespace: dict[str, Any],
    codes: list[types.CodeType],
    entry_point: str | None,
    texts: Iterable[str],
) -> None:
    """Fetch from the program the names that the test code uses and does not define."""
    wanted: set[str] = set()
    for code in codes:
        collect_names(code, wanted)
    wanted -= set(namespace) | set(dir(builtins))
    root = root_of(entry_point)
    if root.isidentifier():
        wanted.add(root)
    given = connection.ask("names", sorted(wanted))
    for name, value in given.items():
        if name not in wanted:
            continue
        if type(value) is transfer.ModuleName:
            value = __import__(value, fromlist=["_"])
        elif type(value) is tuple and value[:1] == (rpc.ERROR_CLASS,):
            value = connection.error_class(list(value[1]))
        namespace[name] = value
    given = {name: value for name, value in given.items() if name in wanted}
    namespace.update(pythons_own(given, root, texts))


def root_of(entry_point: str | None) -> str:
    """Return the name that an entry point begins with, "" without one."""
    return (entry_point or "").partition("(")[0].partition(".")[0]


def pythons_own(given: dict[str, Any], root: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return what tests mean by names that the program has given them, where Python has it.

    A module of which they use a member, or its member of the same name, as datetime.datetime. And,
    beside a function under test, what `_EVERYDAY` modules define: neither `math` nor `Counter` may
    be of the program's own making.
    """
    public = {name: getattr(m, name) for m in _EVERYDAY for name in dir(m) if name[0] != "_"}
    found = {name: public[name] for name in given if root and name in public}
    for node in (node for text in texts for node in ast.walk(ast.parse(text))):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in given:
                full = "numpy" if name == "np" else name
                if full in sys.modules or full in sys.stdlib_module_names:
                    meant = importlib.import_module(full)
                    if not isinstance(given[name], (types.ModuleType, transfer.ModuleName)):
                        meant = getattr(meant, name, meant)
                    if hasattr(meant, attr):
                        found[name] = meant
    return {name: value for name, value in found.items() if name != root}


_EVERYDAY = (collections, math)


def collect_names(code: types.CodeType, names: set[str]) -> None:
    """Add every global name (and attribute, which does no harm) that code uses."""
    names.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            collect_names(constant, names)


def record(connection: rpc.Connection, error: BaseException) -> None:
    """Record why a test failed, and whether the program or the test itself raised it."""
    if connection.raised is not None and connection.raised[0] is error:
        _launcher.record_error((*connection.raised[1], True))
    else:
        _launcher.record_error((*describe(error), False))
