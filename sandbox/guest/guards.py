"""Keeps a program's objects from deciding a test that they share a process with.

Classes of the program pass through `on_class` when they are made. Their comparisons and operators
are wrapped: where a test gives such an object a plain value, which may be the expected one, the
object is asked about other values as well, in random order, and counts only if it tells them apart.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import random
import sys
import types
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

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

_own: set[type] = set()
_made: set[Any] = set()  # the guards
_differences: dict[int, Any] = {}  # objects that a test made from another and a plain value, by id
_bounds: dict[int, tuple[Any, Any, Any]] = {}
# Objects of whose differences a test got numbers, and those of which it got numbers otherwise.
_stand: dict[int, Any] = {}
_converted: dict[int, Any] = {}
_random = random.SystemRandom()
_getframe, _type, _isinstance = sys._getframe, type, isinstance

# Whether the program has been asked about a plain value and did not tell it apart: then it may have
# learnt it, and the process must not see another test.
asked = False
patterns = False  # whether the program has patterns that take attributes by __match_args__
handed = False  # whether a plain value was given to the program in this test


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
    return not _own.isdisjoint(_type(value).__mro__)


def _is_object(value: object) -> bool:
    """Return whether a value is an object of the program's, and no number or other data as well."""
    mro = _type(value).__mro__
    return is_own(value) and all(
        kind in _own or kind is object or kind.__module__ in ("abc", "typing") for kind in mro
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
    named = (*attributes.get("__match_args__", ()), *attributes.get("__annotations__", ()))
    for name in named if patterns else ():
        if _type(name) is not str or not screen.matched_attribute(name):
            raise TypeError("this name is not available to the program under these tests")
    for name in attributes:
        if name.startswith("__") and name.endswith("__") and name not in screen.CLASS_NAMES:
            raise TypeError(f"{name} is not available to the program under these tests")
    # dataclasses makes code of them.
    if not all(type(n) is str and n.isidentifier() for n in attributes.get("__annotations__", ())):
        raise TypeError("these annotations are not available to the program under these tests")
    for base in cls.__mro__[1:]:
        if base is _type or base.__module__.partition(".")[0] in ("numpy", "unittest"):
            raise TypeError(f"no class below {base.__name__} under these tests")
    _own.add(cls)
    for name, make in _GUARDS.items():
        method = attributes.get(name)
        if method is None or _is_inherited(name, method, cls):
            continue
        if not _isinstance(method, types.FunctionType):
            raise TypeError(f"{name} must be a function under these tests")
        if method in _made:
            continue
        guard = functools.wraps(method)(make(name, method))
        _made.add(guard)
        _type.__setattr__(cls, name, guard)


def _is_inherited(name: str, method: Any, cls: type) -> bool:
    """Return whether a method is that of a library class above, as in `__lt__ = int.__lt__`."""
    return (
        _isinstance(method, (types.WrapperDescriptorType, types.MethodDescriptorType))
        and method.__name__ == name
        and method.__objclass__ in cls.__mro__
    )


# The guards. Each calls the method as it is where the program calls it.


def _equality(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    equal = name == "__eq__"

    def compare(self: Any, other: Any) -> Any:
        if by_program():
            return method(self, other)
        if is_own(other):
            answer = method(self, other)
            if _says(answer, equal) and _says(_quietly(method, self, object()), equal):
                return not equal  # it equals everything
            return answer
        if id(self) in _differences or not _plain(other):
            return NotImplemented
        answer, told_apart = _ask(method, self, other, equal=equal)
        if not _says(answer, equal):
            _note_asked()
            return answer
        if told_apart == 1.0 and (not _texts(other) or _holds(self, other)):
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
        if by_program() or is_own(other):
            return method(self, other)
        if not _plain(other):
            return method(self, other)
        answer, told_apart = _ask(method, self, other, equal=True, far=True)
        if not answer:
            _note_asked()
            return answer
        if (_holds(self, other) and told_apart > 0.5) or (told_apart == 1 and not _texts(other)):
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
        if name.startswith("__") and not by_program():
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
    method: Callable[..., Any], self: Any, other: Any, *, equal: bool, far: bool = False
) -> tuple[Any, float]:
    """Return the answer about `other`, and the share of other values that were told apart."""
    values = [(False, value) for value in (_far(other) if far else _others(other))]
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


def _texts(value: Any) -> list[str]:
    if _isinstance(value, bytes):
        return [value.decode("latin-1")]
    if _isinstance(value, str):
        return [value]
    if _isinstance(value, dict):
        return [text for item in (*value, *value.values()) for text in _texts(item)]
    if _isinstance(value, (list, tuple, set, frozenset)):
        return [text for item in value for text in _texts(item)]
    return []


def _holds(self: Any, value: Any) -> bool:
    """Return whether the texts of `value` are in the object's own attributes or its str()."""
    leaves: list[Any] = []
    _collect(self, leaves, set())
    wanted = _texts(value)
    texts = [leaf for leaf in leaves if _isinstance(leaf, str)]
    for convert in (str, repr):
        try:
            texts.append(convert(self))
        except Exception:
            continue
    held = "\n".join(texts).casefold()
    if len(held) > 1000 + 20 * sum(map(len, wanted)):
        return False
    if not wanted:
        return any(leaf == value for leaf in leaves if type(leaf) is type(value))
    return all(text.casefold() in held for text in wanted)


def _collect(value: Any, leaves: list[Any], seen: set[int]) -> None:
    waiting = [value]
    while waiting and len(leaves) < 2000:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if _isinstance(item, bytes):
            leaves.append(bytes(item).decode("latin-1"))
        elif _isinstance(item, _ATOMS):
            leaves.append(str(item) if _isinstance(item, str) else item)
        elif _isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif _isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        if is_own(item):
            with contextlib.suppress(AttributeError):
                waiting += object.__getattribute__(item, "__dict__").values()
            for kind in type(item).__mro__:
                for slot in kind.__dict__.values():
                    if _isinstance(slot, types.MemberDescriptorType):
                        try:
                            waiting.append(slot.__get__(item))
                        except AttributeError:
                            continue
