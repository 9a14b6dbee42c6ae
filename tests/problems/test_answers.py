"""The program in a chat-style answer: fences, prose, bodies, cut-off ends."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.problems.answers import code_span, program_of_answer
from stepcoder.problems.problem import Problem
from stepcoder.sandbox import CallTests, StdinTests

STARTER = 'from typing import List\n\n\ndef f(xs: List[int]) -> int:\n    """Sum."""\n'
BODY = "    total = 0\n    for x in xs:\n        total += x\n    return total\n"
WHOLE = STARTER + BODY
PROBLEM = Problem("t", "Sum.", STARTER, WHOLE, CallTests(([[1, 2]],), (3,)), "f")
STDIN = Problem("s", "Double.", "", "print(int(input()) * 2)\n", StdinTests(("2",), ("4",)))
BARE = "def f(xs):\n    return sum(xs)\n"
USAGE = "Use it so:\n```python\nprint(f([1, 2]))\n```\n"


def passes(program: str) -> bool:
    namespace: dict = {}
    exec(compile(program, "answer", "exec"), namespace)
    return namespace["f"]([1, 2, 3]) == 6


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{BARE}```",
        f"```py\n{BARE}```",
        f"```\n{BARE}```",
        f"```Python3 title=f.py\n{BARE}```",
        f"~~~python\n{BARE}~~~",
        f"Here it is: ```python\n{BARE}```",
        f"Here it is.\r\n\r\n```python\r\n{BARE}```\r\nDone.".replace("\n", "\r\n"),
        f"```python\n{BARE}",
        f"```python\n{BARE}\nprint(f([1, 2",
        f"```python\n{BARE}```\n{USAGE}",
        f"First try:\n```python\ndef f(xs):\n    return 0\n```\nBetter:\n```python\n{BARE}```",
        f"Install:\n```bash\npip install f\n```\nThen\n```python\n{BARE}```",
        f"1. The code:\n\n   ```python\n{textwrap.indent(BARE, '   ')}   ```\n",
        textwrap.indent(BARE, "    "),
        BARE,
        f"Sure, the function is\n\n{BARE}\nIt adds all the numbers up, you see.",
        f"{BARE}```\nThis sums.",
        WHOLE,
        BODY,
        textwrap.dedent(BODY),
        BODY.strip(),
        f"```python\n{BODY}```",
        f"The body:\n```python\n{textwrap.dedent(BODY)}```",
        f"{BODY}\n\nprint(f([1]",
        "```python\ndef f(xs: List[int]) -> int:\n    return sum(xs)\n```",
        "```python\ndef add(a, b):\n    return a + b\n```\nand\n"
        "```python\ndef f(xs):\n    t = 0\n    for x in xs: t = add(t, x)\n    return t\n```",
        "```python\n>>> def f(xs):\n...     return sum(xs)\n```",
        "```python\nf = lambda xs: sum(xs)\n```",
    ],
)
def test_the_program_is_found(answer):
    assert passes(program_of_answer(answer, PROBLEM))


def test_a_whole_program_is_taken_as_it_is():
    assert program_of_answer(f"Text\n```python\n{WHOLE}```", PROBLEM) == WHOLE


def test_a_method_is_found_by_its_class():
    problem = Problem("t", "", "", "", CallTests(([1],), (1,)), "Solution().f")
    code = "class Solution:\n    def f(self, x):\n        return x\n"
    answer = f"```python\n{code}```\n```python\nprint(1)\n```"
    assert program_of_answer(answer, problem) == code


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nprint(int(input()) * 2)\n```",
        "Read it:\n```python\nprint(int(input()) * 2)\n```\nExample:\n```\n4\n```",
        "print(int(input()) * 2)",
        "```python\nprint(int(input()) * 2)",
    ],
)
def test_a_program_that_reads_stdin_is_found(answer):
    assert program_of_answer(answer, STDIN).strip() == "print(int(input()) * 2)"


def test_an_unfinished_function_is_not_completed():
    answer = "```python\ndef f(xs):\n    total = 0\n    for x in xs:\n        total += (x"
    with pytest.raises(SyntaxError):
        passes(program_of_answer(answer, PROBLEM))


@given(st.text(alphabet="`~ \n\tabdefpython():>=.é#'\"\\", max_size=80))
def test_any_text_gives_some_program(text):
    assert isinstance(program_of_answer(text, PROBLEM), str)
    assert isinstance(program_of_answer(text, STDIN), str)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nx = 1\n```\nor\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints\n```\n5\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nRun\n```bash\npython x.py\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```bash\nls\n```\n", "x = 1\n"),
        ("```python\nx = 1\n```\nUse it:\n```python\nprint(", "x = 1\n"),
        ("```python\nx = 1\nprint(", "x = 1\nprint("),
        ("<think>\n```python\nx = 0\n```\n</think>\n```python\nx = 1\n```", "x = 1\n"),
        ("x = '```'\n", "x = '```'\n"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_the_block_that_counts_in_training(answer: str, code: str) -> None:
    begin, end = code_span(answer)
    assert answer[begin:end] == code


@given(st.text(alphabet="`p\nx ~"))
def test_the_code_is_always_a_part_of_the_answer(answer: str) -> None:
    begin, end = code_span(answer)
    assert 0 <= begin <= end <= len(answer)
