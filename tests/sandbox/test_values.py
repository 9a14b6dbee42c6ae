"""Plain values: through the sandbox and back unchanged, and compared by the documented table."""

import math
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.sandbox import (
    AssertTests,
    CallTests,
    Checker,
    Custom,
    Exact,
    Judge,
    Limits,
    Program,
    Regex,
    Status,
    StdinTests,
    Tolerance,
    UnittestTests,
    Unordered,
    _launcher,
)
from stepcoder.sandbox.compare import same_value
from stepcoder.sandbox.messages import shown_value
from stepcoder.sandbox.returned import judged

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(1 << 200), max_value=1 << 200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
values = st.recursive(
    hashable | st.sets(hashable, max_size=4) | st.text(st.characters(categories=["Cs", "L"])),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(hashable, inner),
    max_leaves=20,
)


@given(values)
def test_values_survive_the_codec_with_their_types(value: Any) -> None:
    back = _launcher.decode(_launcher.encode(value, 1 << 20))
    assert back == value
    assert repr(type(back)) == repr(type(value))


@given(st.binary())
def test_the_decoder_takes_any_bytes_without_harm(data: bytes) -> None:
    try:
        value = _launcher.decode(data)
    except ValueError:
        return
    assert _launcher.decode(_launcher.encode(value, 1 << 20)) == value or value != value


@given(values, st.data())
def test_the_decoder_survives_damaged_values(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(_launcher.encode(value, 1 << 20))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        _launcher.decode(bytes(encoded))
    except ValueError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"l\xff\xff\xff\xff\x7f",
        b"s\xff\xff\x7fabc",
        b"q",
        b"I\x00",
        b"f123",
        b"NN",
        b"S\x01l\x00",
    ],
)
def test_lies_about_lengths_and_types_are_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        _launcher.decode(data)


def test_deep_values_are_refused_in_both_directions() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="nested"):
        _launcher.encode(deep, 1 << 20)
    with pytest.raises(ValueError, match="malformed"):
        _launcher.decode(b"l\x01" * 100_000 + b"N")


NAN = float("nan")
HUGE = 10**400


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ((1, [2]), [1, (2,)], True),
        ([1, 2], [1, 2, 3], False),
        ([1], {1}, False),
        (1, 1.0, True),
        (True, 1, True),
        ("1", 1, False),
        (None, 0, False),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (1, 1 + 1e-9, True),
        (10**9, 10**9 + 1, False),
        (1e-12, 0.0, True),
        (1e-6, 0.0, False),
        (NAN, NAN, True),
        (b"a", b"a ", False),
        (HUGE, HUGE + 1, False),
        (NAN, 0.0, False),
        ([NAN], [NAN], True),
        (-0.0, 0.0, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1e308, False),
        (HUGE, 1.0, False),
        (HUGE, HUGE, True),
        ({1: 2, 3: 4}, {3: 4, 1: 2}, True),
        ({1: 0.1 + 0.2}, {1: 0.3}, True),
        ({1: 2}, {1: 3}, False),
        ({1: 2}, {2: 2}, False),
        ({1, 2}, frozenset({2, 1}), True),
        ({0.1 + 0.2}, {0.3}, True),
        ({1}, {2}, False),
        ("a", b"a", False),
        ("a ", "a", False),
        (b"a", b"a", True),
        (1 + 2j, 1 + 2j, True),
        ([[], ()], [(), []], True),
        (1 + 2j, 1 + 2.0000001j, True),
        (2 + 0j, 2, True),
        (1j, 1, False),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}, True),
        ({1: {True: 0.5}}, {"1": {"true": 0.5}}, True),
        ({1.5: 2}, {"1.5": 2}, True),
        ({1: 2}, {"2": 2}, False),
        ({1: 2, "1": 2}, {"1": 2}, False),
        ({"1": 2}, {1: 2}, False),
    ],
)
def test_the_table_of_comparisons(got: Any, expected: Any, same: bool) -> None:
    assert same_value(got, expected) is same


def test_without_tolerance_floats_are_compared_exactly() -> None:
    assert not same_value(0.1 + 0.2, 0.3, 0.0)
    assert same_value(0.5, 0.5, 0.0)


