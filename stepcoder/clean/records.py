"""Raw records as candidates: read, checked, and written in the one usual way.

Takes a file or folder in any form of `problems.formats`, gives a Candidate, or why there is none,
for every record. A candidate may have no solution. Nothing runs here.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepcoder.clean.imports import add_imports, missing_imports
from stepcoder.clean.reasons import Dropped, Normalization, Reason, Repair
from stepcoder.problems.fields import ProblemRecord, check_entry_point
from stepcoder.problems.files import Row, read_rows
from stepcoder.problems.formats import FORMS, form_of, renamed, to_schema
from stepcoder.problems.json_text import loads
from stepcoder.problems.problem import Problem, problem_of
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.source import parse

# Fields whose emptiness is a reason of its own; readers name what else is wrong.
REQUIRED = {
    "stepcoder": ("prompt", "tests"),
    "APPS": ("question", "input_output"),
    "APPS+": ("prompt", "inputs", "outputs", "starter_code"),
    "HumanEval": ("task_id", "prompt", "test", "entry_point"),
    "MBPP": ("task_id", "code", "test_list"),
    "EvalPlus": ("task_id", "prompt", "canonical_solution", "base_input", "entry_point"),
}
_TEXTS = ("prompt", "starter_code", "canonical_solution", "preamble")
_EMPTY: tuple[object, ...] = (None, "", [], {}, "[]", "{}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record of our own schema that may become a problem.

    `record` keeps fields that only others know. `alternatives` are other solutions of the same
    problem. `repairs` and `normalized` say what was changed so far.
    """

    number: int
    record: ProblemRecord
    alternatives: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    normalized: tuple[str, ...] = ()
    problem: Problem = field(init=False)

    def __post_init__(self) -> None:
        """Make the problem. Raises BrokenRecordError for tests that are none."""
        object.__setattr__(self, "problem", problem_of(self.record))

    @property
    def task_id(self) -> str:
        """The problem's name."""
        return str(self.record["task_id"])

    @property
    def has_solution(self) -> bool:
        """Whether there is a solution to verify the tests with."""
        return bool(self.problem.canonical_solution)

    def repaired(self, repair: Repair, **changes: Any) -> Candidate:
        """Return the candidate with fields of its record changed."""
        repairs = (*self.repairs, repair) if repair not in self.repairs else self.repairs
        return replace(self, record={**self.record, **changes}, repairs=repairs)

    def dropped(self, reason: Reason, detail: str) -> Dropped:
        """Return what stands in the candidate's place when it is left out."""
        return Dropped(self.number, self.task_id, reason, detail)


def read_candidates(
    path: Path, columns: Mapping[str, str] | None = None
) -> Iterator[Candidate | Dropped]:
    """Yield what each record of a file or folder gives, in order, its columns renamed.

    Raises OSError, EOFError, zlib.error or ValueError if the file itself cannot be read.
    """
    form: str | None = None
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path)):
        where, record, _ = row
        if isinstance(record, dict):
            record = renamed(record, columns or {})
            try:
                form = form_of(record) or form
            except BrokenRecordError as error:
                record = error
        found = candidate_of(number, row._replace(record=record), form)
        if isinstance(found, Candidate):
            if found.task_id in seen:
                detail = f"{where}: an earlier record has the same task_id"
                found = found.dropped(Reason.REPEATED_ID, detail)
            seen.add(found.task_id)
        yield found


def candidate_of(number: int, row: Row, form: str | None) -> Candidate | Dropped:
    """Return the candidate that a record gives, or why it gives none."""
    where, record, part = row
    if not isinstance(record, dict):
        what = record if isinstance(record, BrokenRecordError) else "cleaning takes rows (dicts)"
        return Dropped(number, where, Reason.MALFORMED, f"{where}: {what}")
    name = str(record.get("task_id") or record.get("problem_id") or where)

    def dropped(reason: Reason, detail: str) -> Dropped:
        return Dropped(number, name, reason, f"{where}: {detail}")

    if form is None:
        return dropped(Reason.MISSING_FIELD, f"no field of a known form ({', '.join(FORMS)})")
    missing = [key for key in REQUIRED.get(form, ()) if record.get(key) in _EMPTY]
    if missing:
        return dropped(Reason.MISSING_FIELD, f'field "{missing[0]}" is missing or empty')
    try:
        made = Candidate(number, to_schema(record, form, part), _alternatives(record))
    except BrokenRecordError as error:
        reason = Reason.DOES_NOT_PARSE if "not parse" in str(error) else Reason.MALFORMED
        return dropped(reason, str(error))
    try:
        return _checked(_normalized(made))
    except SyntaxError as error:
        return dropped(Reason.DOES_NOT_PARSE, f"the canonical solution does not parse ({error})")
    except BrokenRecordError as error:
        return dropped(Reason.NO_ENTRY_POINT, str(error))


