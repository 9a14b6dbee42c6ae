"""Sets of single functions with test code, as records of our own schema.

HumanEval (arXiv 2107.03374), MBPP (arXiv 2108.07732), BigCodeBench (arXiv 2406.15877),
LeetCodeDataset (arXiv 2504.14655), KodCode (arXiv 2503.02951) and AceCode (arXiv 2502.01718).
"""

from __future__ import annotations

import ast
import re
from typing import Any

from stepcoder.problems import evalplus
from stepcoder.problems.fields import ProblemRecord, definition, field
from stepcoder.problems.names import bound_names
from stepcoder.problems.schema import BrokenRecordError
from stepcoder.problems.source import parse, split_lines

# What KodCode's tests use of pytest; they run without it.
_PYTEST = '''
class pytest:
    """The parts of pytest that single test functions use."""

    class approx:
        def __init__(self, expected, rel=1e-6, abs=1e-12):
            self.expected, self.rel, self.abs = expected, rel, abs

        def __eq__(self, got):
            expected = self.expected
            if isinstance(expected, (list, tuple)):
                near = [pytest.approx(item, self.rel, self.abs) for item in expected]
                return len(got) == len(near) and all(n == g for g, n in zip(got, near))
            if isinstance(expected, dict):
                near = {k: pytest.approx(v, self.rel, self.abs) for k, v in expected.items()}
                return got.keys() == near.keys() and all(near[k] == got[k] for k in near)
            if expected == got:
                return True
            margin = max(self.rel * (expected if expected > 0 else -expected), self.abs)
            return -margin <= got - expected <= margin

    class raises:
        def __init__(self, *expected, match=None):
            self.expected, self.match = expected, match

        def __enter__(self):
            return self

        def __exit__(self, kind, error, traceback):
            import re
            assert kind is not None, f"did not raise {self.expected}"
            self.value = error
            one = self.expected if not isinstance(self.expected[0], tuple) else self.expected[0]
            if not issubclass(kind, one):
                return False
            assert self.match is None or re.search(self.match, str(error)), str(error)
            return True
'''


def from_humaneval(record: ProblemRecord) -> ProblemRecord:
    """Return a record of HumanEval, whose prompt is the beginning of the program."""
    prompt = field(record, "prompt", str)
    entry_point = field(record, "entry_point", str)
    solution = record.get("canonical_solution")
    code = f"{field(record, 'test', str).rstrip()}\n\ncheck({entry_point})\n"
    return {
        "task_id": field(record, "task_id", str),
        "prompt": prompt,
        "starter_code": prompt,
        "entry_point": entry_point,
        "canonical_solution": prompt + field(record, "canonical_solution", str) if solution else "",
        "tests": {"kind": "assert", "code": code},
        "source": "HumanEval",
        "split": "eval",
    }


def from_mbpp(record: ProblemRecord) -> ProblemRecord:
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


def from_bigcodebench(record: ProblemRecord) -> ProblemRecord:
    """Return a row of BigCodeBench: unittest tests; programs import what `libs` names."""
    prompt = field(record, "complete_prompt", str)
    body = record.get("canonical_solution")
    start = field(record, "code_prompt", str) if record.get("code_prompt") else prompt
    return {
        "task_id": field(record, "task_id", str),
        "prompt": prompt,
        "starter_code": prompt,
        "entry_point": field(record, "entry_point", str),
        "canonical_solution": start + field(record, "canonical_solution", str) if body else "",
        "tests": {"kind": "unittest", "code": field(record, "test", str)},
        "source": "BigCodeBench",
        "split": "eval",
    }


