"""Readers of problem files: each public form becomes a record of our own schema (`schema`).

Takes a file (.jsonl, .json, .gz) or an APPS folder; gives its records one by one. The forms are our
own, APPS, APPS+, HumanEval (also HumanEval+), MBPP (also its sanitized form and MBPP+), EvalPlus'
own rows (`evalplus`), LiveCodeBench, verl's rows and open-r1's Codeforces. `layouts` reads tests
that are published in one layout with many sets.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from stepcoder.problems import evalplus
from stepcoder.problems.json_text import loads
from stepcoder.problems.layouts import HARNESS_PREAMBLE, read_layout
from stepcoder.problems.names import bound_names
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.source import parse, split_lines
from stepcoder.problems.tolerance import number_fields
from stepcoder.user_code import is_user_code, rows_of

ProblemRecord = dict[str, Any]
T = TypeVar("T")

_KIND_NAMES: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}

_APPS_FILES = ("question.txt", "starter_code.py", "solutions.json", "input_output.json")


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file or folder with its place in words ("line 17", "record 3").

    It is a dict, or a BrokenRecordError. Of FILE.py:NAME, a function of the user's own, it is
    whatever that yields.

    Raises OSError, EOFError, zlib.error or ValueError (not UTF-8, not JSON) if the file itself
    cannot be read, and RunError if the user's function fails.
    """
    if is_user_code(str(path)):
        yield from rows_of(str(path))
        return
    if path.is_dir():
        questions = sorted(path.rglob("question.txt"))
        if not questions:
            raise OSError("the folder holds no APPS problem (a folder with question.txt)")
        for question in questions:
            folder = question.parent
            yield f"folder {folder.relative_to(path)}", _apps_folder(folder)
        return
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    if text.lstrip().startswith("["):
        for n, record in enumerate(loads(text), start=1):
            if isinstance(record, dict) and "task_id" not in record:
                record["task_id"] = f"{path.name.split('.')[0]}/{n - 1}"
            yield f"record {n}", _object(record)
        return
    for n, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {n}", _object(loads(line))
            except ValueError as error:
                yield f"line {n}", BrokenRecordError(f"not JSON ({error})")


def form_of(record: ProblemRecord) -> str | None:
    """Return the name of a record's form, by the field that holds its tests.

    EvalPlus' rows also have HumanEval's field, which holds the base tests alone.
    """
    return next((form for form, names in _FIELDS if record.keys() & names), None)


def to_schema(record: ProblemRecord, form: str) -> ProblemRecord:
    """Return a record of the named form as one of our own schema. Raises BrokenRecordError."""
    return _READERS[form](record)


def field(record: ProblemRecord, name: str, kind: type[T], expected: str = "") -> T:
    """Return a required field of a record; raise BrokenRecordError if absent or of another type."""
    wanted = expected or _KIND_NAMES[kind]
    if record.get(name) is None:
        raise BrokenRecordError(f'field "{name}" is missing (expected {wanted})')
    value = record[name]
    if not isinstance(value, kind):
        raise BrokenRecordError(
            f'field "{name}" is {json.dumps(value, default=repr)[:40]} (expected {wanted})'
        )
    return value


def check_entry_point(entry_point: str | None, solution: str) -> None:
    """Raise BrokenRecordError unless the solution parses and defines what the tests call."""
    try:
        tree = parse(solution)
    except SyntaxError as error:
        raise BrokenRecordError(f"the canonical solution does not parse ({error})") from None
    if entry_point is None:
        return
    owner, _, method = entry_point.rpartition("().")
    name = owner or method
    definition = _definition(tree, name)
    if definition is None:
        raise BrokenRecordError(f'the canonical solution does not define "{name}"')
    if (
        owner
        and isinstance(definition, ast.ClassDef)
        and not definition.bases
        and method not in bound_names(*definition.body)
    ):
        raise BrokenRecordError(f'the canonical solution does not define "{name}.{method}"')


def _object(record: Any) -> ProblemRecord | BrokenRecordError:
    return record if isinstance(record, dict) else BrokenRecordError("not a JSON object")


def _apps_folder(folder: Path) -> ProblemRecord | BrokenRecordError:
    """Read one APPS folder into one record with a field for each of its files."""
    part = folder.resolve().parent.name
    record: ProblemRecord = {"task_id": f"apps/{part}/{folder.resolve().name}"}
    if part == "test":
        record["split"] = "eval"
    try:
        for name in _APPS_FILES:
            file = folder / name
            record[file.stem] = file.read_bytes().decode() if file.exists() else None
        metadata = folder / "metadata.json"
        record |= loads(metadata.read_bytes()) if metadata.exists() else {}
    except (OSError, ValueError) as error:
        return BrokenRecordError(f"cannot be read ({error})")
    return record


