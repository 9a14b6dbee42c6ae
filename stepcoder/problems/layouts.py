"""Tests in the layouts that data sets and other trainers publish, each to a record of our own.

- `{"kind": ...}`: our own problems.jsonl
- `{"inputs": [...], "outputs": [...], "fn_name": ...}`: APPS, TACO, PRIME/Eurus, DeepCoder (taco)
- `[{"input", "output", "type" or "testtype", "fn_name" or "metadata": {"func_name"}}, ...]`:
  PrimeIntellect, DeepCoder (primeintellect, lcbv5, codeforces), LiveCodeBench
- `{"public_test_cases": ..., "private_test_cases": ...}`: LiveCodeBench's own rows
- `["assert f(1) == 2", ...]`, also as `"assert_case"`: AceCode, MBPP, verl's sandbox_fusion

Any of them may be a text: JSON, a Python literal (PrimeIntellect), or base64 of a compressed pickle
(LiveCodeBench's private tests), which is read without unpickling anything.
"""

from __future__ import annotations

import ast
import base64
import pickletools
import re
import reprlib
import zlib
from contextlib import suppress
from typing import Any, NamedTuple

from stepcoder.problems.json_text import loads
from stepcoder.problems.schema import TESTS_SCHEMA, BrokenRecordError
from stepcoder.problems.tolerance import number_fields


class Layout(NamedTuple):
    """Tests as a record of our own, and what stands with them in sets that say it elsewhere."""

    tests: dict[str, Any]
    called: str | None = None  # the name of the function that call tests call
    preamble: str = ""  # what the set's own harness runs before a program


# The imports that programs of these sets may rely on, as the sets' own harnesses provide them.
HARNESS_PREAMBLE = """\
import bisect, collections, functools, heapq, itertools, math, random, re, string, sys
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cache, cmp_to_key, lru_cache, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, nlargest, nsmallest
from itertools import accumulate, chain, combinations, groupby, permutations, product
from math import ceil, floor, gcd, inf, sqrt
from typing import *
"""

_FUNCTIONAL = ("functional", "function_call")  # the names of a call in `testtype` and `type`
_MOST_UNPACKED = 1 << 29  # bytes; LiveCodeBench's largest private tests have about 2^27
_LONGEST_LITERAL = 1 << 24  # characters; the parser of Python takes 100 times as much memory
# What a pickle of one text is made of.
_TEXT_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}
_TEXT_OPCODES |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}")


def read_layout(data: Any, prompt: str = "") -> Layout:
    """Return tests in any layout as a record of our own.

    Real numbers on stdout get a tolerance, as in these sets' own harnesses; `prompt`, the
    statement, may ask for another. Our own form stays as it is.

    Raises:
        BrokenRecordError: the layout is none of these, or one of its parts is not as it says.
    """
    while isinstance(data, str) or (isinstance(data, dict) and "test_cases" in data):
        data = parsed(data) if isinstance(data, str) else data["test_cases"]
    if hasattr(data, "tolist"):  # numpy's arrays, in which data frames hold lists
        data = data.tolist()
    if isinstance(data, dict):
        if "kind" in data:
            return Layout(data)
        if "private_test_cases" in data or "public_test_cases" in data:
            return _livecodebench(data, prompt)
        asserts = data.get("assert_case")
        if isinstance(asserts, list) and any(asserts):
            return read_layout([text for text in asserts if text], prompt)
        if "inputs" in data and "outputs" in data:
            return _pairs(data["inputs"], data["outputs"], data.get("fn_name"), prompt)
    if isinstance(data, list) and data:
        if all(isinstance(item, str) for item in data):
            return Layout({"kind": "assert", "code": "\n".join(data) + "\n"})
        if all(isinstance(item, dict) for item in data):
            return _cases(data, prompt)
    raise BrokenRecordError(
        f"tests of no known layout: {reprlib.repr(data)} (expected "
        f'{TESTS_SCHEMA}, {{"inputs", "outputs"}}, a list of {{"input", "output"}} or of asserts)'
    )


def parsed(text: str) -> Any:
    """Return the data of a text. Raises BrokenRecordError if it is in none of the three forms."""
    for read in (loads, _unpacked, _literal):
        try:
            data = read(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, zlib.error):
            continue
        return data
    raise BrokenRecordError(f"tests are no JSON: {text[:40]!r}")


def _literal(text: str) -> Any:
    if len(text) > _LONGEST_LITERAL:
        raise ValueError("too long")
    return ast.literal_eval(text)