def from_leetcode_dataset(record: ProblemRecord) -> ProblemRecord:
    """Return a row of LeetCodeDataset: its prompt holds imports and node classes for all programs.

    The test code is given them too.
    """
    preamble = field(record, "prompt", str)
    entry_point = field(record, "entry_point", str)
    known = {**field(record, "meta", dict), **record} if record.get("meta") else record
    starter = str(known.get("starter_code") or known.get("lang_code") or "")
    code = f"{preamble.rstrip()}\n\n{field(record, 'test', str).rstrip()}\n\ncheck({entry_point})\n"
    return {
        "task_id": f"leetcode/{field(record, 'task_id', str)}",
        "prompt": str(known.get("problem_description") or known.get("query")),
        "starter_code": starter,
        "entry_point": entry_point,
        "canonical_solution": record.get("completion") or "",
        "tests": {"kind": "assert", "code": code},
        "preamble": preamble,
        "source": "LeetCodeDataset",
        "difficulty": str(known.get("difficulty") or "unknown").lower(),
    }


def from_kodcode(record: ProblemRecord) -> ProblemRecord:
    """Return a row of KodCode: each of its pytest functions is a test.

    They import the program as `solution`; of pytest they may use `raises` and `approx`.

    Raises:
        BrokenRecordError: the tests need more of pytest, or call nothing of the solution.
    """
    code = field(record, "test" if record.get("test") else "test_code", str)
    try:
        body = parse(code).body
    except SyntaxError as error:
        raise BrokenRecordError(f"the tests do not parse ({error})") from None
    imports = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "solution"]
    aliases = [name for node in imports for name in node.names]
    functions = [n for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    for node in functions:
        if node.args.args or node.decorator_list:
            raise BrokenRecordError(f'"{node.name}" needs pytest (parameters or decorators)')
    used = set(re.findall(r"\bpytest\.(\w+)", code))
    if more := used - {"raises", "approx", "main"}:
        raise BrokenRecordError(f"the tests use pytest.{min(more)} (known: raises, approx)")
    if not functions or not aliases:
        raise BrokenRecordError("the tests are no functions that import the solution")
    left_out = {id(node) for node in imports}
    kept = [ast.unparse(n) for n in body if id(n) not in left_out and not _is_harness(n)]
    renamed = [f"{a.asname} = {a.name}" for a in aliases if a.asname]
    info = record.get("test_info") or [{}]
    info = info[0] if isinstance(info, list) else info
    starter = str(info.get("function_declaration") or "") if isinstance(info, dict) else ""
    return {
        "task_id": str(record.get("question_id") or ""),
        "prompt": field(record, "question", str),
        "starter_code": starter + "\n" if starter else "",
        "entry_point": aliases[0].name if aliases[0].name != "*" else None,
        "canonical_solution": record.get("solution") or "",
        "tests": {
            "kind": "assert",
            "setup": "\n".join([_PYTEST if "pytest" in code else "", *renamed, *kept]),
            "asserts": [f"{node.name}()" for node in functions],
        },
        "source": "KodCode",
        "difficulty": record.get("gpt_difficulty"),
    }


def _is_harness(node: ast.stmt) -> bool:
    """Return whether a statement imports pytest, or runs it where the file is the main program."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return "pytest" in names or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))


def from_acecode(record: ProblemRecord) -> ProblemRecord:
    """Return a row of AceCode: asserts, no solution."""
    asserts = field(record, "test_cases", list)
    return {
        "task_id": str(record.get("id") or ""),
        "prompt": field(record, "question", str),
        "tests": {"kind": "assert", "code": "\n".join(map(str, asserts)) + "\n"},
        "entry_point": _asserted_name(asserts),
        "source": "AceCode",
    }


def _asserted_name(asserts: list[Any]) -> str | None:
    """Return the function that all asserts call first; None where they do not agree."""
    names = {re.sub(r"\W.*", "", str(text).removeprefix("assert").strip()) for text in asserts}
    name = names.pop() if len(names) == 1 else ""
    return name if name.isidentifier() else None


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
    found = definition(parse(solution), name)
    if not isinstance(found, ast.FunctionDef):
        return ""
    lines = split_lines(solution)[found.lineno - 1 : found.body[0].lineno - 1]
    return "\n".join(lines).rstrip() + "\n" if lines else ""