def _from_apps(record: ProblemRecord) -> ProblemRecord:
    """Return a record of APPS, whose `solutions` and `input_output` are JSON in text.

    The canonical solution is the first one that parses and defines what the tests call.
    """
    try:
        solutions = loads(field(record, "solutions", str))
        data = loads(field(record, "input_output", str))
    except BrokenRecordError:
        raise
    except ValueError as error:
        raise BrokenRecordError(f"solutions or input_output is not JSON ({error})") from None
    if not isinstance(solutions, list) or not solutions:
        raise BrokenRecordError('field "solutions" is empty (expected a list of programs)')
    if not isinstance(data, dict):
        raise BrokenRecordError('field "input_output" is no object (expected inputs and outputs)')
    for part in ("inputs", "outputs"):
        field(data, part, list)
    prompt = field(record, "question", str)
    tests, name, preamble = read_layout(data, prompt)
    starter = record.get("starter_code") or ""
    entry_point = _entry_point(name, starter)
    return {
        "task_id": str(record.get("task_id") or record.get("problem_id", "")),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": entry_point,
        "canonical_solution": _first_that_fits(solutions, entry_point),
        "tests": tests,
        "preamble": preamble,
        "source": "APPS",
        "difficulty": record.get("difficulty"),
        "split": record.get("split"),
    }


def _entry_point(name: str | None, starter: str) -> str | None:
    return name and ("Solution()." if "class Solution" in starter else "") + name


def _from_livecodebench(record: ProblemRecord) -> ProblemRecord:
    """Return a row of LiveCodeBench, which has no solution."""
    prompt = field(record, "question_content", str)
    starter = field(record, "starter_code", str) if record.get("starter_code") else ""
    tests, name, preamble = read_layout(record, prompt)
    return {
        "task_id": field(record, "question_id", str),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": _entry_point(name, starter),
        "canonical_solution": "",
        "tests": tests,
        "preamble": preamble,
        "source": "LiveCodeBench",
        "difficulty": record.get("difficulty"),
        "split": "eval",
    }


def _from_verl(record: ProblemRecord) -> ProblemRecord:
    """Return a row of verl's data sets: a chat as prompt, the tests as ground truth, no solution.

    A row without an index is named by what its prompt says.
    """
    truth = field(record, "reward_model", dict).get("ground_truth")
    info = field(record, "extra_info", dict) if record.get("extra_info") else {}
    chat = field(record, "prompt", list, "a list of messages")
    turns = [
        t for t in chat if isinstance(t, dict) and t.get("role") not in ("system", "assistant")
    ]
    prompt = "\n\n".join(str(turn.get("content")) for turn in turns)
    tests, name, preamble = read_layout(truth, prompt)
    starter, source = str(info.get("starter_code") or ""), str(record.get("data_source") or "verl")
    index, split = info.get("index"), str(info.get("split") or "")
    number = hashlib.sha256(prompt.encode()).hexdigest()[:12] if index is None else index
    return {
        "task_id": "/".join(filter(None, (source, split, str(number)))),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": info.get("entry_point") or _entry_point(name, starter or prompt),
        "canonical_solution": "",
        "tests": tests,
        "preamble": info.get("preamble") or preamble,
        "source": source,
        "split": {"test": "eval", "val": "validation"}.get(split, split),
    }


def _from_codeforces(record: ProblemRecord) -> ProblemRecord:
    """Return a row of open-r1/codeforces: its checker, its files in place of stdin, no solution.

    Interactive problems are refused: their tests are no expected outputs.
    """
    if record.get("interaction_format"):
        raise BrokenRecordError("an interactive problem, which needs an interactor")
    parts = ("description", "input_format", "output_format", "note")
    prompt = "\n\n".join(str(record[name]) for name in parts if record.get(name))
    tests = read_layout(field(record, "official_tests", list), prompt).tests
    if record.get("generated_checker"):
        source = field(record, "generated_checker", str)
        tests["checker"] = {"kind": "program", "source": source, "convention": "open-r1"}
    if record.get("input_mode") == "file":
        tests |= {"input_file": "input.txt", "output_file": "output.txt"}
    return {
        "task_id": f"codeforces/{field(record, 'id', str)}",
        "prompt": prompt,
        "canonical_solution": "",
        "tests": tests,
        "source": "open-r1/codeforces",
        "difficulty": record.get("rating"),
        "split": record.get("split"),
    }


def _first_that_fits(solutions: list[Any], entry_point: str | None) -> str:
    for solution in solutions:
        try:
            check_entry_point(entry_point, str(solution))
        except BrokenRecordError:
            continue
        return str(solution)
    return str(solutions[0])


