"""Plain values: through the sandbox and back unchanged, and compared by the documented table."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.sandbox import CallTests, Judge, Program, Status, _launcher
from stepcoder.sandbox.compare import same_value

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
    ],
)
def test_common_answers_arrive_as_plain_values(
    judge: Judge, expression: str, expected: Any
) -> None:
    program = Program(f"import struct\ndef f():\n    return {expression}\n", "f")
    verdict = judge.run(program, CallTests(([],), (expected,)))
    assert verdict.status is Status.ACCEPTED, verdict.message


def test_numpy_values_count_as_plain_ones(judge: Judge) -> None:
    pytest.importorskip("numpy")
    source = (
        "import numpy as np\ndef f():\n    return [np.arange(3), np.int64(4), np.float64(.5)]\n"
    )
    verdict = judge.run(Program(source, "f"), CallTests(([],), ([[0, 1, 2], 4, 0.5],)))
    assert verdict.passed, verdict.message
