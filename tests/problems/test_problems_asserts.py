"""Test code is cut into single tests only where they still test the same."""

from __future__ import annotations

import pytest

from stepcoder.problems.asserts import split_asserts
from stepcoder.sandbox.program import AssertTests


def test_top_level_asserts_are_single_tests() -> None:
    assert split_asserts("assert f(1) == 2\nassert f(\n    2\n) == 3\n") == AssertTests(
        ("assert f(1) == 2", "assert f(\n    2\n) == 3")
    )


def test_leading_imports_definitions_and_literals_are_setup() -> None:
    code = "import math\nN = [1, 2]\n@deco\ndef g(x):\n    return x\nassert f(N) == 3\n"
    tests = split_asserts(code)
    assert tests.setup == "import math\nN = [1, 2]\n@deco\ndef g(x):\n    return x"
    assert tests.asserts == ("assert f(N) == 3",)


def test_statements_that_call_the_program_stay_with_the_assert_after_them() -> None:
    code = "a = f(1)\nassert a == 2\nb = f(2)\nb += 1\nassert b == 4\nprint(a)\n"
    assert split_asserts(code) == AssertTests(
        ("a = f(1)\nassert a == 2", "b = f(2)\nb += 1\nassert b == 4\nprint(a)")
    )


def test_a_line_is_never_cut() -> None:
    code = "a = 1; assert f(a); assert f(2)\nassert f(3)\n"
    assert split_asserts(code).asserts == ("a = 1; assert f(a); assert f(2)", "assert f(3)")


def test_a_check_function_is_cut_into_small_ones() -> None:
    code = (
        "X = 1\ndef check(candidate):\n    import math\n    # first\n"
        "    assert candidate(1) == X\n    for i in range(3):\n        assert candidate(i) == i\n"
        "\ncheck(f)\n"
    )
    tests = split_asserts(code)
    assert tests.setup == "X = 1"
    assert [piece.count("import math") for piece in tests.asserts] == [1, 1]
    passing, failing = ({"f": f} for f in (lambda x: x, lambda _: 1))
    for piece in tests.asserts:
        exec("X = 1\n" + piece, passing)
    exec("X = 1\n" + tests.asserts[0], failing)
    with pytest.raises(AssertionError):
        exec(tests.asserts[1], failing)


@pytest.mark.parametrize(
    "body",
    [
        "    n = 3\n    assert candidate(n) == 3\n    assert candidate(n + 1) == 4\n",
        "    a = [1]\n    for _ in (1, 2):\n        assert candidate(a) == 1\n    assert a\n",
    ],
)
def test_a_check_function_with_shared_variables_is_one_test(body: str) -> None:
    tests = split_asserts(f"def check(candidate):\n{body}\ncheck(f)\n")
    assert len(tests) == 1
    assert tests.asserts[0] == "check(f)"
    assert body.strip() in tests.setup


def test_local_variables_of_a_check_never_become_globals() -> None:
    code = (
        "def check(candidate):\n    str = candidate(1)\n    assert str == '1'\n"
        "    assert candidate(2) == '2'\n\ncheck(f)\n"
    )
    namespace = {"f": lambda x: str(x)}
    tests = split_asserts(code)
    for piece in (tests.setup, *tests.asserts):
        exec(piece, namespace)
    assert "str" not in namespace


def test_a_loop_over_a_table_is_one_test() -> None:
    code = "inputs = [[1], [2]]\nfor i in inputs:\n    assertion(f(*i), 0)\n"
    assert split_asserts(code) == AssertTests(
        ("for i in inputs:\n    assertion(f(*i), 0)",), setup="inputs = [[1], [2]]"
    )


def test_very_long_code_is_one_test() -> None:
    code = "assert f(1)\n" * 10_000
    assert split_asserts(code) == AssertTests((code,))


def test_code_that_does_not_parse_is_refused() -> None:
    with pytest.raises(SyntaxError):
        split_asserts("assert (\n")
