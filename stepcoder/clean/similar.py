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
    """Two texts by their numbers, the earlier one first, and how similar they are."""

    first: int
    second: int
    similarity: float


_DOCSTRING = re.compile(r'def\s+\w+\(.*?:\s*[rR]?("""|\'\'\')(.*?)(?:\1|\Z)', re.DOTALL)


def statement_of(prompt: str) -> str:
    """Return the words of a prompt: of one that is code, its docstrings up to their examples."""
    found = [match[1] for match in _DOCSTRING.findall(prompt)]
    text = "\n".join(found) if found else prompt
    return text.partition(">>>")[0].strip() or prompt


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def shingles_of(text: str) -> Shingles:
    """Return the word triples of a text; all of it where it has fewer words."""
    words = words_of(text)
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
    text = "\n".join(_without_names(ast.Module(body, [])))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_LEFT_OUT = frozenset({"ctx", "annotation", "returns", "type_comment", "type_ignores", "kind"})
_NAME_FIELDS = frozenset({"id", "arg", "name", "names"})


def _without_names(tree: ast.Module) -> list[str]:
    """Return the parts of a tree in order, the names that it binds as numbers."""
    defined: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    own = dict.fromkeys(_NAME_FIELDS, bound | defined) | {"attr": defined}
    parts: list[str] = []
    numbers: dict[str, str] = {}

    def write(field: str, value: object) -> None:
        if isinstance(value, ast.AST):
            parts.append(type(value).__name__)
            for name, child in ast.iter_fields(value):
                if name not in _LEFT_OUT:
                    write(name, child)
        elif isinstance(value, list):
            items = [item for item in value if not _is_docstring(item)]
            parts.append(f"{field}[{len(items)}")
            for item in items:
                write(field, item)
        elif isinstance(value, str) and value in own.get(field, ()):
            parts.append(numbers.setdefault(value, f"_{len(numbers)}"))
        else:
            parts.append(repr(value))

    write("", tree)
    return parts


def _is_docstring(value: object) -> bool:
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)
