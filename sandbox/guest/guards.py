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
import operator
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
_GUARDS_FILENAME = (lambda: 0).__code__.co_filename

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
# Those of an object's methods whose answer says little: most differences have the same.
_SIZES = ("__len__", "__bool__")
# The operators that answer 0, or something empty, for equal operands.
_APART = tuple(f"__{prefix}{name}__" for prefix in ("", "r", "i") for name in ("sub", "xor", "mod"))
_ORDERED = (numbers.Number, date, timedelta, str, tuple)
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
_answers: dict[int, _Answer] = {}  # objects that a test made from another and a plain value, by id
_bounds: dict[tuple[int, type], tuple[Any, Any, Any]] = {}
# Objects of whose differences a test got numbers, and those of which it got numbers otherwise.
_stand: dict[int, tuple[Any, list[Any]]] = {}
_converted: dict[int, tuple[Any, list[Any]]] = {}
_under_test: Any = None  # the object whose operator is what a test asks for next
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


def by_program(*, or_guards: bool = False) -> bool:
    """Return whether the program, and not a test, is what runs the library code above.

    Or a guard that asks an object: functools.total_ordering asks it for another comparison.
    """
    frame: types.FrameType | None = _getframe(2)
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename == FILENAME or (or_guards and filename == _GUARDS_FILENAME):
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
    """Return whether an object's operators are what the test is about, not a result's."""
    known = _answers.get(id(value))
    return _under_test is value or (known is not None and known.tested)


# What operators answer. An operator of an object that is a result may be a comparison in disguise,
# as in abs(f(x) - 7) < 1, so it has to answer as some plain value would: then it stands for that
# value. One of an object that the test has made by its class is what the test is about; but where
# it answers what a disguised comparison would, it has to depend on the operand.


def _plain_operators() -> dict[str, Callable[..., Any]]:
    """Return what the operators and conversions do with plain values, by their methods' names."""
    found: dict[str, Callable[..., Any]] = {
        f"__{kind.__name__}__": kind for kind in (divmod, float, int, round, bool, complex, len)
    }
    for name in (*_DIFFERENCES, *_SUMS, *_CONVERSIONS, *_MAGNITUDES):
        if hasattr(operator, name):
            found[name] = getattr(operator, name)
    for name in (*_DIFFERENCES, *_SUMS, "__rmul__"):
        if name[2] == "r":
            found[name] = _reflected(found[f"__{name[3:]}"])
        elif name[2] == "i":  # it would change the plain value
            found[name] = found[f"__{name[3:]}"]
    return found


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, other: function(other, value)


