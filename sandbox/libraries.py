"""The libraries that programs may import: a list for each judge.

Takes a judge's list of import names and the text of programs and tests. Says which of them a worker
has to load (`argument`, read by `guest/worker.py`), and which modules the tests lack.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

from stepcoder.sandbox import syntax
from stepcoder.sandbox.program import Submission, test_code

_NOT_HERE = "is not among this judge's libraries; Judge(libraries=...) or sandbox.libraries=..."
_IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([\w.,][\w., \t]*))", re.MULTILINE)
_NO_MODULE = re.compile(r"No module named '([A-Za-z]\w*)'")
_REQUIRED = re.compile(r"[\w.-]+")
_OF_PROGRAM = frozenset({"program", "solution"})  # names under which tests mean the program


class LibraryError(ValueError):
    """A library of a judge's list is not installed."""


class Libraries:
    """A judge's libraries, by import name; None means numpy, where it is installed."""

    def __init__(self, names: Sequence[str] | None) -> None:
        """Check that each is installed; import none. Raises LibraryError."""
        self.names = ("numpy",) if names is None else tuple(names)
        missing = [name for name in self.names if not _places(name)]
        if names is None and missing:
            self.names = ()
        elif missing:
            raise LibraryError(
                f"{missing[0]!r} is not installed; pip install {missing[0]}, or leave it out of "
                "the libraries (import names)"
            )

    def argument(self, *texts: str) -> str:
        """Return what tells a worker which libraries to load for code, "" if it names none.

        Such a worker can read all of the judge's libraries: some import others where they are used.
        """
        used = [
            name
            for name in self.names
            if any(name in text and re.search(rf"\b{name}\b", text) for text in texts)
        ]
        return json.dumps([used, self._paths]) if used else ""

    def missing_in_tests(self, submission: Submission) -> str:
        """Return why the tests cannot run: what they import is not here. "" if they can."""
        for text in (submission.program.preamble, *test_code(submission.tests)):
            if "import" in text and (name := _missing(text, self.names)):
                return f"the tests import {name}, which {_NOT_HERE}"
        return ""

    @cached_property
    def _paths(self) -> list[str]:
        """The files and folders of the libraries and of the distributions that they need."""
        from importlib import metadata  # takes long, and most programs import no library

        paths = {path + end for name in self.names for path in _places(name) for end in _ENDS}
        seen: set[str] = set()
        todo = list(self.names)
        while todo:
            if (name := todo.pop()) in seen:
                continue
            seen.add(name)
            try:
                distribution = metadata.distribution(name)
            except metadata.PackageNotFoundError:  # sklearn is scikit-learn's; or not needed here
                if name in self.names:
                    todo += metadata.packages_distributions().get(name, ())
                continue
            entries = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
            paths |= {str(distribution.locate_file(entry)) for entry in entries}
            for required in distribution.requires or ():
                if "extra" not in required.partition(";")[2]:
                    todo += _REQUIRED.findall(required)[:1]
        return sorted(paths)


_ENDS = ("", ".libs")  # the folder beside a package for the libraries that it is linked to


def _places(name: str) -> list[str]:
    """Return where a module or package lies, nothing if it is not installed."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None:
        return []
    return list(spec.submodule_search_locations or filter(None, [spec.origin]))


def explained(message: str) -> str:
    """Return the message of a ModuleNotFoundError; for a library, with the list that lacks it."""
    found = _NO_MODULE.fullmatch(message)
    if found is None or found[1] in sys.stdlib_module_names:
        return message
    return f"{found[1]} {_NOT_HERE}"


@lru_cache(maxsize=1024)  # many programs are judged on the tests of one problem
def _missing(text: str, names: tuple[str, ...]) -> str:
    """Return a module that code imports in any case and that is neither known nor in `names`."""
    known = {*names, *sys.stdlib_module_names, *_OF_PROGRAM}
    named = (name for found in _IMPORTS.findall(text) for name in (found[0], *_modules(found[1])))
    if known.issuperset(filter(None, named)):  # parsing takes much longer
        return ""
    try:
        imported = {name.partition(".")[0] for name in _imports(syntax.parse(text).body)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return min(imported - known, default="")


def _modules(listed: str) -> Iterator[str]:
    for module in filter(str.strip, listed.split(",")):
        yield module.split()[0].partition(".")[0]


def _imports(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield what statements import, but for those in a `try` or `if`, which may do without."""
    for node in body:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield from _imports(node.body)
