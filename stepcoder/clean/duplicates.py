"""Problems that are there twice, or that are in a set which must stay unseen.

Takes candidates, references and verified problems, gives what is to be dropped. Statements that
have nearly all words in common count as the same if each solution also solves the other's tests:
"the surface of a cube" and "the surface of a sphere" differ in one word.

Similarity is the Jaccard index of the sets of word triples, computed exactly: an inverted index of
each set's rarest triples finds every pair that can reach the threshold (prefix filtering: Chaudhuri
et al. 2006, Bayardo et al. 2007).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from math import ceil
from typing import NamedTuple

from stepcoder.clean.extend import calls_of
from stepcoder.clean.judges import Judges
from stepcoder.clean.reasons import Dropped, Reason
from stepcoder.clean.records import Candidate
from stepcoder.clean.verify import Verified, submission_of
from stepcoder.problems.problem import Problem
from stepcoder.problems.source import parse
from stepcoder.sandbox import CallTests, StdinTests

WORDS = 3  # a shingle
SAME_PROGRAM = 0.5  # how similar statements must be for one and the same program to be a duplicate
COMPARED = 8  # of the earlier problems with a similar statement, the most similar ones
_WORD = re.compile(r"\w+")
_DOCSTRING = re.compile(r'def\s+\w+\(.*?:\s*[rR]?("""|\'\'\')(.*?)(?:\1|\Z)', re.DOTALL)
# What the key of a program leaves out, and where it holds names.
_LEFT_OUT = frozenset({"ctx", "annotation", "returns", "type_comment", "type_ignores", "kind"})
_NAME_FIELDS = frozenset({"id", "arg", "name", "names"})