def _unpacked(text: str) -> Any:
    """Return the JSON data in base64 of a compressed pickle of its text."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_UNPACKED)
    if unpacker.unconsumed_tail:
        raise ValueError(f"more than {_MOST_UNPACKED >> 20} MiB")
    return loads(_pickled_text(data))


def _pickled_text(data: bytes) -> str:
    """Return the text that a pickle consists of. Nothing is built or called: opcodes are read."""
    texts = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _TEXT_OPCODES:
            raise ValueError(f"a pickle that holds more than a text ({opcode.name})")
        if isinstance(argument, str):
            texts.append(argument)
    if len(texts) != 1:
        raise ValueError("a pickle without one text")
    return texts[0]


def _livecodebench(row: dict[str, Any], prompt: str) -> Layout:
    """Return the public and private tests of a row of LiveCodeBench; its metadata has the name."""
    cases = []
    for name in ("public_test_cases", "private_test_cases"):
        part = row.get(name) or []
        part = parsed(part) if isinstance(part, str) else part
        if not isinstance(part, list) or not all(isinstance(case, dict) for case in part):
            raise BrokenRecordError(f'"{name}" is no list of {{"input", "output"}}')
        cases += part
    if not cases:
        raise BrokenRecordError('"private_test_cases" and "public_test_cases" are empty')
    return _cases([{"metadata": row.get("metadata"), **case} for case in cases], prompt)


def _cases(cases: list[dict[str, Any]], prompt: str) -> Layout:
    """Return tests that are a list of {"input", "output"}, all of them calls or none."""
    if missing := [i for i, case in enumerate(cases) if not {"input", "output"} <= case.keys()]:
        raise BrokenRecordError(f'test {missing[0] + 1} has no "input" or no "output"')
    names = {_called_name(case) for case in cases}
    if len(names) > 1:
        raise BrokenRecordError(f"the tests call different things: {sorted(map(str, names))}")
    inputs, outputs = ([case[key] for case in cases] for key in ("input", "output"))
    wraps = any("testtype" not in case for case in cases)
    return _pairs(inputs, outputs, names.pop(), prompt, may_be_wrapped=wraps)


def _called_name(case: dict[str, Any]) -> str | None:
    """Return the name of the function that a test calls; None for stdin."""
    kind, metadata = case.get("testtype") or case.get("type"), case.get("metadata")
    if isinstance(metadata, str):
        metadata = parsed(metadata or "{}")
    name = case.get("fn_name") or (isinstance(metadata, dict) and metadata.get("func_name"))
    if name and not isinstance(name, str):
        raise BrokenRecordError(f'field "fn_name" is {reprlib.repr(name)} (expected a text)')
    return name if name and (kind in _FUNCTIONAL or kind is None) else None


def _pairs(
    inputs: Any, outputs: Any, name: Any, prompt: str, *, may_be_wrapped: bool = True
) -> Layout:
    """Return tests of lists of inputs and outputs: calls of a function of that name, else stdin."""
    for place, value in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, list):
            raise BrokenRecordError(f'field "{place}" is {reprlib.repr(value)} (expected a list)')
    if len(inputs) != len(outputs):
        raise BrokenRecordError(f"the tests have {len(inputs)} inputs, {len(outputs)} outputs")
    if name is None or name == "":
        inputs, outputs = ([_joined(v) for v in values] for values in (inputs, outputs))
        tests = {"kind": "stdin", "inputs": inputs, "outputs": outputs}
        return Layout(tests | number_fields("stdin", outputs, prompt), None, HARNESS_PREAMBLE)
    if not isinstance(name, str):
        raise BrokenRecordError(f'field "fn_name" is {reprlib.repr(name)} (expected a text)')
    outputs = [
        _json_value(value, "output") if isinstance(given, str) else value
        for given, value in zip(inputs, outputs, strict=True)
    ]
    inputs = [_arguments(value) for value in inputs]
    # Results are wrapped in a list of one in most of these sets, but not in every problem.
    if may_be_wrapped and all(isinstance(value, list) and len(value) == 1 for value in outputs):
        outputs = [value[0] for value in outputs]
    if may_be_wrapped:
        inputs = [[_with_int_keys(a) for a in v] if _is_one(v) else v for v in inputs]
        outputs = list(map(_with_int_keys, outputs))
    tests = {"kind": "call", "inputs": inputs, "outputs": outputs}
    return Layout(tests | number_fields("call", outputs, prompt), name, HARNESS_PREAMBLE)


def _arguments(value: Any) -> Any:
    """Return the arguments of a call; a text holds one JSON value a line (LiveCodeBench)."""
    if not isinstance(value, str):
        return value
    return [_json_value(line, "input") for line in value.split("\n") if line.strip()]


def _json_value(text: Any, what: str) -> Any:
    with suppress(ValueError):
        if isinstance(text, str):
            return loads(text)
    wrong = f"an {what} of a call test is {text!a:.40}"
    raise BrokenRecordError(f"{wrong} (expected JSON, one value a line)")


def _is_one(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


def _with_int_keys(value: Any) -> Any:
    """Return a dict with the int keys that JSON has made texts, as APPS' own harness does."""
    if isinstance(value, dict) and all(_WHOLE_NUMBER.fullmatch(str(key)) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _joined(value: Any) -> Any:
    """Return stdin or stdout as one text: some problems hold a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else value