def _alternatives(record: ProblemRecord) -> tuple[str, ...]:
    """Return the solutions of a record that holds several."""
    found = record.get("all_solutions") or record.get("solutions") or []
    if isinstance(found, str):
        found = loads(found)
    return tuple(str(item) for item in found) if isinstance(found, list) else ()


def _checked(candidate: Candidate) -> Candidate:
    """Repair what can be seen without running anything.

    Raises SyntaxError if the solution does not parse, BrokenRecordError if it lacks what the tests
    call.
    """
    if not candidate.problem.canonical_solution:
        return candidate
    candidate, tree = _parsed(candidate)
    problem = candidate.problem
    if problem.entry_point is None and candidate.record["tests"]["kind"] == "call":
        candidate = candidate.repaired(Repair.ENTRY_POINT, entry_point=_only_function(tree))
    elif problem.entry_point and not _defines(problem.canonical_solution, problem.entry_point):
        check_entry_point(problem.entry_point, problem.canonical_solution)
    statements = missing_imports(problem.canonical_solution, tree, problem.preamble)
    if statements:
        candidate = candidate.repaired(Repair.IMPORT, **add_imports(problem, statements))
    return candidate


def _defines(solution: str, entry_point: str) -> bool:
    """Return whether plain `def` and `class` lines show that a solution has what the tests call."""
    owner, _, method = entry_point.rpartition("().")
    if owner:
        inside = rf"^class {re.escape(owner)}\b.*^[ \t]+def {re.escape(method)}\("
        return bool(re.search(inside, solution, re.MULTILINE | re.DOTALL))
    return bool(re.search(rf"^def {re.escape(method)}\(", solution, re.MULTILINE))


def _parsed(candidate: Candidate) -> tuple[Candidate, ast.Module]:
    """Return the candidate and its solution's tree, with the layout mended where that helps."""
    solution = candidate.problem.canonical_solution
    errors: list[SyntaxError] = []
    for text in _layouts(solution):
        try:
            tree = parse(text)
        except SyntaxError as error:
            errors.append(error)
        else:
            if errors:  # the solution as it is was tried first
                candidate = candidate.repaired(Repair.LAYOUT, canonical_solution=text)
            return candidate, tree
    raise errors[0]


def _layouts(source: str) -> Iterator[str]:
    """Yield the source as it is, then without what surrounds or indents it."""
    yield source
    bare = source.lstrip("\ufeff").replace("\0", "").replace("\xa0", " ")
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)```\s*", bare, re.DOTALL)
    bare = fenced[1] if fenced else bare
    for text in (bare, bare.expandtabs(4), bare.expandtabs(8)):
        yield text
        yield textwrap.dedent(text)


def _only_function(tree: ast.Module) -> str:
    """Return the name of the one function of a program; BrokenRecordError if there are others."""
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(names) != 1:
        raise BrokenRecordError(
            f'field "entry_point" is missing, and the solution defines {len(names)} functions'
        )
    return names[0]


def _normalized(candidate: Candidate) -> Candidate:
    """Make line ends LF, end stdin with one, cut spaces off stdout, leave out repeated tests."""
    record, tests = dict(candidate.record), dict(candidate.record["tests"])
    done: list[Normalization] = []
    texts = [(record, key) for key in _TEXTS]
    if "code" in tests:
        texts.append((tests, "code"))
    for owner, key in texts:
        if "\r" in (owner.get(key) or ""):
            owner[key] = _line_ends(owner[key])
            done.append(Normalization.LINE_ENDS)
    if tests["kind"] in ("call", "stdin"):
        pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
        if tests["kind"] == "stdin":
            unix = [(_line_ends(given), _line_ends(expected)) for given, expected in pairs]
            trimmed = [(_stdin_text(given), _stdout_text(expected)) for given, expected in unix]
            if unix != pairs:
                done.append(Normalization.LINE_ENDS)
            if trimmed != unix:
                done.append(Normalization.SPACE)
            pairs = trimmed
        distinct = list({repr(pair): pair for pair in pairs}.values())
        if len(distinct) < len(pairs):
            done.append(Normalization.REPEATED_TESTS)
        tests["inputs"], tests["outputs"] = map(list, zip(*distinct, strict=True))
    if not done:
        return candidate
    record["tests"] = tests
    return replace(candidate, record=record, normalized=tuple(dict.fromkeys(done)))


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _stdin_text(text: str) -> str:
    """Spaces inside may be part of the input; what is missing at its end is only a line end."""
    return text if not text or text.endswith("\n") else text + "\n"


def _stdout_text(text: str) -> str:
    lines = [line.rstrip() for line in text.split("\n")]
    text = "\n".join(lines).rstrip("\n")
    return text + "\n" if text else ""
