"""Remote calls between two processes, the program's and the tester's.

Each side has a Connection on one end of a socket pair. Plain values are copied; functions, classes,
iterators and other objects stay where they are, and the other side gets a Proxy (`proxy`). The
tester lets the program call the objects that a test passes to it, and look at nothing else.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from .. import _launcher
from . import transfer
from .proxy import OPERATIONS, Proxy

MAX_MESSAGE_BYTES = 64 << 20
TESTS_MODULE = "tests"
ERROR_CLASS = "\0error class"  # marks an exception class, given by the names of its bases

# Operations that the tester lets the program do with an object that a test has passed to it.
_HARMLESS = frozenset({"__iter__", "__next__", "__len__", "__getitem__", "__repr__", "__str__"})


class GoneError(BaseException):
    """The other side ended, or broke the protocol."""


class Connection:
    """One side of the conversation.

    `classes` maps names to the classes that both sides have from the preamble; their instances are
    copied with their attributes. `open_to_all` is for the program's side, which hides nothing.
    """

    def __init__(self, channel: int, classes: dict[str, type], *, open_to_all: bool) -> None:
        """Talk over the descriptor `channel`."""
        self.channel = channel
        self.classes = classes
        self.open_to_all = open_to_all
        self.raised: tuple[BaseException, tuple[str, str, int | None]] | None = None
        self.describe: Callable[[BaseException], tuple[str, str, int | None]] | None = None
        self.error_classes: dict[str, type] = {}
        self.commands: dict[str, Callable[..., Any]] = {}
        self._exported: dict[int, Any] = {}
        self._graph: list[Any] | None = None
        self._index: dict[int, int] = {}
        self._received: list[Any] = []
        self._buffer = b""
        self.gone = False  # the conversation is over

    def _lost(self) -> GoneError:
        self.gone = True
        return GoneError()

    # Messages: a length, then a tuple (kind, ...).

    def send(self, *message: Any) -> None:
        """Send one message."""
        data = _launcher.encode(message, MAX_MESSAGE_BYTES)
        data = len(data).to_bytes(4, "little") + data
        try:
            while data:
                data = data[os.write(self.channel, data) :]
        except OSError:
            raise self._lost() from None

    def receive(self) -> tuple[Any, ...]:
        """Wait for one message. Raises GoneError."""
        size = int.from_bytes(self._read(4), "little")
        if size > MAX_MESSAGE_BYTES:
            raise self._lost()
        try:
            message = _launcher.decode(self._read(size))
        except (ValueError, TypeError):
            raise self._lost() from None
        if type(message) is not tuple or not message or type(message[0]) is not str:
            raise self._lost()
        return message

    def _read(self, size: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < size:
            try:
                part = os.read(self.channel, max(1 << 16, size - have))
            except OSError:
                part = b""
            if not part:
                raise self._lost()
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    # Requests of this side.

    def call(self, handle: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an object of the other side and copy back the changes to the arguments."""
        packed = self.pack((args, kwargs))
        try:
            value, changed = self._answer("call", handle, packed)
        except StopIteration:  # would silently end a loop of the caller
            error = RuntimeError("the program raised StopIteration")
            self.raised = (error, self.raised[1]) if self.raised else None
            raise error from None
        if changed is not None:
            transfer.take_over((args, kwargs), self.unpack(changed))
        return self.unpack(value)

    def ask(self, kind: str, *arguments: Any) -> Any:
        """Ask the other side for something else."""
        try:
            return self.unpack(self._answer(kind, self.pack(arguments))[0])
        except StopIteration:
            if arguments[1:2] == ("__next__",):
                raise
            raise RuntimeError("the program raised StopIteration") from None

    def _answer(self, *request: Any) -> tuple[bytes, bytes | None]:
        self.send(*request)
        while True:
            kind, *rest = self.receive()
            if kind == "value" and len(rest) == 2:
                return rest[0], rest[1]
            if kind == "error" and len(rest) == 1:
                raise self._rebuilt(rest[0])
            self._serve(kind, rest)  # the other side calls back before it answers

    # Requests of the other side.

    def serve(self) -> None:
        """Answer until the other side is gone."""
        try:
            while True:
                kind, *rest = self.receive()
                self._serve(kind, rest)
        except GoneError:
            return

    def _serve(self, kind: str, rest: list[Any]) -> None:
        changed = None
        try:
            if kind == "call":
                handle, packed = rest
                args, kwargs = self.unpack(packed)
                target = self._exported[handle]
                if not self.open_to_all and not _may_call(target):
                    raise TypeError(f"{type(target).__name__} cannot be called from here")
                value = target(*args, **kwargs)
                answer = self.pack(value)
                if transfer.may_change((args, kwargs)):
                    after = self.pack((args, kwargs))
                    changed = after if after != packed else None
            else:
                (packed,) = rest
                answer = self.pack(self._do(kind, *self.unpack(packed)))
        except GoneError:
            raise
        except BaseException as error:
            self.send("error", self._described(error))
            return
        self.send("value", answer, changed)

    def _do(self, kind: str, *arguments: Any) -> Any:
        if kind in self.commands:
            return self.commands[kind](*arguments)
        handle, name, *rest = arguments
        target = self._exported[handle]
        if not self.open_to_all and not _may_look(target, name):
            raise AttributeError(name)
        if kind == "get":
            return getattr(target, name)
        if kind == "set":
            return setattr(target, name, rest[0])
        if kind == "do" and name in OPERATIONS:
            method = getattr(type(target), name, None)
            answer = NotImplemented if method is None else method(target, *rest[0])
            if answer is NotImplemented:
                raise TypeError(f"unsupported operation {name} for {type(target).__name__}")
            return answer
        raise AttributeError(name)

    # Exceptions, by the names of their classes.

    def _described(self, error: BaseException) -> tuple[Any, ...]:
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__[:-1]]
        described = self.describe(error) if self.describe else (type(error).__name__, "", None)
        try:
            arguments = _launcher.encode(error.args, 1 << 20)
        except Exception:
            arguments = _launcher.encode((described[1],), 1 << 20)
        return (names, arguments, *described)

    def _rebuilt(self, packed: Any) -> BaseException:
        try:
            names, arguments, type_name, message, line = packed
            args = _launcher.decode(arguments)
            kind = self.error_class(list(names))
            if not isinstance(message, str) or not isinstance(type_name, str):
                raise self._lost()
            described = (type_name, message, line if isinstance(line, int) else None)
        except (ValueError, TypeError):
            raise self._lost() from None
        try:
            error: BaseException = kind(*args)
        except Exception:
            error = Exception(*args)
        self.raised = (error, described)
        return error

    def error_class(self, names: list[str]) -> type[BaseException]:
        """Return the class of the first name that is known here, or a new one below it."""
        for i, name in enumerate(names):
            known = self.error_classes.get(name) or transfer.library_class(name)
            if known is None:
                continue
            for missing in reversed(names[:i]):
                short = missing.rpartition(".")[2]
                known = type(short, (known,), {})
                self.error_classes[missing] = known
            return known
        return Exception

    # Values.

    def pack(self, value: Any) -> bytes:
        """Return a value as bytes, with objects by their handles."""
        return _launcher.encode(value, MAX_MESSAGE_BYTES, self._to_payload)

    def unpack(self, data: bytes) -> Any:
        """Return the value of bytes from the other side. Raises GoneError."""
        try:
            return _launcher.decode(data, self._from_payload)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
            raise self._lost() from None

    def export(self, value: Any) -> tuple[str, int, str]:
        """Return the payload of an object that stays on this side."""
        self._exported[id(value)] = value
        name = getattr(value, "__name__", None) or type(value).__name__
        return ("object", id(value), str(name)[:200])

    def _to_payload(self, value: Any) -> Any:
        kind = type(value)
        if kind is Proxy:
            return ("home", value._id)
        if kind in transfer.TO_PAYLOAD:
            return transfer.TO_PAYLOAD[kind](value)
        if self.classes.get(kind.__name__) is kind:
            return self._copied(value)
        if isinstance(value, (int, float, str, bytes, list, tuple, dict, set, frozenset)):
            return NotImplemented  # a subclass is sent as its base
        if (number := transfer.number(value)) is not NotImplemented:
            return number
        plain = transfer.without_numpy(value)
        if plain is not NotImplemented:
            return ("plain", plain)
        if (name := transfer.shared_name(value, everything=not self.open_to_all)) is not None:
            return ("shared", *name)
        if isinstance(value, types.ModuleType):
            return ("module", value.__name__)
        return self.export(value)

    def _from_payload(self, payload: Any) -> Any:
        kind, *rest = payload
        if kind == "object":
            handle, name = rest
            if type(handle) is not int or type(name) is not str:
                raise ValueError(payload)
            return Proxy(self, handle, name)
        if kind == "home":
            return self._exported[rest[0]]
        if kind == "plain":
            return rest[0]
        if kind == "copies":
            return self._rebuilt_copies(rest[0])
        if kind == "copy":
            return self._received[rest[0]]
        if kind == "shared":
            module, name = rest
            trusted = self.open_to_all and module in sys.stdlib_module_names
            if trusted or module in transfer.SHARED_MODULES:
                # What this side would send by that name; its __dict__ is no such thing.
                found = getattr(importlib.import_module(module), name)
                if transfer.shared_name(found, everything=trusted) == (module, name):
                    return found
        root = rest[0].partition(".")[0] if kind == "module" else ""
        # Of libraries, those that this process has too.
        if root in sys.stdlib_module_names or (root in sys.modules and root[0] != "_"):
            return (
                importlib.import_module(rest[0])
                if self.open_to_all
                else transfer.ModuleName(rest[0])
            )
        if kind in transfer.FROM_PAYLOAD:
            return transfer.FROM_PAYLOAD[kind](*rest)
        raise ValueError(payload)

    # Instances of the preamble's classes (list nodes, trees) are sent as a table of attributes, so
    # that long and circular structures need no recursion.

    def _copied(self, value: Any) -> Any:
        if self._graph is not None:
            index = self._index.get(id(value))
            if index is None:
                index = self._index[id(value)] = len(self._graph)
                self._graph.append(value)
            return ("copy", index)
        self._graph = [value]
        self._index = {id(value): 0}
        try:
            table = []
            for item in self._graph:  # grows while it is walked
                table.append((type(item).__name__, self.pack(vars(item))))
        finally:
            self._graph = None
        return ("copies", table)

    def _rebuilt_copies(self, table: Any) -> Any:
        outer = self._received
        copies: list[Any] = []
        for name, _ in table:
            copies.append(object.__new__(self.classes[name]))
        self._received = copies
        try:
            for copy, (_, attributes) in zip(copies, table, strict=True):
                for name, value in self.unpack(attributes).items():
                    if not callable(getattr(type(copy), name, None)):  # a method stays as it is
                        copy.__dict__[name] = value
        finally:
            self._received = outer
        return copies[0]


def _may_call(target: Any) -> bool:
    """Return whether the program may call an object of the tests: what the tests themselves define.

    Functions of the library go by name, and what a program does with those it does in its own
    process. Here they would show it the tests' objects (getattr, functools.partial of it).
    """
    if isinstance(target, types.BuiltinMethodType):
        return isinstance(target.__self__, (list, dict, set, str, bytes))
    module = getattr(target, "__module__", None)
    return module == TESTS_MODULE or type(target).__module__ in (TESTS_MODULE, "unittest.mock")


def _may_look(target: Any, name: str) -> bool:
    """Return whether the program may use this attribute of an object of the tests.

    The attributes of functions, generators and tracebacks lead to the tests' own variables, and are
    refused. Instances of the tests' own classes are open, since tests pass them to be used; those
    of TestCase are not, since a program could replace their asserts.
    """
    if name in _HARMLESS:
        return not isinstance(target, type)
    own = type(target).__module__ == TESTS_MODULE and not _is_test_case(target)
    return own and not name.startswith("_")


def _is_test_case(target: Any) -> bool:
    case = sys.modules.get("unittest.case")
    return case is not None and isinstance(target, case.TestCase)
