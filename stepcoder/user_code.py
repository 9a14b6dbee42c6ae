"""What users bring in a file of their own, named as FILE.py:NAME in place of what we ship."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepcoder.errors import RunError


def is_user_code(name: str) -> bool:
    """Return whether a value of an option names something in a file of the user's own."""
    path, _, attribute = name.rpartition(":")
    return path.endswith(".py") and attribute.isidentifier()


def load_object(name: str, option: str) -> Any:
    """Run the file of FILE.py:NAME as a module, and return its NAME.

    The file can import what lies beside it.

    Raises:
        RunError: there is no such file or name, or the file raises; `option` is what named it.
    """
    path, _, attribute = name.rpartition(":")
    file = Path(path)
    if not is_user_code(name) or not file.is_file():
        raise RunError(f"{option}: {name} names no Python file that is here; give FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"user_code_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    if str(file.parent.absolute()) not in sys.path:
        sys.path.append(str(file.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        where = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)][-1]
        raise RunError(
            f"{option}: {path} cannot be imported (line {where}, {type(error).__name__}: {error})"
        ) from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise RunError(f"{option}: {path} has no {attribute}; give a name that it has") from None


def rows_of(name: str) -> Iterator[tuple[str, Any]]:
    """Yield what the function FILE.py:NAME gives, one row after another, each with its place.

    Raises:
        RunError: there is no such function, or it fails.
    """
    function, given = load_object(name, "problems"), 0
    try:
        for given, row in enumerate(function(), 1):
            yield f"row {given}", row
    except Exception as error:  # whatever the user's code raises
        raise RunError(
            f"problems: {name} raised {type(error).__name__}: {error} (after {given} rows); mend it"
        ) from None
