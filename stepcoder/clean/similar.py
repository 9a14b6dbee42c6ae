"""Which problems are the same: equal or nearly equal statements, and equal programs.

Takes texts, gives pairs. Similarity is the Jaccard index of the sets of word triples, computed
exactly: an inverted index of each set's rarest triples finds every pair that can reach the
threshold (prefix filtering: Chaudhuri et al. 2006, Bayardo et al. 2007).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

from stepcoder.problems.source import parse

WORDS = 3  # a shingle
_WORD = re.compile(r"\w+")

Shingles = frozenset[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts by their places, the earlier one first, and how similar they are."""

    first: int
    second: int
    similarity: float


_DOCSTRING = re.compile(r'def\s+\w+\(.*?:\s*[rR]?("""|\'\'\')(.*?)(?:\1|\Z)', re.DOTALL)


def statement_of(prompt: str) -> str:
    """Return the words of a prompt: of one that is code, its docstrings up to their examples."""
    found = [match[1] for match in _DOCSTRING.findall(prompt)]
    text = "\n".join(found) if found else prompt
    return text.partition(">>>")[0].strip() or prompt


def words_of(text: str) -> str:
    """Return the words of a text in lower case, one space apart."""
    return " ".join(_WORD.findall(text.lower()))


def shingles_of(text: str) -> Shingles:
    """Return the word triples of a text; all of it where it has fewer words."""
    words = _WORD.findall(text.lower())
    count = max(len(words) - WORDS + 1, 1)
    return frozenset(" ".join(words[i : i + WORDS]) for i in range(count))


def similar_pairs(sets: Sequence[Shingles], threshold: float) -> Iterator[Pair]:
    """Yield every pair of sets whose Jaccard index is at least the threshold, in order."""
    counts = Counter(item for items in sets for item in items)
    index: dict[str, list[int]] = defaultdict(list)
    for second, items in enumerate(sets):
        # Two sets that reach the threshold share an item among the rarest of each.
        length = len(items) - ceil(threshold * len(items)) + 1
        prefix = sorted(items, key=lambda item: (counts[item], item))[:length]
        for first in sorted({i for item in prefix for i in index[item]}):
            similarity = jaccard(sets[first], items)
            if similarity >= threshold:
                yield Pair(first, second, similarity)
        for item in prefix:
            index[item].append(second)


def jaccard(left: Collection[str], right: Collection[str]) -> float:
    """Return the share of the items of either set that are in both."""
    common = len(set(left) & set(right))
    return common / max(len(left) + len(right) - common, 1)


@cache
def program_key(source: str) -> str:
    """Return a text that is equal for programs that differ in names and layout only.

    Names that the program itself binds are numbered in the order of their appearance. Imports,
    docstrings and annotations are left out, and so is a class around a single method.
    """
    body = [
        node for node in parse(source).body if not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    match body:
        case [ast.ClassDef(body=[ast.FunctionDef(args=ast.arguments(args=[_, *_])) as method])]:
            del method.args.args[0]
            body = [method]
    tree = ast.Module(body, [])
    writer = _Writer(tree)
    writer.write(tree)
    return hashlib.sha256("\n".join(writer.parts).encode("utf-8", "surrogatepass")).hexdigest()


_LEFT_OUT = frozenset({"ctx", "annotation", "returns", "type_comment", "type_ignores", "kind"})
_NAME_FIELDS = frozenset({"id", "arg", "name", "names"})


class _Writer:
    """Writes a tree as lines that are the same whatever its names are."""

    def __init__(self, tree: ast.Module) -> None:
        self.parts: list[str] = []
        self._numbers: dict[str, str] = {}
        self._methods: set[str] = set()
        self._bound: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self._methods.add(node.name)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self._bound.add(node.id)
            elif isinstance(node, ast.arg):
                self._bound.add(node.arg)
        self._bound |= self._methods

    def write(self, node: ast.AST) -> None:
        self.parts.append(type(node).__name__)
        for name, value in ast.iter_fields(node):
            if name in _LEFT_OUT:
                continue
            if isinstance(value, list):
                items = [item for item in value if not _is_docstring(item)]
                self.parts.append(f"{name}[{len(items)}")
                for item in items:
                    self._write_value(name, item)
            else:
                self._write_value(name, value)

    def _write_value(self, name: str, value: object) -> None:
        if isinstance(value, ast.AST):
            self.write(value)
            return
        renamed = self._methods if name == "attr" else self._bound if name in _NAME_FIELDS else ()
        known = isinstance(value, str) and value in renamed
        self.parts.append(self._number(str(value)) if known else repr(value))

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"_{len(self._numbers)}")


def _is_docstring(value: object) -> bool:
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)
