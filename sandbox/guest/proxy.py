"""An object of the other process: what stands for it here, and what may be asked of it.

Comparisons never leave the tester: a Remote equals nothing but another Remote, so an object that
claims to equal everything earns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepcoder.sandbox._peer import Peer


class Remote:
    """Stands for an object of the other side. `name` is what it is called there, for people."""

    __slots__ = ("_id", "_name", "_peer")

    def __init__(self, peer: Peer, handle: int, name: str) -> None:
        """Stand for `handle` of the peer's other side."""
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_id", handle)
        object.__setattr__(self, "_name", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object over there, copy back what it did to its arguments."""
        return self._peer.call(self._id, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute: plain data, or a Remote."""
        if name == "__name__":
            return self._name
        # What libraries look for to treat an object as something else (numpy's __array_interface__
        # is an address) is not the program's to answer.
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.ask("get", self._id, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute over there."""
        self._peer.ask("set", self._id, name, value)

    def __eq__(self, other: object) -> bool:
        """Equal to another object of the same side, if that side says so; to nothing else."""
        if type(other) is not Remote:
            return False
        return other._id == self._id or self._peer.ask("do", self._id, "__eq__", (other,)) is True

    def __hash__(self) -> int:
        """Hash by identity."""
        return hash(self._id)

    def __bool__(self) -> bool:
        """Objects are true."""
        return True

    def __repr__(self) -> str:
        """Return the repr of the object over there."""
        return str(self._peer.ask("do", self._id, "__repr__", ()))

    def __str__(self) -> str:
        """Return the str of the object over there."""
        return str(self._peer.ask("do", self._id, "__str__", ()))

    def __exit__(self, *_error: object) -> None:
        """Leave the context over there, which does not decide about exceptions here."""
        self._peer.ask("do", self._id, "__exit__", (None, None, None))

    def __iter__(self) -> Any:
        """Iterate over there, one item at a time."""
        return self._peer.ask("do", self._id, "__iter__", ())

    def __next__(self) -> Any:
        """Return the next item."""
        return self._peer.ask("do", self._id, "__next__", ())


def _forward(name: str) -> Callable[..., Any]:
    compares = name in _COMPARING

    def method(self: Remote, *args: Any) -> Any:
        if compares and type(args[0]) is not Remote:
            return NotImplemented
        return self._peer.ask("do", self._id, name, args)

    return method


# Operations whose result is data or an object. Order, `in` and truth are not among them: their bare
# True would be the program's word for it.
# fmt: off
FORWARDED = frozenset(
    f"__{name}__"
    for name in (
        "len", "getitem", "setitem", "delitem", "int", "float", "index", "abs", "neg", "add", "sub",
        "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "invert",
        "lshift", "rshift", "radd", "rsub", "rmul", "rtruediv", "round", "enter",
    )
)
# Of an object and plain data these are comparisons in disguise, abs(f(x) - 7) < 1: the program
# would see the expected value and have the last word on it. Objects of its own it may combine.
_COMPARING = frozenset(
    f"__{name}__"
    for name in (
        "sub", "rsub", "truediv", "rtruediv", "floordiv", "mod", "and", "or", "xor",
    )
)
# fmt: on
ASKED = FORWARDED | {"__eq__", "__exit__", "__repr__", "__str__", "__iter__", "__next__"}
for _name in FORWARDED:
    setattr(Remote, _name, _forward(_name))