@given(values)
def test_every_value_is_the_same_as_itself(value: Any) -> None:
    assert same_value(value, value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("10 ** 4000", 10**4000),
        ("-(1 << 63)", -(1 << 63)),
        ("struct.unpack('<d', bytes(8))[0]", struct.unpack("<d", bytes(8))[0]),
        ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}),
        ("__import__('collections').deque([1, 2])", [1, 2]),
        ("(i for i in range(3))", [0, 1, 2]),
        ("map(str, [1])", ["1"]),
        ("{1: 2}.keys()", [1]),
        ("__import__('collections').namedtuple('P', 'x y')(1, 2)", [1, 2]),
        ("__import__('enum').IntEnum('E', 'A B').B", 2),
        ("type('L', (list,), {})([1])", [1]),
        ("'\\ud800'", "\ud800"),
        ("bytearray(b'x')", b"x"),
        ("memoryview(b'x')", b"x"),
        ("reversed([1, 2])", [2, 1]),
        ("reversed({1: 2})", [1]),
        ("iter('ab')", ["a", "b"]),
        ("iter(range(2))", [0, 1]),
        ("iter({1})", [1]),
        ("itertools.chain([1], [2])", [1, 2]),
        ("itertools.combinations([1, 2, 3], 2)", [[1, 2], [1, 3], [2, 3]]),
        ("itertools.islice(itertools.count(), 2)", [0, 1]),
        ("Own()", [7]),
        ("[range(2), (i for i in 'a')]", [[0, 1], ["a"]]),
        ("__import__('array').array('i', [1, 2])", [1, 2]),
        ("decimal.Decimal('12')", 12),
        ("decimal.Decimal('0.1')", 0.1),
        ("decimal.Decimal('NaN')", NAN),
        ("decimal.Decimal('1E+999999999')", math.inf),
        ("fractions.Fraction(6, 3)", 2),
        ("fractions.Fraction(1, 4)", 0.25),
        ("datetime.date(2020, 1, 2)", "2020-01-02"),
        ("datetime.timedelta(hours=25)", "1 day, 1:00:00"),
        ("datetime.datetime(2020, 1, 2, tzinfo=UTC)", "2020-01-02 00:00:00+00:00"),
        ("__import__('uuid').UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
        ("__import__('pathlib').PurePosixPath('a/b')", "a/b"),
        ("enum.Enum('E', 'A B').B", 2),
        ("{enum.Enum('E', 'A B').B: 1}", {2: 1}),
        ("enum.StrEnum('E', 'A B').B", "b"),
        ("collections.defaultdict(list, {1: [2]})", {"1": [2]}),
        ("collections.OrderedDict([(2, 1), (1, 2)])", {1: 2, 2: 1}),
        ("collections.ChainMap({1: 2}, {3: 4})", {1: 2, 3: 4}),
        ("__import__('types').MappingProxyType({1: 2})", {1: 2}),
        ("collections.UserList([1])", [1]),
    ],
)
def test_common_answers_arrive_as_plain_values(
    judge: Judge, expression: str, expected: Any
) -> None:
    source = f"""
import collections, datetime, decimal, enum, fractions, itertools, struct
UTC = datetime.timezone.utc
class Own:
    left = [7]
    def __next__(self):
        if not self.left: raise StopIteration
        return self.left.pop()
    def __iter__(self): return self
def f():
    return {expression}
"""
    program = Program(source, "f")
    verdict = judge.run(program, CallTests(([],), (expected,)))
    assert verdict.status is Status.ACCEPTED, verdict.message


def test_numpy_values_count_as_plain_ones(judge: Judge) -> None:
    pytest.importorskip("numpy")
    source = (
        "import numpy as np\ndef f():\n"
        "    return [np.arange(3), np.int64(4), np.float64(.5), np.array(2), np.bool_(1),"
        " np.str_('a'), np.complex128(1j), np.longdouble(.5), {np.int64(1): 2},"
        " np.array([None, 'x'], object),"
        " np.datetime64('2020-01-02')]\n"
    )
    expected = [[0, 1, 2], 4, 0.5, 2, True, "a", 1j, 0.5, {1: 2}, [None, "x"], "2020-01-02"]
    verdict = judge.run(Program(source, "f"), CallTests(([],), (expected,)))
    assert verdict.passed, verdict.message


def test_the_answer_of_a_function_that_changes_its_argument(judge: Judge) -> None:
    rotates = "class Solution:\n    def rotate(self, k, xs):\n        xs[:] = xs[-k:] + xs[:-k]\n"
    inputs, outputs = ([1, [1, 2, 3]], [0, [4, 5]]), ([3, 1, 2], [4, 5])
    program = Program(rotates, "Solution().rotate")
    assert not judge.run(program, CallTests(inputs, outputs)).passed
    for alone in (False, True):
        tests = CallTests(inputs, outputs, process_per_test=alone, in_place=1)
        assert judge.run(program, tests).passed
        returns = Program("def f(k, xs): return xs[-k:] + xs[:-k]", "f")
        assert judge.run(returns, tests).passed
        wrong = judge.run(Program("def f(k, xs): xs.sort()", "f"), tests)
        assert wrong.message == "expected [3, 1, 2], got [1, 2, 3]"
    with pytest.raises(ValueError, match="in_place is 2, but a test has fewer arguments"):
        judge.run(program, CallTests(inputs, outputs, in_place=2))


