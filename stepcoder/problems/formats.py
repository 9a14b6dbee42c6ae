"""Recognises the published forms of problem records, and makes each one of our own schema.

A form is told by the columns that its set publishes. A record whose columns are those of two forms
is refused: nothing is guessed. The readers stand by family: `apps`, `contests`, `functions`,
`evalplus` and `rl_rows`; `layouts` reads tests that many sets publish in one layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from stepcoder.problems.apps import from_apps, from_apps_plus
from stepcoder.problems.contests import (
    from_code_contests,
    from_code_contests_plus,
    from_codeforces,
    from_livecodebench,
)
from stepcoder.problems.evalplus import from_evalplus
from stepcoder.problems.fields import ProblemRecord
from stepcoder.problems.functions import (
    from_acecode,
    from_bigcodebench,
    from_humaneval,
    from_kodcode,
    from_leetcode_dataset,
    from_mbpp,
)
from stepcoder.problems.rl_rows import from_deepcoder, from_primeintellect, from_rows, from_verl
from stepcoder.problems.schema import BrokenRecordError

_READERS: dict[str, Callable[[ProblemRecord], ProblemRecord]] = {
    "stepcoder": from_rows,
    "APPS": from_apps,
    "APPS+": from_apps_plus,
    "HumanEval": from_humaneval,
    "MBPP": from_mbpp,
    "EvalPlus": from_evalplus,
    "BigCodeBench": from_bigcodebench,
    "LeetCodeDataset": from_leetcode_dataset,
    "KodCode": from_kodcode,
    "AceCode": from_acecode,
    "LiveCodeBench": from_livecodebench,
    "Codeforces": from_codeforces,
    "CodeContests": from_code_contests,
    "CodeContests+": from_code_contests_plus,
    "PrimeIntellect": from_primeintellect,
    "DeepCoder": from_deepcoder,
    "verl": from_verl,
}
FORMS = tuple(_READERS)
# The columns that tell a form. Where those of one entry are a part of another's, the larger wins.
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("stepcoder", "tests"),
    ("APPS", "input_output"),
    ("APPS+", "inputs outputs"),
    ("HumanEval", "test"),
    ("MBPP", "test_list"),
    ("MBPP", "test_list test"),
    ("EvalPlus", "base_input"),
    ("EvalPlus", "plus_input"),
    ("EvalPlus", "base_input test"),
    ("EvalPlus", "plus_input test"),
    ("BigCodeBench", "complete_prompt test"),
    ("LeetCodeDataset", "query test"),
    ("LeetCodeDataset", "problem_description test"),
    ("LeetCodeDataset", "query test input_output"),
    ("LeetCodeDataset", "problem_description test input_output"),
    ("KodCode", "question test"),
    ("KodCode", "question test_code"),
    ("AceCode", "question test_cases"),
    ("LiveCodeBench", "public_test_cases"),
    ("LiveCodeBench", "private_test_cases"),
    ("Codeforces", "official_tests"),
    ("CodeContests", "public_tests private_tests"),
    ("CodeContests+", "correct_submissions"),
    ("PrimeIntellect", "verification_info"),
    ("DeepCoder", "problem tests"),
    ("verl", "reward_model"),
)
_MARKS = tuple((form, frozenset(columns.split())) for form, columns in _COLUMNS)


def form_of(record: ProblemRecord) -> str | None:
    """Return the name of a record's form; None where no column tells it.

    Columns without a value, as tables of several sets have them, tell nothing where others do. A
    record whose tests have a kind is our own, whatever else it holds.

    Raises:
        BrokenRecordError: the columns are those of two forms.
    """
    tests = record.get("tests")
    if isinstance(tests, dict) and "kind" in tests:
        return "stepcoder"
    filled = {name for name, value in record.items() if value is not None}
    found = [(f, m) for f, m in _MARKS if m <= filled] or [
        (f, m) for f, m in _MARKS if m <= record.keys()
    ]
    largest = [(f, m) for f, m in found if not any(m < other for _, other in found)]
    forms = {form: sorted(marks) for form, marks in largest}
    if len(forms) > 1:
        said = " and ".join(f"{form} ({', '.join(marks)})" for form, marks in forms.items())
        raise BrokenRecordError(f"the columns are those of {said}; leave out those of one")
    return next(iter(forms), None)


def to_schema(record: ProblemRecord, form: str, part: str = "") -> ProblemRecord:
    """Return a record of the named form as one of our own schema. Raises BrokenRecordError.

    `part` is the split that the file's name gives (train, validation, eval). The record's own
    `split` comes before what the form knows of its set, and that before the file's. A record
    without an id is named by what its statement says; a bare number, which other files may have
    too, gets the names of its set and part.
    """
    found = _READERS[form](record)
    if split := record.get("split") or found.get("split") or part:
        found["split"] = split
    name, source = found.get("task_id"), found.get("source") or form
    if type(name) is int:
        found["task_id"] = name = str(name)
    if name in (None, "") and isinstance(found.get("prompt"), str):
        digest = hashlib.sha256(found["prompt"].encode("utf-8", "surrogatepass")).hexdigest()
        found["task_id"] = f"{source}/{digest[:12]}"
    elif part and isinstance(name, str) and name.isdecimal():
        found["task_id"] = f"{source}/{part}/{name}"
    return found


def renamed(record: ProblemRecord, columns: Mapping[str, str]) -> ProblemRecord:
    """Return a record with columns renamed: `columns` has their names by those that we read."""
    others = {name: value for name, value in record.items() if name not in columns.values()}
    return others | {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