class _Answer:
    """An operator's answer to a plain operand, beside those to other operands."""

    def __init__(
        self, name: str, value: Any, operand: Any, others: list[tuple[Any, Any]],
        plainly: Callable[[Any, Any], Any], held: list[Any], *, tested: bool,
    ) -> None:  # fmt: skip
        """Note the answers. `plainly` is the operator for plain values, such as the `held` ones."""
        self.value, self.operand, self.others, self.tested = value, operand, others, tested
        self.name, self.plainly = name, plainly
        # The plain values that answer the same.
        enough = len(others) >= _FEWEST
        self.held = [v for v in held if enough and all(self._same(v, a) for a in self._all())]

    def _all(self) -> list[tuple[Any, Any]]:
        return [(self.operand, self.value), *self.others]

    def _same(self, held: Any, answer: tuple[Any, Any]) -> bool:
        try:
            return _equivalent(answer[1], _broadcast(self.plainly, held, answer[0]))
        except Exception:
            return False

    def then(self, name: str, method: Callable[..., Any], *rest: Any) -> _Answer:
        """Return the answer of another operator to this one, asked with the others at random."""
        made = dict.fromkeys(range(len(self.others) + 1))
        pairs = self._all()
        for at in _random.sample(list(made), len(made)):
            asked = pairs[at][1] if at == 0 or _type(pairs[at][1]) is _type(self.value) else None
            made[at] = method(asked, *rest) if at == 0 else _quietly(method, asked, *rest)
        inner, outer = self.plainly, _PLAIN_OPERATORS.get(name)

        def plainly(value: Any, other: Any) -> Any:
            return outer(inner(value, other), *rest)  # type: ignore[misc]

        others = [(pairs[at][0], made[at]) for at in made if at and made[at] is not NotImplemented]
        return _Answer(
            self.name, made[0], self.operand, others, plainly, self.held, tested=self.tested
        )

    def depends(self, value: Any, same: Callable[[Any], bool], share: float = 0.2) -> bool:
        """Return whether it depends on the operand, if a disguised comparison has this value."""
        given = self.operand
        if not _plain(given) or _isinstance(given, bool):
            return True
        number = _isinstance(value, (int, float)) and _isinstance(given, (int, float))
        empty = _isinstance(value, (str, *_CONTAINERS)) and not value and self.name in _APART
        differ = []
        if _alike(value, given):  # as x & {1, 2} is {1, 2} for any x that is at least that
            differ = [not _alike(other, operand) for operand, other in self.others]
        elif empty or (number and abs(value) <= max(2, abs(given) / 10)):
            differ = [not same(other) for _, other in self.others]
        return sum(differ) >= share * len(differ)

    def believed(self) -> bool:
        """Return whether this is no forgery."""
        value = self.value
        same = functools.partial(_equivalent, value)
        if self.held or (self.tested and self.depends(value, same)):
            return True
        # Of a result: what says more than that something equals the operand.
        numbers = _numbers(value) if _isinstance(value, _CONTAINERS) else [3]
        return (
            _isinstance(value, (str, *_CONTAINERS))
            and (not numbers or max(map(abs, numbers)) > 2)
            and self.depends(value, same, 1)
        )

    def given(self) -> Any:
        """Return the answer as the test gets it, NotImplemented if it may be a forgery."""
        is_object = _is_object(self.value)
        if not is_object and not self.believed():
            _note_asked()
            return NotImplemented
        if is_object or (is_own(self.value) and not self.tested):
            _answers[id(self.value)] = self
        return self.value


def _broadcast(function: Callable[[Any, Any], Any], value: Any, other: Any) -> Any:
    """Return what an operator does with a number, a text or a set, with each item of a list."""
    if not _isinstance(value, list):
        return function(value, other)
    others = other if _isinstance(other, (list, tuple)) else itertools.repeat(other)
    return [_broadcast(function, item, o) for item, o in zip(value, others, strict=False)]


def _equivalent(answer: Any, value: Any) -> bool:
    """Return whether an answer, or the items of one, are a value but for rounding."""
    try:
        if is_own(answer) and not _isinstance(answer, _ATOMS):
            answer = _items(answer)
            answer = set(answer) if _isinstance(value, (set, frozenset)) else answer
        answer, value = _bare(answer), _bare(value)
        if _isinstance(value, (list, tuple)):
            same_size = _isinstance(answer, (list, tuple)) and len(answer) == len(value)
            return same_size and all(map(_equivalent, answer, value))
        if _isinstance(value, (int, float)) and _isinstance(answer, (int, float)):
            # Of an infinite value everything would be as near.
            rounding = 1e-9 * (1 + abs(value))
            return bool(answer == value or abs(answer - value) <= rounding < float("inf"))
        return not is_own(answer) and not is_own(value) and bool(answer == value)
    except Exception:
        return False


def _alike(value: Any, other: Any) -> bool:
    """Return whether two values are equal, or containers of the same."""
    of = (value, other)
    containers = all(_isinstance(v, _CONTAINERS) for v in of)
    one, another = (sorted(map(repr, _parts(v))) if containers else [] for v in of)
    return _equivalent(value, other) or (one == another != [])