@pytest.mark.parametrize("digits", [5_000, 100_000])
def test_integers_have_any_length(judge: Judge, digits: int) -> None:
    source = f"def f(n):\n    return n + 10 ** {digits}\n"
    tests = CallTests(([1], [1]), (10**digits + 1, 10**digits))
    verdict = judge.run(Program(source, "f"), tests)
    assert [test.status for test in verdict.tests] == [Status.ACCEPTED, Status.WRONG_ANSWER]
    assert f"about {digits + 1} digits" in verdict.message


def test_python_s_limit_of_digits_can_be_switched_off(judge: Judge) -> None:
    program = Program("print(10 ** 5000)", None, "x = 1")
    tests = StdinTests(("",), ("1" + "0" * 5000,))
    assert judge.run(program, tests).error_type == "ValueError"
    limits = replace(judge.limits, int_digits=0)
    assert judge.run(program, tests, limits).passed
    asserts = AssertTests(("assert len(str(f())) == 5001",))
    assert judge.run(Program("def f(): return 10 ** 5000", "f"), asserts, limits).passed
    names = Program("def f(): return 'sys' in globals()", "f")
    assert judge.run(names, CallTests(([],), (False,)), limits).passed
    with pytest.raises(ValueError, match="int_digits is 100; at least 640, or 0"):
        Limits(int_digits=100)


def test_a_byte_order_mark_is_no_part_of_a_program(judge: Judge) -> None:
    mark = "\ufeff"
    verdict = judge.run(Program(f"{mark}x = 1\ndef f(): return x", "f"), CallTests(([],), (1,)))
    assert verdict.passed
    assert verdict.executed_lines == {1, 2}
    case = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): f()\n"
    for tests in (AssertTests(("assert f",), f"{mark}x = 2"), UnittestTests(mark + case)):
        assert judge.run(Program(f"{mark}def f(): pass", "f"), tests).passed


def test_an_aware_datetime_reaches_an_assert(judge: Judge) -> None:
    source = (
        "from datetime import *\ndef f(): return datetime(2020, 1, 2, 3, tzinfo=timezone.utc)\n"
    )
    asserts = (
        "assert f().day == 2",
        "import datetime as d\nassert f() == d.datetime(2020, 1, 2, 3, tzinfo=d.timezone.utc)",
        "assert str(f().astimezone(d.timezone(d.timedelta(hours=1)))).endswith('04:00:00+01:00')",
        "assert f().tzname() == 'UTC'",
    )
    verdict = judge.run(Program(source, "f"), AssertTests(asserts))
    assert verdict.passed, verdict.message


def encoded_list(item: bytes, count: int) -> bytes:
    """Return a list of a list of the same item, as a program may write it."""
    size = b"".join(bytes([count >> shift & 127 | 128]) for shift in range(0, 28, 7)) + b"\0"
    return b"l\x01l" + size + item * count


CHECKERS = (None, Exact(), Tolerance(), Unordered(), Regex(), Custom(""))
ITEMS = (b"N", b"S\0", b"l\0", b"f" + bytes(8), b"s\x01a", b"d\x01i\0l\0", b"I\x09" + b"\xff" * 9)


@pytest.mark.parametrize("checker", CHECKERS, ids=repr)
@pytest.mark.parametrize("item", ITEMS)
def test_a_hostile_answer_is_not_made(checker: Checker | None, item: bytes) -> None:
    expected = "[[1]]" if isinstance(checker, Regex) else [[1]]
    tests = CallTests(([],), (expected,), checker=checker)
    payload = encoded_list(item, (32 << 20) // len(item) - 8)
    tracemalloc.start()
    try:
        right, text = judged(tests, 0, payload, lambda _index, _got: False)
    except ValueError:  # more than any checker gets
        right, text = False, ""
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not right
    assert len(text) < 400
    assert peak < 1 << 20


def test_a_checker_gets_a_large_value_that_is_no_larger_than_that() -> None:
    tests = CallTests(([],), (1,), checker=Custom(""))
    payload = encoded_list(b"i\0", 500_000)
    assert judged(tests, 0, payload, lambda _index, got: got == payload)[0]


def test_a_verdict_makes_no_more_of_a_value_than_it_shows() -> None:
    class Counted(float):
        shown = 0

        def __repr__(self) -> str:
            Counted.shown += 1
            return "7"

    assert shown_value([[Counted()] * 9_999] * 9_999).endswith("7, 7, 7...")
    assert Counted.shown < 400
    for value in ([], (), {}, set(), (1,), {1: {2}}, "a" * 290, [{"a": (None, b"b")}] * 3):
        assert shown_value(value) == repr(value)
    assert shown_value("a" * 10**6) == f"'{'a' * 299}..."


@given(values)
def test_equal_values_weigh_the_same(value: Any) -> None:
    weights = {_launcher.weigh(_launcher.encode(v, 1 << 24)) for v in ([value], (value,))}
    assert len(weights) == 1
    numbers = (1, True, 1.0, 1 + 0j, 1e300, 10**300)
    assert len({_launcher.weigh(_launcher.encode(number, 1 << 9)) for number in numbers}) == 1