def _from_apps_plus(record: ProblemRecord) -> ProblemRecord:
    """Return a record of APPS+, where the entry point is always a function.

    It takes the arguments of a test, or takes none and reads stdin.
    """
    starter = field(record, "starter_code", str)
    inputs, outputs = field(record, "inputs", list), field(record, "outputs", list)
    functions = re.findall(r"^\s*(?:async\s+)?def\s+(\w+)", starter, re.MULTILINE)
    owner = re.search(r"^\s*class\s+(\w+)", starter, re.MULTILINE)
    if not functions:
        raise BrokenRecordError('field "starter_code" defines no function')
    kind = "call" if any(isinstance(value, list) for value in inputs) else "stdin"
    if kind == "call":
        if not all(isinstance(value, list) and len(value) == 1 for value in outputs):
            raise BrokenRecordError('field "outputs" holds no list of one-element lists')
        inputs = [_unquoted(value) for value in inputs]
        outputs = [_unquoted(value[0]) for value in outputs]
    prompt = field(record, "prompt", str)
    return {
        "task_id": field(record, "task_id", str),
        "prompt": prompt,
        "starter_code": starter,
        "entry_point": f"{owner[1]}().{functions[-1]}" if owner else functions[-1],
        "canonical_solution": field(record, "canonical_solution", str),
        "tests": {"kind": kind, "inputs": inputs, "outputs": outputs}
        | number_fields(kind, outputs, prompt),
        "preamble": HARNESS_PREAMBLE,
        "source": "APPS+",
        "difficulty": record.get("difficulty"),
        "split": record.get("split"),
    }


def _unquoted(value: Any) -> Any:
    """Return plain data with the quotes inside its strings removed: '"ab"' becomes 'ab'."""
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {_unquoted(key): _unquoted(item) for key, item in value.items()}
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value[1:-1]
        return literal if isinstance(literal, str) else value
    return value


def _from_humaneval(record: ProblemRecord) -> ProblemRecord:
    prompt = field(record, "prompt", str)
    entry_point = field(record, "entry_point", str)
    code = f"{field(record, 'test', str).rstrip()}\n\ncheck({entry_point})\n"
    return {
        "task_id": field(record, "task_id", str),
        "prompt": prompt,
        "starter_code": prompt,
        "entry_point": entry_point,
        "canonical_solution": prompt + field(record, "canonical_solution", str),
        "tests": {"kind": "assert", "code": code},
        "source": "HumanEval",
        "split": "eval",
    }


def _from_mbpp(record: ProblemRecord) -> ProblemRecord:
    """Return a record of MBPP, its sanitized form or MBPP+, with the splits of MBPP's paper."""
    number = record.get("task_id")
    if not isinstance(number, int):
        raise BrokenRecordError('field "task_id" is missing (expected a number)')
    asserts = field(record, "test_list", list)
    solution = field(record, "code", str)
    setup = record.get("test_setup_code") or "\n".join(map(str, record.get("test_imports") or []))
    code = "\n".join([setup, *map(str, asserts)]).strip() + "\n"
    name = _tested_name(solution, code)
    plus = "test" in record
    return {
        "task_id": f"{'MBPPPlus' if plus else 'MBPP'}/{number}",
        "prompt": field(record, "prompt" if "prompt" in record else "text", str),
        "starter_code": _header(solution, name),
        "entry_point": name,
        "canonical_solution": solution,
        "tests": {"kind": "assert", "code": field(record, "test", str) if plus else code},
        "source": "MBPP+" if plus else "MBPP",
        "difficulty": "introductory",
        "split": evalplus.mbpp_split(number, plus=plus),
    }


def _tested_name(solution: str, code: str) -> str:
    """Return the first name that the tests call and the solution defines."""
    try:
        tree, tests = parse(solution), parse(code)
    except SyntaxError as error:
        raise BrokenRecordError(f"the solution or its tests do not parse ({error})") from None
    defined = bound_names(*tree.body)
    calls = [node.func for node in ast.walk(tests) if isinstance(node, ast.Call)]
    called = [node.id for node in calls if isinstance(node, ast.Name) and node.id in defined]
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = [name for name in called if name in functions] or called
    if not names:
        raise BrokenRecordError("the tests call nothing that the solution defines")
    return names[0]


def _header(solution: str, name: str) -> str:
    """Return the `def` line of a function as the solution writes it; "" for anything else."""
    definition = _definition(parse(solution), name)
    if not isinstance(definition, ast.FunctionDef):
        return ""
    lines = split_lines(solution)[definition.lineno - 1 : definition.body[0].lineno - 1]
    return "\n".join(lines).rstrip() + "\n" if lines else ""


def _definition(tree: ast.Module, name: str) -> ast.stmt | None:
    return next((node for node in tree.body if name in bound_names(node)), None)


_READERS: dict[str, Callable[[ProblemRecord], ProblemRecord]] = {
    "stepcoder": lambda record: record,
    "APPS": _from_apps,
    "APPS+": _from_apps_plus,
    "HumanEval": _from_humaneval,
    "MBPP": _from_mbpp,
    "EvalPlus": evalplus.from_evalplus,
    "LiveCodeBench": _from_livecodebench,
    "verl": _from_verl,
    "Codeforces": _from_codeforces,
}
FORMS = tuple(_READERS)
# The fields that tell a form, the first that holds deciding.
_FIELDS: tuple[tuple[str, set[str]], ...] = (
    ("stepcoder", {"tests"}),
    ("EvalPlus", {"base_input", "plus_input"}),
    ("verl", {"reward_model"}),
    ("LiveCodeBench", {"public_test_cases", "private_test_cases"}),
    ("Codeforces", {"official_tests"}),
    ("APPS", {"input_output"}),
    ("APPS+", {"inputs", "outputs"}),
    ("MBPP", {"test_list"}),
    ("HumanEval", {"test"}),
)
