"""Proxies of objects in the other process, and the operations that they forward.

Comparisons never leave the tester: a proxy equals nothing but another proxy, so an object that
claims to equal everything earns nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rpc import Connection


class Proxy:
    """Stands for an object of the other side. `name` is its name there, for people."""

    __slots__ = ("_connection", "_id", "_name")

    def __init__(self, connection: Connection, handle: int, name: str) -> None:
        """Stand for the object `handle` of the connection's other side."""
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_id", handle)
        object.__setattr__(self, "_name", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object over there and copy back the changes to its arguments."""
        return self._connection.call(self._id, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute: plain data, or a proxy."""
        if name == "__name__":
            return self._name
        # The program must not answer for the attributes by which libraries treat an object as
        # something else: numpy's __array_interface__ is an address.
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._connection.ask("get", self._id, name)
        if name != "equals":
            return found

        def equals(other: Any, *args: Any) -> Any:
            """Compare with another object or plain data; to a DataFrame it is not for it to say."""
            root = type(other).__module__.partition(".")[0]
            if type(other) is not Proxy and root not in ("tests", *sys.stdlib_module_names):
                return False
            return found(other, *args)

        return equals

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute over there."""
        self._connection.ask("set", self._id, name, value)

    def __eq__(self, other: object) -> bool:
        """Equal to another object of the same side, if that side says so; to nothing else."""
        if type(other) is not Proxy:
            return False
        return (
            other._id == self._id
            or self._connection.ask("do", self._id, "__eq__", (other,)) is True
        )

    def __hash__(self) -> int:
        """Hash by identity."""
        return hash(self._id)

    def __bool__(self) -> bool:
        """Objects are true."""
        return True

    def __repr__(self) -> str:
        """Return the repr of the object over there."""
        return str(self._connection.ask("do", self._id, "__repr__", ()))

    def __str__(self) -> str:
        """Return the str of the object over there."""
        return str(self._connection.ask("do", self._id, "__str__", ()))

    def __exit__(self, *_error: object) -> None:
        """Leave the context over there, which does not decide about exceptions here."""
        self._connection.ask("do", self._id, "__exit__", (None, None, None))

    def __iter__(self) -> Any:
        """Iterate over there, one item at a time."""
        return self._connection.ask("do", self._id, "__iter__", ())

    def __next__(self) -> Any:
        """Return the next item."""
        return self._connection.ask("do", self._id, "__next__", ())


def _forwarding(name: str) -> Callable[..., Any]:
    compares, sums = name in _COMPARING, name in ("__add__", "__radd__")

    def method(self: Proxy, *args: Any) -> Any:
        if type(args[0]) is not Proxy if compares else sums and _is_negative(args[0]):
            return NotImplemented
        return self._connection.ask("do", self._id, name, args)

    return method


def _is_negative(value: Any) -> bool:
    """Return whether adding a value is subtracting another, as in sum([f(x), -7]) == 0."""
    return isinstance(value, (int, float)) and value < 0


# Operations whose result is data or an object. Order, `in` and truth are not among them: the test
# would have to believe the program's True.
# fmt: off
FORWARDED = frozenset(
    f"__{name}__"
    for name in (
        "len", "getitem", "setitem", "delitem", "int", "float", "index", "abs", "neg", "add", "sub",
        "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "invert",
        "lshift", "rshift", "radd", "rsub", "rmul", "rtruediv", "round", "enter",
    )
)
# Of an object and plain data these are comparisons in disguise, as in abs(f(x) - 7) < 1: the
# program would see the expected value and choose the result. It may combine objects of its own.
_COMPARING = frozenset(
    f"__{name}__"
    for name in (
        "sub", "rsub", "truediv", "rtruediv", "floordiv", "mod", "and", "or", "xor",
    )
)
# fmt: on
OPERATIONS = FORWARDED | {"__eq__", "__exit__", "__repr__", "__str__", "__iter__", "__next__"}
for _name in FORWARDED:
    setattr(Proxy, _name, _forwarding(_name))
# Verdicts show it: "unsupported operand type(s) for -: 'Remote' and 'int'".
Proxy.__name__ = Proxy.__qualname__ = "Remote"
