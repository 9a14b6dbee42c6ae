"""EvalPlus' own rows (HumanEvalPlus.jsonl, MbppPlus.jsonl): inputs without expected outputs.

Takes a row; gives a record of our own schema, whose test code runs the canonical solution for the
expected values, in the tester's process. Values are compared as EvalPlus 0.3.1 compares them
(evalplus/eval/__init__.py), with its special cases. One test is the base inputs; the plus inputs
are cut into several, so that each has limits of its own.
"""

from __future__ import annotations

from typing import Any

from stepcoder.problems.schema import BrokenRecordError

_INPUTS_A_TEST = 50

# MBPP's arguments that JSON has made lists: the numbers of the problems, which arguments (None:
# all), and at which depths lists are tuples, 1 being the argument itself.
_TUPLES: tuple[tuple[str, int | None, tuple[int, ...]], ...] = (
    ("2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
     None, (1,)),
    ("63 64 70 94 120 237 272 299 400 409 417 438 473 614 780", None, (2,)),
    ("75 413 444 753", 0, (2,)),
    ("106 750", 1, (1,)),
    ("250 307 405 446 617 720 763 808", 0, (1,)),
    ("259 278 401 445", None, (1, 2)),
    ("580 615 791", None, tuple(range(1, 20))),
)  # fmt: skip

# The part of the test code that does not depend on the row. `_right` is what EvalPlus asks of one
# returned value; `_close` is numpy.allclose on lists, without numpy.
_CHECK = """
import copy, math

_SETS = {"similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly",
         "larg_nnum", "intersection_array", "find_dissimilar", "Diff"}
_NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}

def _surface(edge, height):
    return round(edge ** 2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height ** 2))

def _digit_distance(one, two):
    width = max(len(str(one)), len(str(two)))
    pairs = zip(str(one).zfill(width), str(two).zfill(width))
    return sum(abs(int(a) - int(b)) for a, b in pairs)

def _close(got, expected, atol):
    if isinstance(expected, (list, tuple)):
        same = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return same and all(_close(g, e, atol) for g, e in zip(got, expected))
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        return got == expected or abs(got - expected) <= atol + 1e-7 * abs(expected)
    return False

def _is_real(value):
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)

def _right(got, expected, arguments):
    if _MBPP:
        if _NAME == "are_equivalent" or _NAME == "sum_div" and got == 0:
            return True
        if _NAME == "surface_Area" and abs(got - _surface(*arguments)) <= _ATOL:
            return True
        if _NAME == "digit_distance_nums" and got == _digit_distance(*arguments):
            return True
        if _NAME in _SETS:
            return set(got) == set(expected)
        if _NAME in _NOT_NONE:
            expected = expected is not None
            return (got if isinstance(got, bool) else got is not None) == expected
    elif _NAME == "find_zero":
        return abs(sum(c * math.pow(got, i) for i, c in enumerate(*arguments))) <= _ATOL
    if got == expected:
        return True
    atol = 1e-6 if _ATOL == 0 and _is_real(expected) else _ATOL
    return atol != 0 and type(got) is type(expected) and _close(got, expected, atol)

_reference = {}
exec(_SOLUTION, _reference)

def check(candidate, inputs):
    for arguments in inputs:
        got = candidate(*copy.deepcopy(arguments))
        expected = _reference[_NAME](*copy.deepcopy(arguments))
        assert _right(got, expected, arguments), f"{arguments!r:.200}: {got!r:.200}"
"""


def from_evalplus(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row of HumanEval+ or MBPP+ as a record of our own. Raises BrokenRecordError."""
    texts = ("task_id", "prompt", "entry_point", "canonical_solution")
    for name in texts:
        if not isinstance(record.get(name), str):
            raise BrokenRecordError(f'field "{name}" is missing or no text')
    task_id, prompt, name, solution = (record[key] for key in texts)
    family, _, number = task_id.partition("/")
    mbpp = family.lower().startswith("mbpp")
    if not number.isdecimal() or len(number) > 9:
        raise BrokenRecordError(f'field "task_id" is {task_id!r} (expected a name and a number)')
    atol = record.get("atol") or 0
    if not isinstance(atol, (int, float)):
        raise BrokenRecordError(f'field "atol" is {atol!r:.40} (expected a number)')
    base, plus = (_inputs(record, key, int(number) if mbpp else None) for key in _LISTS)
    parts = [plus[i : i + _INPUTS_A_TEST] for i in range(0, len(plus), _INPUTS_A_TEST)]
    known = {
        "_NAME": name,
        "_MBPP": mbpp,
        "_ATOL": atol,
        "_SOLUTION": prompt + solution,
    }
    setup = "".join(f"{key} = {value!r}\n" for key, value in known.items()) + _CHECK
    return {
        "task_id": task_id,
        "prompt": prompt,
        "starter_code": prompt,
        "entry_point": name,
        "canonical_solution": prompt + solution,
        "tests": {
            "kind": "assert",
            "setup": setup + "inf, nan = math.inf, math.nan\n",
            "asserts": [f"check({name}, {part!r})" for part in (base, *parts) if part],
        },
        "source": "MBPP+" if mbpp else "HumanEval+",
        "difficulty": "introductory" if mbpp else None,
        "split": mbpp_split(int(number), plus=True) if mbpp else "eval",
    }


_LISTS = ("base_input", "plus_input")


def _inputs(record: dict[str, Any], key: str, number: int | None) -> list[Any]:
    """Return lists of arguments, with the types that JSON does not have (MBPP's problem number)."""
    found = record.get(key)
    if found == {}:  # Mbpp/793 has no plus inputs, and says so this way
        return []
    if not isinstance(found, list) or not all(isinstance(item, list) for item in found):
        raise BrokenRecordError(f'field "{key}" is missing or no list of lists of arguments')
    try:
        return [_restored(arguments, number) for arguments in found]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise BrokenRecordError(f'field "{key}" has other types than MBPP\'s ({error})') from None


def _restored(arguments: list[Any], number: int | None) -> list[Any]:
    """Return arguments as `mbpp_deserialize_inputs` of EvalPlus gives them."""
    match number:
        case 115:
            return [[set(item) if item else {} for item in arguments[0]]]
        case 124:
            return [float(arguments[0]), complex(arguments[1])]
        case 252:
            return [complex(arguments[0])]
        case 722:
            first = {key: tuple(value) for key, value in arguments[0].items()}
            return [first, *arguments[1:]]
    for numbers, place, depths in _TUPLES:
        if str(number) in numbers.split():
            return [
                _with_tuples(value, depths) if place in (None, i) else value
                for i, value in enumerate(arguments)
            ]
    return arguments


def _with_tuples(value: Any, depths: tuple[int, ...], depth: int = 1) -> Any:
    if not isinstance(value, list):
        return value
    items = [_with_tuples(item, depths, depth + 1) for item in value]
    return tuple(items) if depth in depths else items


def mbpp_split(number: int, *, plus: bool) -> str:
    """Return the split that MBPP's paper gives a problem; MBPP+ has problems of all of them."""
    bounds = ((10, "fewshot"), (510, "eval"), (600, "validation"))
    split = next((name for last, name in bounds if number <= last), "train")
    return f"eval_but_in_mbpp_{split}" if plus and split != "eval" else split
