"""Keeps a program's objects from deciding a test that they share a process with.

Classes of the program pass through `on_class` when they are made. Their comparisons and operators
are wrapped: where a test gives such an object a plain value, which may be the expected one, the
object is asked about other values as well, in random order, and counts only if it tells them apart.
"""

from __future__ import annotations

import abc
import builtins
import collections
import collections.abc
import contextlib
import copy
import functools
import itertools
import numbers
import os
import random
import re
import sys
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any, NoReturn

from .. import _launcher
from . import screen
from .describe import FILENAME

TEST_FILENAME = "<test>"
PREAMBLE_FILENAME = "<preamble>"
_TESTS = (TEST_FILENAME, PREAMBLE_FILENAME)

_ORDER = ("__lt__", "__le__", "__gt__", "__ge__")
# Differences and ratios are comparisons in disguise, as in abs(f(x) - 7) < 1.
_DIFFERENCES = tuple(
    f"__{prefix}{name}__"
    for name in ("sub", "truediv", "floordiv", "mod", "divmod", "and", "or", "xor")
    for prefix in ("", "r", "i")
    if (prefix, name) != ("i", "divmod")
)
_SUMS = ("__add__", "__radd__", "__iadd__")
_CONVERSIONS = tuple(
    f"__{name}__"
    for name in (
        "abs", "float", "int", "index", "round", "bool", "complex", "trunc", "floor", "ceil", "neg",
        "pos", "len",
    )
)  # fmt: skip
_MAGNITUDES = screen.words(
    "__abs__ __float__ __int__ __round__ __neg__ __pos__ __mul__ __rmul__ __pow__"
)
_DESCRIPTORS = ("__get__", "__set__", "__set_name__", "__delete__")
# Modules that call what they are given, `type` for instance, where no frame is the program's.
_CALLBACKS = screen.words(
    "asyncio.events asyncio.runners asyncio.tasks threading concurrent.futures.thread weakref"
    " concurrent.futures._base contextlib functools queue"
)
_MOST, _FEWEST = 48, 8  # other values that an object is asked about

own: set[type] = set()  # the program's classes
plain: set[type] = set()  # those of them that have only the bases below
_made: set[Any] = set()  # the guards
_differences: dict[int, Any] = {}  # objects that a test made from another and a plain value, by id
_bounds: dict[int, tuple[Any, Any, Any]] = {}
# Objects of whose differences a test got numbers, and those of which it got numbers otherwise.
_stand: dict[int, Any] = {}
_converted: dict[int, Any] = {}
_under_test: Any = None  # the object whose `==` or `in` is what a test asks for next
_random = random.SystemRandom()
_getframe, _type, _isinstance = sys._getframe, type, isinstance

# Whether the program has been asked about a plain value and did not tell it apart: then it may have
# learnt it, and the process must not see another test.
asked = False
patterns = False  # whether the program has patterns that take attributes by __match_args__
handed = False  # whether a plain value was given to the program in this test
# Where the program's class statements stand: their column, their last line and its column.
statements: set[tuple[int, int, int]] = set()
STRICT = "strict"  # the mark of a run that needs a process of its own for the tests


def leave(what: str) -> NoReturn:
    """End this process: the program needs one that it does not share with its tests."""
    _launcher.record_error(("RefusedError", what[:300], None, STRICT))
    os._exit(0)


# Bases in whose objects a library keeps nothing.
_PLAIN_BASES = {
    kind
    for module in (builtins, numbers, collections.abc)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind not in (type, super, property, classmethod, staticmethod)
} | {
    abc.ABC, typing.Generic, typing.Protocol, collections.OrderedDict, collections.defaultdict,
    collections.deque, collections.Counter, collections.UserDict, collections.UserList,
}  # fmt: skip


def of_library(kind: type) -> bool:
    """Return whether a class is one of Python's or numpy's."""
    root = str(kind.__module__).partition(".")[0]
    return root in sys.stdlib_module_names or root in ("numpy", "_sandbox")


def by_program(depth: int = 2) -> bool:
    """Return whether the program, and not a test, is what runs the library code at this depth."""
    frame: types.FrameType | None = _getframe(depth)
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename == FILENAME:
            return True
        if filename in _TESTS:
            return False
        frame = frame.f_back
    return False


