"""Values that cross between two processes by name, and how a call's changes are copied back.

For `rpc`: standard types that are not plain data, shared functions, exceptions, and arguments.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import sys
from array import array
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

# Types and functions that mean the same on both sides go by name.
SHARED_MODULES = frozenset({"builtins", "math", "operator", "string", "cmath"})
UNSAFE_BUILTINS = frozenset(
    {"eval", "exec", "compile", "open", "input", "globals", "locals", "vars", "getattr", "setattr"}
    | {"delattr", "dir", "breakpoint", "help", "__import__", "__build_class__", "exit", "quit"}
)
_numpy_types: tuple[Any, ...] = ()


class ModuleName(str):
    """The name of a module that the program has imported."""

    __slots__ = ()


def shared_name(value: Any, *, everything: bool) -> tuple[str, str] | None:
    """Return the module and name under which both sides find this very object, if they do.

    With `everything` that is any object of the library, else what is safe to take from a program.
    """
    module = getattr(value, "__module__", None)
    name = getattr(value, "__name__", None)
    if type(name) is not str or type(module) is not str:
        return None
    safe = module in SHARED_MODULES and name not in UNSAFE_BUILTINS
    if not safe and not (everything and module in sys.stdlib_module_names):
        return None
    return (module, name) if getattr(sys.modules.get(module), name, None) is value else None


def library_class(name: str) -> type[BaseException] | None:
    """Return the exception class of the standard library with this full name, if it is loaded."""
    module, _, short = name.rpartition(".")
    if module != "builtins" and module not in sys.modules:
        return None
    # unittest ends a test silently by some of its own.
    if module.partition(".")[0] not in sys.stdlib_module_names - {"unittest"}:
        return None
    found = getattr(builtins if module == "builtins" else sys.modules[module], short, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def may_change(value: Any) -> bool:
    """Return whether a call could change some argument for its caller."""
    args, kwargs = value
    plain = (int, float, str, bytes, bool, type(None))
    return not all(type(item) in plain for item in (*args, *kwargs.values()))


def take_over(old: Any, new: Any) -> Any:
    """Make `old` and all that it holds equal to `new`, in place where it is mutable."""
    if type(old) is not type(new):
        return new
    if isinstance(old, tuple):
        for before, after in zip(old, new, strict=False):
            take_over(before, after)
        return old if len(old) == len(new) and old == new else new
    if isinstance(old, (list, collections.deque)):
        items = [take_over(old[i], item) if i < len(old) else item for i, item in enumerate(new)]
        old.clear()
        old.extend(items)
        return old
    if isinstance(old, dict):
        merged = {
            key: take_over(old[key], item) if key in old else item for key, item in new.items()
        }
        old.clear()
        old.update(merged)
        return old
    if isinstance(old, (set, bytearray)):
        old.clear()
        old.extend(new) if isinstance(old, bytearray) else old.update(new)
        return old
    if hasattr(old, "__dict__") and not isinstance(old, type):
        old.__dict__.update(new.__dict__)
        return old
    return new


def find_numpy() -> None:
    """Look for numpy, which a worker imports or not before its first run."""
    global _numpy_types
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        _numpy_types = (numpy.generic, numpy.ndarray)


def without_numpy(value: Any) -> Any:
    """Return the plain value of a numpy value, NotImplemented for any other."""
    if _numpy_types and isinstance(value, _numpy_types):
        generic, array = _numpy_types
        item = generic.item(value) if isinstance(value, generic) else array.tolist(value)
        return float(item) if isinstance(item, generic) else item  # a long double is its own item
    return NotImplemented


def number(value: Any) -> Any:
    """Return the payload of a Fraction or a Decimal; neither module is imported for it."""
    kind = type(value)
    fractions, decimal = sys.modules.get("fractions"), sys.modules.get("decimal")
    if fractions is not None and kind is fractions.Fraction:
        return ("Fraction", value.numerator, value.denominator)
    if decimal is not None and kind is decimal.Decimal:
        return ("Decimal", str(value))
    return NotImplemented


def _fixed(value: datetime) -> timezone | None:
    """Return the zone of a datetime as an offset: zones with rules of their own stay behind."""
    offset = value.utcoffset()
    return None if offset is None else timezone(offset, value.tzname() or "")


TO_PAYLOAD: dict[type, Callable[[Any], Any]] = {
    collections.deque: lambda v: ("deque", list(v), v.maxlen),
    collections.Counter: lambda v: ("Counter", dict(v)),
    collections.OrderedDict: lambda v: ("OrderedDict", list(v.items())),
    bytearray: lambda v: ("bytearray", bytes(v)),
    range: lambda v: ("range", v.start, v.stop, v.step),
    array: lambda v: ("array", v.typecode, v.tolist()),
    datetime: lambda v: ("datetime", v.replace(tzinfo=None).isoformat(), _fixed(v), v.fold),
    timezone: lambda v: ("timezone", v.utcoffset(None), v.tzname(None)),
    date: lambda v: ("date", v.isoformat()),
    time: lambda v: ("time", v.isoformat()),
    timedelta: lambda v: ("timedelta", v.days, v.seconds, v.microseconds),
    slice: lambda v: ("slice", v.start, v.stop, v.step),
    type(Ellipsis): lambda _: ("Ellipsis",),
    type({}.keys()): lambda v: ("keys", list(v)),
    type({}.values()): lambda v: ("values", list(v)),
    type({}.items()): lambda v: ("items", list(v)),
}
FROM_PAYLOAD: dict[str, Callable[..., Any]] = {
    "deque": collections.deque,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "bytearray": bytearray,
    "range": range,
    "array": array,
    "Fraction": lambda *parts: importlib.import_module("fractions").Fraction(*parts),
    "Decimal": lambda text: importlib.import_module("decimal").Decimal(text),
    "datetime": lambda text, zone, fold: datetime.fromisoformat(text).replace(
        tzinfo=zone, fold=fold
    ),
    "timezone": timezone,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": timedelta,
    "slice": slice,
    "Ellipsis": lambda: Ellipsis,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: dict(items).items(),
}