def _may_stand_for(self: Any, method: Callable[..., Any]) -> list[Any]:
    """Return plain values that an object holds, and what it answers to operands that show one."""
    leaves, made, items = _held(self)
    found: list[Any] = [*leaves, *made, *_numbers_in(_text_of(leaves, made)[:2000])][:200]
    for container in (items, *_attributes(self)):
        if _isinstance(container, _CONTAINERS):
            found.append([*container])
            with contextlib.suppress(TypeError):
                found.append(set(container))
    for shows in (0, 1, -1, *[10**9] * ("mod" in method.__name__)):
        answer = _bare(_quietly(method, _twin(self), shows))
        if _isinstance(answer, (int, float)):
            found += [answer, -answer, answer + 1, answer - 1, 1 / answer if answer else 0]
    return found


# The guards. Each calls the method as it is where the program calls it.


def _equality(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    equal = name == "__eq__"

    def compare(self: Any, other: Any) -> Any:
        under_test = _is_under_test(self)
        if by_program(or_guards=True):
            return method(self, other)
        if is_own(other):
            answer = method(self, other)
            if _says(answer, equal) and _says(_quietly(method, self, object()), equal):
                return not equal  # it equals everything
            return answer
        if not _plain(other):
            return NotImplemented
        # Before it is asked: it may keep what it is asked about.
        held = under_test or _holds(self, other)
        answer, told_apart = _ask(method, self, other, equal=equal, instead=not under_test)
        if not _says(answer, equal):
            _note_asked()
            return answer
        if held and told_apart >= (0.75 if under_test else 1.0) and _answers_for(self, other):
            return equal
        _note_asked()
        return not equal

    return compare


def _answers_for(self: Any, value: Any) -> bool:
    """Return whether an object that an operator has made, if it is one, may equal a value.

    Those that it made of other operands must not, or an object could equal 0 as a difference.
    """
    known = _answers.get(id(self))
    if known is None or known.held:
        return True

    def same(made: Any) -> bool:
        return _says(_quietly(operator.eq, made, value), equal=True)

    if known.tested:
        return known.depends(value, same)
    return bool(known.others) and not any(same(made) for _, made in known.others)


_OPPOSITES = {"__lt__": "__gt__", "__gt__": "__lt__", "__le__": "__ge__", "__ge__": "__le__"}


def _order(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    upwards = name in ("__lt__", "__le__")

    def compare(self: Any, other: Any) -> Any:
        under_test = _is_under_test(self)
        if by_program(or_guards=True) or is_own(other):
            return method(self, other)
        known = _answers.get(id(self))
        if under_test and _plain(other):
            answer = method(self, other)
            made = known and known.then(name, method, other)
            if made and not made.depends(other, lambda found: _says(found, equal=bool(answer))):
                _note_asked()
                return NotImplemented
            return _one_sided(self, other, answer)
        if known is not None or not _isinstance(other, _ORDERED):
            return NotImplemented
        # The object must have a place among the values, the same for every comparison.
        values = [*_others(other), *_far(other), other]
        _random.shuffle(values)
        answers = [(value, bool(_quietly(method, self, _rebuilt(value)))) for value in values]
        above = [v for v, less in answers if less is upwards]  # values above the object
        below = [v for v, less in answers if less is not upwards]
        place = (id(self), next(kind for kind in _ORDERED if _isinstance(other, kind)))
        _, low, high = _bounds.get(place, (self, None, None))
        top = min([*above, *([high] if high is not None else [])], default=None)
        bottom = max([*below, *([low] if low is not None else [])], default=None)
        if top is None or bottom is None or bottom > top:
            _note_asked()
            return NotImplemented
        _bounds[place] = (self, bottom, top)
        answer = next(less for value, less in answers if value is other)
        if not answer:
            _note_asked()
        return answer

    def _one_sided(self: Any, other: Any, answer: Any) -> Any:
        """Return an answer unless the object says as well that it lies on the other side."""
        if not _says(answer, equal=True):
            return answer
        # It is on both sides of itself only.
        values = _others(other)[:8] if "e__" in name else []
        values.append(other)
        _random.shuffle(values)
        both = [
            _says(_quietly(asked, self, value), equal=True)
            for value in values
            for asked in (method, getattr(_type(self), _OPPOSITES[name]))
        ]
        if sum(map(min, both[::2], both[1::2])) > len(values) / 3 * ("e__" in name):
            _note_asked()
            return NotImplemented
        return answer

    return compare


def _containment(_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def contains(self: Any, other: Any) -> Any:
        if _is_under_test(self) or by_program(or_guards=True) or is_own(other):
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
    adds = name in _SUMS

    def operate(self: Any, other: Any) -> Any:
        global handed
        under_test = _is_under_test(self)
        if by_program(or_guards=True):
            return method(self, other)
        known = _answers.get(id(self))
        number = _isinstance(other, (int, float)) and not _isinstance(other, bool)
        # Adding -7 is subtracting 7.
        harmless = is_own(other) or callable(other) or (adds and not (number and other < 0))
        handed |= not harmless
        if known is not None and (harmless or not known.tested):
            return known.then(name, method, other).given()
        if harmless:
            return method(self, other)
        before = _twin(self)
        held = _may_stand_for(before, method)
        values = [other]
        if _plain(other):  # not too far: it may make a list of so many
            near = _others(other)
            values += [*_random.sample(near, min(8, len(near))), *_far(other)[:4], *_far(other)[:4]]
        _random.shuffle(values)
        answer: Any = NotImplemented
        asked: list[tuple[Any, Any]] = []
        for value in values:
            if value is other:
                answer = method(self, other)
            else:
                asked.append((value, _quietly(method, _twin(before), _rebuilt(value))))
        if answer is NotImplemented:
            return answer
        asked = [(value, made) for value, made in asked if made is not NotImplemented]
        plainly = _PLAIN_OPERATORS[name]
        made = _Answer(name, answer, other, asked, plainly, held, tested=under_test)
        numbers = _numbers(made.held)
        is_number = not under_test and numbers and _isinstance(answer, (int, float))
        if is_number and not _stands_for(self, numbers):
            _note_asked()
            return NotImplemented
        return made.given()

    return operate


def _stands_for(self: Any, numbers: list[Any]) -> bool:
    """Return whether an object still stands for one of these numbers, by all that it answered."""
    _, before = _stand.get(id(self), (self, numbers))
    numbers = [n for n in numbers if any(_equivalent(n, other) for other in before)]
    for convert, answer in _converted.get(id(self), (self, []))[1]:
        numbers = [n for n in numbers if _equivalent(answer, convert(n))]
    _stand[id(self)] = (self, numbers)
    return bool(numbers)


def _plain_call(name: str, arguments: tuple[Any, ...], value: Any) -> Any:
    return _PLAIN_OPERATORS[name](value, *arguments)


def _twin(value: Any) -> Any:
    """Return a copy of an object, for operators that change what they are asked: `account -= 5`."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _conversion(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def convert(self: Any, *arguments: Any) -> Any:
        if by_program(or_guards=True):
            return method(self, *arguments)
        known = _answers.get(id(self))
        if known is not None:
            made = known.then(name, method, *arguments)
            answer = made.value if known.tested and name in _SIZES else made.given()
            if answer is NotImplemented and made.value is not NotImplemented:
                raise TypeError(f"{name} of a difference of the program's own making")
            return answer
        answer = method(self, *arguments)
        number = _isinstance(answer, (int, float)) and not any(map(is_own, arguments))
        if name in _MAGNITUDES and number:
            # It may be a bound that it has made up, as in abs(a - b) <= 1e-9 * abs(a).
            converted = _converted.setdefault(id(self), (self, []))[1]
            converted.append((functools.partial(_plain_call, name, arguments), answer))
            if id(self) in _stand and not _stands_for(self, _stand[id(self)][1]):
                _note_asked()
                raise TypeError(f"{name} of an object that stands for a number in a difference")
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
_PLAIN_OPERATORS = _plain_operators()


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


def _quietly(method: Callable[..., Any], *values: Any) -> Any:
    try:
        return method(*values)
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
    """Return the numbers that a text shows; an object's address, as in 0x7f6528e8ce50, is none."""
    return [float(word) for word in _NUMBER.findall(_ADDRESS.sub("", text))]


_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
_ADDRESS = re.compile(r"0x[0-9a-f]+")
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