def is_own(value: object) -> bool:
    """Return whether a value's class, or a base of it, is the program's."""
    return not own.isdisjoint(_type(value).__mro__)


def _is_object(value: object) -> bool:
    """Return whether a value is an object of the program's, and no number or other data as well."""
    mro = _type(value).__mro__
    return is_own(value) and all(
        kind in own or kind is object or kind.__module__ in ("abc", "typing") for kind in mro
    )


def _innocent(method: Any) -> bool:
    """Return whether a class of the tests may have this method: the program did not write it."""
    return type(method) is types.FunctionType and method.__code__.co_filename in _TESTS


def on_class(cls: type) -> None:
    """Check and guard a new class, if the program made it. Raises TypeError."""
    maker = _getframe(1)
    maker_name = maker.f_globals.get("__name__")
    attributes = _type.__getattribute__(cls, "__dict__")
    if maker_name == "unittest.mock":
        return
    # A test's frame may be one that calls a partial of `type` for the program.
    innocent = maker.f_code.co_filename not in _TESTS or all(
        attributes[name] is None or _innocent(attributes[name])
        for name in _GUARDS
        if name in attributes
    )
    if innocent and not by_program() and maker_name not in _CALLBACKS:
        return
    if _imported():
        return
    if not _by_statement(maker_name):
        leave("a class that no class statement makes")
    annotations = attributes.get("__annotations__", {})
    named = (*attributes.get("__match_args__", ()), *annotations)
    for name in named if patterns else ():
        if _type(name) is not str or not screen.matched_attribute(name):
            leave(f"a pattern of {name!r:.99}")
    for name in attributes:
        if name.startswith("__") and name.endswith("__") and name not in screen.CLASS_NAMES:
            leave(f"a class with {name}")
    # dataclasses makes code of them.
    if not all(_type(n) is str and n.isidentifier() for n in annotations):
        leave("annotations that are no names")
    for base in cls.__mro__[1:]:
        if base is _type or base.__module__.partition(".")[0] in ("numpy", "unittest"):
            leave(f"a class below {base.__name__}")
    own.add(cls)
    if all(kind in own or kind in _PLAIN_BASES for kind in cls.__mro__):
        plain.add(cls)
    _guard(cls)


def _guard(cls: type) -> None:
    """Put guards on the comparisons and operators of a class of the program."""
    attributes = _type.__getattribute__(cls, "__dict__")
    for name, make in _GUARDS.items():
        method = attributes.get(name)
        if method is None:
            method = _from_library(name, cls)
        if method is None or _is_inherited(name, method, cls):
            continue
        if not _isinstance(method, types.FunctionType):
            leave(f"{name} that is no function")
        if method in _made:
            continue
        guard = functools.wraps(method)(make(name, method))
        _made.add(guard)
        _type.__setattr__(cls, name, guard)


def _imported() -> bool:
    """Return whether a library that the program imports makes the class."""
    frame: types.FrameType | None = _getframe(2)
    while frame is not None and frame.f_code.co_filename not in (FILENAME, *_TESTS):
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _by_statement(maker_name: str | None) -> bool:
    """Return whether a class of the program is made by a class statement, or by a library's code.

    What `type` makes could have names, annotations and fields that no screen has read.
    """
    if maker_name in ("collections", "typing", "dataclasses", "enum"):
        return True
    frame: types.FrameType | None = _getframe(2)
    while frame is not None and frame.f_code.co_filename != FILENAME:
        frame = frame.f_back
    if frame is None:
        return False
    _, end, column, end_column = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    return (column, end, end_column) in statements


def _from_library(name: str, cls: type) -> Any:
    """Return a comparison or difference that a library has written, and the class inherits."""
    for kind in cls.__mro__[1:]:
        if name in kind.__dict__:
            method = kind.__dict__[name]
            differs = name in ("__sub__", "__rsub__") and kind.__module__ == "numbers"
            if _type(method) is types.FunctionType and (name in ("__eq__", "__ne__") or differs):
                return method if kind not in own and of_library(kind) else None
            return None
    return None


