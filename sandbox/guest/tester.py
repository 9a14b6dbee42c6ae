"""The tester: runs test code in a process of its own, away from the program that it tests.

What the test code names and neither it, the preamble nor Python defines, it takes from the program:
data as a copy, functions and classes as a Remote (`_peer`, `_remote`).
"""

from __future__ import annotations

import builtins
import random
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepcoder.sandbox import _launcher, _peer, _transfer, _unittester
    from stepcoder.sandbox._describe import describe
else:
    import _launcher
    import _peer
    import _transfer
    import _unittester
    from _describe import describe

PHASE_COMPILE, PHASE_LOAD, PHASE_FIRST_TEST = 1, 2, 3


def run_tester(request: tuple[Any, ...], channel: int) -> None:
    """Run the tests against the program at the other end of the channel."""
    kind, preamble, entry_point, setup, stop_at_first_failure, tests = request
    asserts = tests if kind == "tester" else []
    _launcher.enter_phase(PHASE_COMPILE)
    try:
        codes = [compile_test(text) for text in (setup, *asserts)]
    except BaseException as error:
        _launcher.record_error(describe(error))
        return
    _launcher.enter_phase(PHASE_LOAD)
    module = types.ModuleType(_peer.TESTS_MODULE)
    namespace = module.__dict__
    if preamble:
        exec(compile(preamble, "<preamble>", "exec", dont_inherit=True), namespace)
    peer = _peer.Peer(channel, preamble_classes(namespace), open_to_all=False)
    try:
        take_names(peer, namespace, codes, entry_point)
        random.seed = seed_both(peer, random.seed)
        if kind == "unittester":
            _unittester.prepare(module)
        exec(codes[0], namespace)
        if kind == "unittester":
            runner = _unittester.Runner(module, tests, lambda i: peer.ask("test", i))
            runner.failed = lambda error: record(peer, error)
            runner.is_over = lambda: peer.gone
            runner.run(stop_at_first_failure=stop_at_first_failure)
            return
    except _peer.GoneError:
        return
    except BaseException as error:
        record(peer, error)
        return
    for i, code in enumerate(codes[1:]):
        _launcher.enter_phase(PHASE_FIRST_TEST + i)
        try:
            peer.ask("test", i)
            exec(code, namespace)
            if peer.gone:  # and the test took that for an exception of the program
                return
            _launcher.record_value(None, _not_plain)
        except _peer.GoneError:
            return
        except BaseException as error:
            record(peer, error)
            if stop_at_first_failure:
                break
    _launcher.enter_phase(PHASE_FIRST_TEST + len(asserts))


def seed_both(peer: _peer.Peer, seed: Any) -> Any:
    """Return random.seed for tests that seed what the program draws."""

    def seed_here_and_there(*arguments: Any) -> None:
        seed(*arguments)
        peer.ask("seed", *arguments)

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
    peer: _peer.Peer,
    namespace: dict[str, Any],
    codes: list[types.CodeType],
    entry_point: str | None,
) -> None:
    """Fetch from the program what the test code needs and does not have."""
    wanted: set[str] = set()
    for code in codes:
        collect_names(code, wanted)
    wanted -= set(namespace) | set(dir(builtins))
    if entry_point and (root := entry_point.partition("(")[0].partition(".")[0]).isidentifier():
        wanted.add(root)
    for name, value in peer.ask("names", sorted(wanted)).items():
        if name not in wanted:
            continue
        if type(value) is _transfer.ModuleName:
            value = __import__(value, fromlist=["_"])
        elif type(value) is tuple and value[:1] == (_peer.ERROR_CLASS,):
            value = peer.error_class(list(value[1]))
        namespace[name] = value


def collect_names(code: types.CodeType, names: set[str]) -> None:
    """Add every global name (and attribute, which does no harm) that code uses."""
    names.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            collect_names(constant, names)


def record(peer: _peer.Peer, error: BaseException) -> None:
    """Record why a test failed: the program's exception, or what the test made of its values."""
    if peer.raised is not None and peer.raised[0] is error:
        _launcher.record_error((*peer.raised[1], True))
    else:
        _launcher.record_error((*describe(error), False))


def _not_plain(_value: object) -> Any:
    return NotImplemented