class Pair(NamedTuple):
    """Two texts by their numbers, the earlier one first, and how similar they are."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Match:
    """Two problems that may be the same, the earlier one first, and what they have in common."""

    first: Verified
    second: Verified
    similarity: float
    reason: Reason
    detail: str

    @property
    def numbers(self) -> tuple[int, int]:
        """The places of both in the input."""
        return self.first.number, self.second.number

    @property
    def task_id(self) -> str:
        """The name of the problem that may be dropped."""
        return self.second.task_id


def similar_statements(
    candidates: Sequence[Candidate], references: Sequence[Problem], threshold: float
) -> list[Pair]:
    """Return the pairs of similar statements.

    Candidates go by their numbers in the input, references by negative ones: -1 is the last.
    """
    problems = [*references, *(candidate.problem for candidate in candidates)]
    numbers = [*range(-len(references), 0), *(candidate.number for candidate in candidates)]
    shingles = [shingles_of(statement_of(problem.prompt)) for problem in problems]
    pairs = similar_pairs(shingles, threshold)
    return [Pair(numbers[first], numbers[second], similar) for first, second, similar in pairs]


def overlaps(
    candidates: Sequence[Candidate], references: Sequence[Problem], pairs: Iterable[Pair]
) -> Iterator[Dropped]:
    """Yield the candidates whose solution or statement is that of a reference problem.

    `pairs` are those of `similar_statements` of the same arguments.
    """
    if not references:
        return
    solutions = {p.task_id: p.canonical_solution for p in references if p.canonical_solution}
    keys = {program_key(solution): task_id for task_id, solution in solutions.items()}
    first_pairs: dict[int, Pair] = {}
    for pair in pairs:
        if pair.first < 0 <= pair.second:
            first_pairs.setdefault(pair.second, pair)
    for candidate in candidates:
        key = candidate.has_solution and program_key(candidate.problem.canonical_solution)
        if key in keys:
            detail = f"its solution is that of {keys[key]}, names aside"
            yield candidate.dropped(Reason.OVERLAP, detail)
        elif candidate.number in first_pairs:
            first, _, similarity = first_pairs[candidate.number]
            detail = f"its statement is {similarity:.0%} that of {references[first].task_id}"
            yield candidate.dropped(Reason.OVERLAP, detail)


def matches(verified: Sequence[Verified], pairs: Iterable[Pair]) -> list[Match]:
    """Return what may be duplicates: similar statements, or one solution and statements near it.

    `pairs` hold the numbers of the problems; those of others are left out. Matches come in the
    order of the later problem; each has at most COMPARED, the most similar ones first.
    """
    of_number = {problem.number: problem for problem in verified}
    found = [
        _statement_match(of_number[first], of_number[second], similarity)
        for first, second, similarity in pairs
        if first in of_number and second in of_number
    ]
    found += _program_matches(verified)
    found.sort(key=lambda match: (match.second.number, -match.similarity, match.first.number))
    groups = groupby(found, key=lambda match: match.second.number)
    return [match for _, group in groups for match in islice(group, COMPARED)]


def same_statements(candidates: Iterable[Candidate]) -> Iterator[Dropped]:
    """Yield the candidates without a solution whose statement is that of an earlier candidate."""
    first: dict[str, str] = {}
    for candidate in candidates:
        words = " ".join(words_of(candidate.problem.prompt))
        earlier = first.setdefault(words, candidate.task_id)
        if words and earlier != candidate.task_id and not candidate.has_solution:
            yield candidate.dropped(Reason.DUPLICATE, f"the same statement as {earlier}")


def _statement_match(first: Verified, second: Verified, similarity: float) -> Match:
    words, others = (words_of(statement_of(one.problem.prompt)) for one in (first, second))
    if words == others:
        return Match(first, second, similarity, Reason.DUPLICATE, "the same statement")
    detail = f"{similarity:.0%} of its words"
    return Match(first, second, similarity, Reason.NEAR_DUPLICATE, detail)


def _program_matches(verified: Iterable[Verified]) -> Iterator[Match]:
    """Yield the problems with one solution and statements that have much in common."""
    of_key: dict[str, list[Verified]] = {}
    for second in verified:
        earlier = of_key.setdefault(program_key(second.problem.canonical_solution), [])
        for first in earlier:
            statements = [statement_of(one.problem.prompt) for one in (first, second)]
            similarity = jaccard(*map(shingles_of, statements))
            if similarity >= SAME_PROGRAM:
                detail = f"the same solution, and {similarity:.0%} of its words"
                yield Match(first, second, similarity, Reason.NEAR_DUPLICATE, detail)
        earlier.append(second)


def is_same_problem(match: Match, judges: Judges) -> bool:
    """Return whether each of two solutions passes the other's tests, as far as those are calls.

    Raises:
        JudgeFailedError: the sandbox failed.
    """
    one, other = match.first.problem, match.second.problem
    for solver, asked in ((one, other), (other, one)):
        tests = _tests_for(solver, asked)
        if tests is not None and not judges.run(submission_of(solver, tests)).passed:
            return False
    return True


def _tests_for(solver: Problem, asked: Problem) -> CallTests | StdinTests | None:
    """Return the tests of one problem as far as another's solution can be asked them."""
    if isinstance(asked.tests, StdinTests):
        return asked.tests if isinstance(solver.tests, StdinTests) else None
    calls = calls_of(asked)
    if not calls or solver.entry_point is None or isinstance(solver.tests, StdinTests):
        return None
    inputs, outputs = zip(*calls, strict=True)
    return CallTests(inputs, outputs)


def duplicates(same: Iterable[Match]) -> Iterator[Dropped]:
    """Yield the later problem of each match of which both are still there, in the order given."""
    gone: set[int] = set()
    for match in same:
        if gone.isdisjoint(match.numbers):
            gone.add(match.second.number)
            detail = f"{match.detail} as {match.first.task_id}"
            yield match.second.candidate.dropped(match.reason, detail)


def statement_of(prompt: str) -> str:
    """Return the words of a prompt: of one that is code, its docstrings up to their examples."""
    found = [match[1] for match in _DOCSTRING.findall(prompt)]
    text = "\n".join(found) if found else prompt
    return text.partition(">>>")[0].strip() or prompt


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def shingles_of(text: str) -> frozenset[str]:
    """Return the word triples of a text; all of it where it has fewer words."""
    words = words_of(text)
    count = max(len(words) - WORDS + 1, 1)
    return frozenset(" ".join(words[i : i + WORDS]) for i in range(count))


def similar_pairs(sets: Sequence[frozenset[str]], threshold: float) -> Iterator[Pair]:
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
        """Append a value of a node's field to the parts."""
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