def _is_inherited(name: str, method: Any, cls: type) -> bool:
    """Return whether a method is that of a library class above, as in `__lt__ = int.__lt__`."""
    return (
        _isinstance(method, (types.WrapperDescriptorType, types.MethodDescriptorType))
        and method.__name__ == name
        and method.__objclass__ in cls.__mro__
    )


def put_under_test(made: Any) -> Any:
    """Let an object that a test has made by its class say what it equals and contains."""
    global _under_test
    _under_test = made if _type(made) in own else None
    return made


def compared(answer: Any = None) -> Any:
    """End what `put_under_test` has begun."""
    global _under_test
    _under_test = None
    return answer


def _is_under_test(value: Any) -> bool:
    global _under_test
    found, _under_test = _under_test is value, None
    return found


# The guards. Each calls the method as it is where the program calls it.


def _equality(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    equal = name == "__eq__"

    def compare(self: Any, other: Any) -> Any:
        under_test = _is_under_test(self)
        if by_program():
            return method(self, other)
        if is_own(other):
            answer = method(self, other)
            if _says(answer, equal) and _says(_quietly(method, self, object()), equal):
                return not equal  # it equals everything
            return answer
        if id(self) in _differences or not _plain(other):
            return NotImplemented
        # Before it is asked: it may keep what it is asked about.
        held = under_test or _holds(self, other)
        answer, told_apart = _ask(method, self, other, equal=equal, instead=not under_test)
        if not _says(answer, equal):
            _note_asked()
            return answer
        if held and told_apart >= (0.75 if under_test else 1.0):
            return equal
        _note_asked()
        return not equal

    return compare


def _order(_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    upwards = _name in ("__lt__", "__le__")

    def compare(self: Any, other: Any) -> Any:
        if by_program() or is_own(other):
            return method(self, other)
        if id(self) in _differences or not _isinstance(other, (int, float, date, timedelta)):
            return NotImplemented
        # The object must have a place among the values, the same for every comparison.
        values = [*_others(other), *_far(other), other]
        _random.shuffle(values)
        answers = [(value, bool(_quietly(method, self, _rebuilt(value)))) for value in values]
        smaller = [v for v, less in answers if less is upwards]  # values above the object
        larger = [v for v, less in answers if less is not upwards]
        _, low, high = _bounds.get(id(self), (self, None, None))
        above, below = [v for v in smaller], [v for v in larger]
        top = min([*above, *([high] if high is not None else [])], default=None)
        bottom = max([*below, *([low] if low is not None else [])], default=None)
        if top is None or bottom is None or bottom > top:
            _note_asked()
            return NotImplemented
        _bounds[id(self)] = (self, bottom, top)
        answer = next(less for value, less in answers if value is other)
        if not answer:
            _note_asked()
        return answer

    return compare


def _containment(_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def contains(self: Any, other: Any) -> Any:
        if _is_under_test(self) or by_program() or is_own(other):
            return method(self, other)
        if not _plain(other):
            return method(self, other)
        answer, told_apart = _ask(method, self, other, equal=True, far=True)
        if not answer:
            _note_asked()
            return answer
        if (_holds(self, other) and told_apart > 0.5) or (
            told_apart == 1 and not any(_isinstance(p, str) for p in _parts(other))
        ):
            return True
        _note_asked()
        raise TypeError("the program's object contains everything")

    return contains


def _difference(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    linear = {"__sub__": 1, "__isub__": 1, "__rsub__": -1}.get(name)
    adds = name in _SUMS

    def subtract(self: Any, other: Any) -> Any:
        global handed
        if by_program() or is_own(other):
            answer = method(self, other)
            if id(self) in _differences and not by_program():
                _differences[id(answer)] = answer
            return answer
        numbers = _isinstance(other, (int, float)) and not _isinstance(other, bool)
        if adds and not (numbers and other < 0):  # adding -7 is subtracting 7
            return method(self, other)
        values = [_rebuilt(value) for value in _others(other)[:5]] if numbers else []
        trial = []
        for value in values:
            trial.append((value, _quietly(method, _twin(self), value)))
            if _type(trial[-1][1]) not in (int, float):
                break
        if trial and all(_type(answer) in (int, float) for _, answer in trial):
            # The answers for other values say what the object stands for; this one is computed.
            if linear is None and not adds:
                _note_asked()
                return NotImplemented
            stands = [
                answer - value if adds else answer * linear + value for value, answer in trial
            ]
            if max(stands) - min(stands) > 1e-6 * (1 + abs(max(stands, key=abs))):
                _note_asked()
                return NotImplemented
            if id(self) in _converted:
                _note_asked()
                return NotImplemented
            _stand[id(self)] = self
            middle = sorted(stands)[len(stands) // 2]
            return middle + other if adds else (middle - other) * linear
        handed = True
        answer = method(self, other)
        if not _is_object(answer):
            _note_asked()
            return NotImplemented
        _differences[id(answer)] = answer
        return answer

    return subtract


def _twin(value: Any) -> Any:
    """Return a copy of an object, for operators that change what they are asked: `account -= 5`."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _conversion(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def convert(self: Any, *arguments: Any) -> Any:
        if id(self) in _differences and not by_program():
            answer = method(self, *arguments)
            if not _is_object(answer):
                _note_asked()
                raise TypeError(f"{name} of a difference of the program's own making")
            _differences[id(answer)] = answer
            return answer
        answer = method(self, *arguments)
        if name in _MAGNITUDES and not by_program() and _isinstance(answer, (int, float)):
            # A bound that it may have made up, as in abs(a - b) <= 1e-9 * abs(a).
            if id(self) in _stand:
                _note_asked()
                raise TypeError(f"{name} of an object that stands for a number in a difference")
            _converted[id(self)] = self
        return answer

    return convert


def _descriptor(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def access(self: Any, target: Any, *rest: Any) -> Any:
        from unittest import TestCase

        kinds = [kind for kind in (target, *rest) if _isinstance(kind, _type)]
        if _isinstance(target, TestCase) or any(issubclass(kind, TestCase) for kind in kinds):
            return self if name == "__get__" else None
        return method(self, target, *rest)

    return access


def _attribute(_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def get(self: Any, name: str) -> Any:
        # By such names libraries treat an object as something else: numpy's
        # __array_interface__ is an address.
        if name.startswith("__") and not (by_program() and name in screen.CLASS_NAMES):
            raise AttributeError(name)
        return method(self, name)

    return get


_GUARDS: dict[str, Callable[[str, Callable[..., Any]], Callable[..., Any]]] = (
    {"__eq__": _equality, "__ne__": _equality, "__contains__": _containment}
    | dict.fromkeys(_ORDER, _order)
    | dict.fromkeys((*_DIFFERENCES, *_SUMS), _difference)
    | dict.fromkeys((*_CONVERSIONS, "__mul__", "__rmul__", "__pow__"), _conversion)
    | dict.fromkeys(_DESCRIPTORS, _descriptor)
    | {"__getattr__": _attribute}
)


# Comparisons that a library makes of what an object says about the other's items.


# What the next two functions change: the library's classes are frozen.
OF_THE_LIBRARY: list[Any] = [collections.abc.Set, typing.NamedTupleMeta]  # type: ignore[attr-defined]


def guard_sets() -> None:
    """Let sets below collections.abc.Set compare their items, where a test compares them."""
    for name in screen.words("eq le lt ge gt and rand sub rsub xor rxor"):
        _guard_set(f"__{name}__")
    _guard_set("isdisjoint")


def _guard_set(name: str) -> None:
    method = vars(collections.abc.Set)[name]
    operation = getattr(set, name)

    def compare(self: Any, other: Any) -> Any:
        if by_program() or not _isinstance(other, (set, frozenset)) or is_own(other):
            return method(self, other)
        items = set(_items(self))
        answer = operation(items, set(other))
        own_items = _isinstance(answer, set) and answer <= items
        return self._from_iterable(answer) if own_items else answer

    setattr(collections.abc.Set, name, compare)


def guard_named_tuples() -> None:
    """Guard what typing.NamedTuple gives to a class once it is made."""
    meta: Any = typing.NamedTupleMeta  # type: ignore[attr-defined]
    make = meta.__new__

    def new(cls: Any, *arguments: Any, **keywords: Any) -> Any:
        made = make(cls, *arguments, **keywords)
        if made in own:
            _guard(made)
        return made

    meta.__new__ = new


# Asking about other values.


def _note_asked() -> None:
    global asked
    asked = True


def _says(answer: Any, equal: bool) -> bool:
    return answer is not NotImplemented and bool(answer) is equal


def _quietly(method: Callable[..., Any], self: Any, value: Any) -> Any:
    try:
        return method(self, value)
    except Exception:
        return NotImplemented


def _ask(
    method: Callable[..., Any],
    self: Any,
    other: Any,
    *,
    equal: bool,
    far: bool = False,
    instead: bool = False,
) -> tuple[Any, float]:
    """Return the answer about `other`, and the share of other values that were told apart."""
    values = [(False, value) for value in (_far(other) if far else _others(other))]
    if instead:  # nor is the object another value that it holds
        values += [(False, value) for value in _held_instead(self, other)]
    values.append((True, other))
    _random.shuffle(values)
    answer: Any = NotImplemented
    error: BaseException | None = None
    apart = 0
    for real, value in values:
        try:
            found = method(self, _rebuilt(value))
            # Now, as for the others: an answer that is asked later knows that it is the real one.
            found = found if found is NotImplemented else bool(found)
        except Exception as raised:
            found, error = NotImplemented, raised if real else error
        if real:
            answer = found
        else:
            apart += not _says(found, equal)
    if error is not None:
        _note_asked()
        raise error
    return answer, apart / max(1, len(values) - 1)


_ATOMS = (int, float, complex, str, bytes, date, timedelta, type(None))


def _plain(value: Any) -> bool:
    """Return whether a value is data, or a container that holds some."""
    if _isinstance(value, _ATOMS) or type(value).__name__ in ("Decimal", "Fraction", "time"):
        return not is_own(value)
    return _isinstance(value, (list, tuple, dict, set, frozenset, range)) and not is_own(value)


def _size(value: Any) -> int:
    if _isinstance(value, (list, tuple, set, frozenset)):
        return 1 + sum(map(_size, value))
    if _isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return len(value) // 8 + 1 if _isinstance(value, (str, bytes)) else 1


def _rebuilt(value: Any) -> Any:
    """Return an equal value that is as new as the others, so that its age tells nothing."""
    kind = type(value)
    if kind is int:
        return int(hex(value), 16)
    if kind is float:
        return float.fromhex(value.hex())
    if kind is str:
        return "".join(list(value))
    if kind is bytes:
        return bytes(bytearray(value))
    if kind in (list, tuple, set, frozenset):
        return kind(_rebuilt(item) for item in value)
    if kind is dict:
        return {_rebuilt(key): _rebuilt(item) for key, item in value.items()}
    return value


def _others(value: Any) -> list[Any]:
    """Return values of the same kind and a similar size, none of them equal to this one.

    They are the steps of a random walk that passes through the value at any of its steps, so that
    the value is not in the middle of them.
    """
    count = max(_FEWEST, min(_MOST, 100_000 // _size(value)))
    before = _random.randint(0, count)
    grain = _grain(value)
    found = []
    for steps in (before, count - before):
        at = value
        for _ in range(steps):
            at = _other(at, grain)
            found.append(at)
    return [other for other in found if other != value]


def _numbers(value: Any) -> list[Any]:
    if _isinstance(value, (list, tuple, set, frozenset)):
        return [number for item in value for number in _numbers(item)]
    if _isinstance(value, dict):
        return _numbers(list(value.values()))
    return [value] if _isinstance(value, (int, float)) and not _isinstance(value, bool) else []


def _grain(value: Any) -> tuple[int, float, bool]:
    """Return how the numbers in a value are rounded, their size, and whether one is negative."""
    numbers = [n for n in _numbers(value) if n == n and abs(n) < float("inf")]
    digits = -20
    for number in numbers:
        if _isinstance(number, int):
            text = str(abs(number))
            zeros = len(text) - len(text.rstrip("0"))
            digits = max(digits, -zeros if number else -20)
        else:
            text = repr(float(number)).partition(".")[2]
            digits = max(digits, 20 if "e" in text or len(text) > 8 else len(text))
    if digits == -20:
        digits = 0
    return digits, max(map(abs, numbers), default=0), any(n < 0 for n in numbers)


def _other(value: Any, grain: tuple[int, float, bool]) -> Any:
    kind = type(value)
    digits, size, negative = grain
    sign = _random.choice((1, -1))
    if value is None or kind is bool:
        return _random.choice([v for v in (None, True, False, 7, "", -2, 0.5) if v is not value])
    if _isinstance(value, int):
        unit = 10 ** max(0, -digits)
        wide = _random.randint(1, int(size) // unit + 9)
        new = int(value) + sign * unit * _random.choice((_random.randint(1, 9), wide))
        return new if negative else abs(new)
    if _isinstance(value, float):
        new = float(value) + sign * (size + 0.1) * _random.choice((0.05, 1)) * _random.random()
        new = new if digits == 20 else round(new, max(1, digits))
        return kind(new if negative else abs(new))
    if _isinstance(value, complex):
        return value + (abs(value) + 0.1) * _random.uniform(0.01, 2) * sign
    if _isinstance(value, (str, bytes)):
        if not value:
            return value.__class__(b"a") if kind is bytes else _random.choice("abc xyz01")
        at = _random.randrange(len(value))
        letters = "abcdefghijklmnopqrstuvwxyz0123456789 "
        new = _random.choice(letters)
        return value[:at] + (new.encode() if kind is bytes else new) + value[at + 1 :]
    if _isinstance(value, date):
        return value + timedelta(days=_random.randint(1, 99) * sign)
    if _isinstance(value, timedelta):
        return value + timedelta(seconds=_random.randint(1, 9999) * sign)
    if _isinstance(value, (list, tuple)):
        items = list(value)
        if items and _random.random() < 0.8:
            at = _random.randrange(len(items))
            bit = type(items[at]) is bool
            items[at] = not items[at] if bit else _other(items[at], grain)
        elif items and _random.random() < 0.5:
            items.pop()
        else:
            items.append(_other(items[-1], grain) if items else _random.randint(0, 9))
        return tuple(items) if _isinstance(value, tuple) else items
    if _isinstance(value, dict):
        new = dict(value)
        if new:
            key = _random.choice(list(new))
            new[key] = _other(new[key], grain)
        else:
            new[_random.randint(0, 9)] = 0
        return new
    if _isinstance(value, (set, frozenset)):
        items = list(value)
        items.append(_other(items[0], grain) if items else 0)
        if len(items) > 2:
            items.pop(_random.randrange(len(items)))
        return kind(items)
    if kind.__name__ == "Decimal":
        return value + kind(_random.randint(1, 99) * sign).scaleb(value.as_tuple().exponent)
    if kind.__name__ == "Fraction":
        return value + kind(_random.randint(1, 99) * sign, value.denominator)
    return _random.choice((0, None, "", ()))


def _far(value: Any) -> list[Any]:
    """Return values of the same kind that lie far from this one, and from each other."""
    if _isinstance(value, (int, float)) and not _isinstance(value, bool):
        scale = (abs(value) + 1) * 3
        return [
            sign * (scale * 4**step + _random.randint(0, 99))
            for step in range(8)
            for sign in (1, -1)
        ]
    if _isinstance(value, (date, timedelta)):
        return [value + timedelta(days=sign * 9**n) for n in range(1, 5) for sign in (1, -1)]
    return _others(value)


# What an object holds, as a sign that it did not learn a text when it was asked.


def _holds(self: Any, value: Any) -> bool:
    """Return whether a value is in an object's own attributes, its items or its str().

    Without that, an object could equal all values with a property, such as that a list is sorted.
    """
    parts = _parts(value)
    wanted = [part for part in parts if _isinstance(part, str)]
    numbers = [part for part in parts if not _isinstance(part, str)]
    leaves, made, items = _held(self)
    held = _text_of(leaves, made)
    if len(held) > 1000 + 20 * sum(map(len, wanted)):
        held = ""
    if not all(text in held for text in wanted):
        return False
    if not parts:
        return items == [] or any(_isinstance(c, _CONTAINERS) and not c for c in _attributes(self))
    ordered = not any(_isinstance(part, (dict, set, frozenset)) for part in (value, *_of(value)))
    return any(
        len(source) <= 16 + 8 * len(numbers) and _in_order(numbers, source, ordered=ordered)
        for source in (leaves, made, _numbers_in(held), _parts(items or []))
    )


def _held(self: Any) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Return the data in an object's attributes, what it is converted to, and its items."""
    made: list[Any] = []
    items = None
    for convert in (str, repr, int, float, complex):
        with contextlib.suppress(Exception):
            made.append(convert(self))
    with contextlib.suppress(Exception):
        items = _items(self)
    return _parts(self), made, items


def _text_of(*held: list[Any]) -> str:
    return "\n".join(t for leaves in held for t in leaves if _isinstance(t, str))


def _numbers_in(text: str) -> list[Any]:
    return [float(word) for word in _NUMBER.findall(text)]


_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def _items(value: Any) -> list[Any]:
    return [] if hasattr(value, "__next__") else [*itertools.islice(value, 2000)]


def _in_order(wanted: list[Any], held: list[Any], *, ordered: bool) -> bool:
    """Return whether one list is part of another, in the same order or in any."""
    at = iter(held)
    return all(
        any(leaf == part for leaf in (at if ordered else held) if not _isinstance(leaf, str))
        for part in wanted
    )


def _held_instead(self: Any, value: Any) -> list[Any]:
    """Return other values like this one that can be made of what an object holds."""
    leaves, made, items = _held(self)
    held = [*leaves, *made, *_numbers_in(_text_of(leaves, made)[:2000]), *_parts(items or [])]
    found: list[Any] = []
    if _isinstance(value, (list, tuple)) and _numbers(value) == [*value] != []:
        numbers = [leaf for leaf in held if _isinstance(leaf, (int, float))]
        for _ in range(4 * _MOST if len(numbers) >= len(value) else 0):
            found.append(type(value)(_random.sample(numbers, len(value))))
    elif _isinstance(value, str):
        found = [text for text in held if _isinstance(text, str)][:_MOST]
    elif _isinstance(value, (int, float)):
        of_kind = int if _isinstance(value, int) else float
        with contextlib.suppress(ValueError, OverflowError):
            numbers = [n for n in held if _isinstance(n, (int, float))]
            found = [of_kind(n) for n in numbers if of_kind(n) == n][:_MOST]
    return [other for other in found if other != value]


def _of(value: Any) -> list[Any]:
    """Return what lies in a container, of the program's objects what they hold."""
    if _isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if _isinstance(value, (list, tuple, set, frozenset, collections.deque, range)):
        return [*itertools.islice(value, 2000)]
    return []


def _attributes(value: Any) -> list[Any]:
    """Return the values of an object's attributes, in their order."""
    found: list[Any] = []
    with contextlib.suppress(AttributeError):
        found += object.__getattribute__(value, "__dict__").values()
    for kind in type(value).__mro__:
        for slot in kind.__dict__.values():
            if _isinstance(slot, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    found.append(slot.__get__(value))
    return found


def _bare(atom: Any) -> Any:
    """Return an atom without the program's class."""
    for kind, bare in (
        (int, lambda value: int.__add__(value, 0)),
        (float, lambda value: float.__add__(value, 0.0)),
        (complex, lambda value: complex.__add__(value, 0j)),
        (str, str.__str__),
        (datetime, lambda value: datetime.fromisoformat(datetime.isoformat(value))),
        (date, lambda value: date.fromordinal(date.toordinal(value))),
        (timedelta, lambda value: timedelta.__add__(value, timedelta(0))),
    ):
        if is_own(atom) and _isinstance(atom, kind):
            return bare(atom)
    return atom


def _parts(value: Any) -> list[Any]:
    """Return the plain data of which a value consists, 2,000 at most, in its order."""
    parts: list[Any] = []
    waiting, seen = [value], set()
    while waiting and len(parts) < 2000:
        item = waiting.pop()
        if _isinstance(item, bytes):
            parts.append(bytes(item).decode("latin-1"))
        elif _isinstance(item, _ATOMS):
            parts.append(_bare(item))
        elif id(item) in seen or _isinstance(item, (_type, types.ModuleType)):
            continue
        elif inner := _of(item):
            waiting += inner[::-1]
        elif _plain(item) and not _isinstance(item, _CONTAINERS):
            parts.append(item)
        seen.add(id(item))
        if is_own(item) or not of_library(_type(item)):
            waiting += _attributes(item)[::-1]
    return parts
