"""The program in a chat-style answer: fences, prose, bodies, cut-off ends."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.problems.answers import (
    code_span,
    extract_completion,
    mended_program,
    mended_sample,
    program_of_answer,
)
from stepcoder.problems.problem import Problem
from stepcoder.sandbox import CallTests, StdinTests

STARTER = 'from typing import List\n\n\ndef f(xs: List[int]) -> int:\n    """Sum."""\n'
BODY = "    total = 0\n    for x in xs:\n        total += x\n    return total\n"
WHOLE = STARTER + BODY
PROBLEM = Problem("t", "Sum.", STARTER, WHOLE, CallTests(([[1, 2]],), (3,)), "f")
STDIN = Problem("s", "Double.", "", "print(int(input()) * 2)\n", StdinTests(("2",), ("4",)))
T = "`" * 3
WRONG = "def f(xs):\n    return max(xs)\n"
READS = "print(int(input()) * 2)\n"
READS_WRONG = "n = int(input())\nfor _ in range(1):\n    n += 1\nanswer = n\nprint(answer)\n"
METHOD = "class Solution:\n    def f(self, xs: list[int]) -> int:\n        "
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


FINISHED = f"{T}python\n{BARE}{T}\n"
AFTER = {
    "a summary": f"Summary:\n{T}\nO(n) time\n{T}",
    "a use": f"Usage:\n{T}python\nprint(f([3]))\n{T}",
    "an assigned use": f"Usage:\n{T}python\ntotal = f([3])\nprint(total)\n{T}",
    "tests that import it": f"{T}python\nfrom solution import f\nassert f([1]) == 1\n{T}",
    "tests": f"{T}python\nimport unittest\nfrom solution import f\n"
    f"class TestF(unittest.TestCase):\n    def test_it(self):\n        assert f([1]) == 1\n{T}",
    "its output": f"Output:\n{T}\n3\n{T}",
    "a listed output": "~~~\n[1, 2]\n~~~",
    "its stub": f"The signature is\n{T}python\ndef f(xs):\n    ...\n{T}",
    "a shell command": f"{T}bash\npython f.py\n{T}",
    "an unfinished draft": f"{T}python\ndef f(xs):\n    return (",
    "thinking that does not end": f"<think>\n{T}python\n{WRONG}{T}",
    "the next document": f"<|endoftext|>\nNext\n{T}python\n{WRONG}{T}",
}
BEFORE = {
    "a wrong draft": f"First:\n{T}python\n{WRONG}{T}\nThat is wrong.\n",
    "thinking": f"<think>\n{T}python\n{WRONG}# {'long ' * 99}\n{T}\n</think>\n",
    "a fence in a line of thinking": f"<think>\nMaybe {T}python\n{WRONG}{T}\nno.\n</think>\n",
    "thinking that its prompt opened": f"Or {T}python\n{WRONG}{T}?\n</think>\n",
    "thinking twice": f"<think>a</think>\n{T}\n{WRONG}{T}\n<think>\n{WRONG}\n</think>\n",
    "a block that was left open": f"{T}python\n{WRONG}\n",
    "a snippet": f"{T}python\nxs = sorted(xs)\n{T}\n",
    "a turn": "<|im_start|>assistant\n",
}


@pytest.mark.parametrize("place", [*AFTER, *BEFORE])
def test_the_last_complete_program_counts_whatever_stands_around_it(place: str) -> None:
    answer = BEFORE.get(place, "") + FINISHED + AFTER.get(place, "")
    assert passes(program_of_answer(answer, PROBLEM))
    for line_end in ("\n", "\r\n"):  # in training the characters stay where they are
        text = answer.replace("\n", line_end)
        begin, end = code_span(text, "f")
        assert text[begin:end] == BARE.replace("\n", line_end)


@pytest.mark.parametrize("place", [*AFTER, *BEFORE])
def test_other_trainers_and_files_get_the_same_program(place: str) -> None:
    answer = BEFORE.get(place, "") + FINISHED + AFTER.get(place, "")
    assert passes(mended_program(answer, "f"))
    assert passes(mended_sample(answer, PROBLEM))
    if place not in ("an assigned use", "its stub"):  # without a name nothing tells
        assert mended_program(answer) == BARE


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>", "</s>", "<｜end▁of▁sentence｜>"])
def test_special_tokens_end_an_answer(end: str) -> None:
    for answer in (BARE + end, FINISHED + end, f"{T}python\n{BARE}{end}", f"{BARE}{end}\n{WRONG}"):
        assert passes(program_of_answer(answer, PROBLEM))
    assert extract_completion(f"{BARE}{end}") == BARE
    inside = f"def f(xs):\n    end = '{end}'\n    return sum(xs)\n"
    assert extract_completion(inside) == program_of_answer(inside, PROBLEM) == inside


@pytest.mark.parametrize(
    "answer",
    [
        f"{T}python\ndef f(xs):\n    return add(*xs)\n{T}\nwith\n{T}python\n"
        f"def add(*xs):\n    return sum(xs)\n{T}",
        f"{T}python\nclass Solution:\n    def f(self, xs):\n        return sum(xs)\n{T}",
        f"Use {T}f = lambda xs: sum(xs){T}.",
        f"{T}python\ndef f(xs):\n    fence = '{T}' + 'x'\n    return sum(xs)\n{T}",
    ],
)
def test_what_a_program_lacks_is_added(answer: str) -> None:
    assert passes(program_of_answer(answer, PROBLEM))
    assert passes(mended_program(answer, "f"))


@pytest.mark.parametrize(
    "code",
    [
        "def f(self, xs: list[int]) -> int:\n    return sum(xs)\n",
        "def f(xs):\n    return sum(xs)\n",
        "def f(self, xs):\n    return xs[0] + self.f(xs[1:]) if xs else 0\n",
        "        return sum(xs)\n",
        f"{METHOD}return sum(xs)\n",
    ],
)
def test_a_bare_method_gets_its_class(code: str) -> None:
    problem = Problem("t", "", METHOD, "", CallTests(([[1]],), (1,)), "Solution().f")
    for answer in (code, f"So:\n{T}python\n{code}{T}\n"):
        namespace: dict = {}
        exec(program_of_answer(answer, problem), namespace)
        assert namespace["Solution"]().f([1, 2, 3]) == 6


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>\n{T}python\n{READS_WRONG}{T}\n</think>\n{T}python\n{READS}{T}",
        f"First:\n{T}python\n{READS_WRONG}{T}\nThat is wrong. Final:\n{T}python\n{READS}{T}",
        f"{T}python\n{READS}{T}\nIt reads so:\n{T}python\nn = int(input())\n{T}\n"
        f"Output:\n{T}\n4\n{T}",
    ],
)
def test_of_programs_that_read_stdin_the_last_whole_one_counts(answer: str) -> None:
    assert program_of_answer(answer, STDIN) == READS == mended_program(answer)
    begin, end = code_span(answer)
    assert answer[begin:end] == READS


def test_a_program_and_the_call_that_starts_it_are_one() -> None:
    answer = f"{T}python\ndef main():\n    {READS}{T}\nRun it:\n{T}python\nmain()\n{T}"
    program = program_of_answer(answer, STDIN)
    assert program.endswith("main()\n")
    assert "input" in program


def test_an_import_of_a_library_can_be_the_answer() -> None:
    problem = Problem("t", "", "", "", CallTests(([4, 6],), (2,)), "gcd")
    answer = f"{T}python\nfrom math import gcd\n{T}"
    assert program_of_answer(answer, problem).strip() == "from math import gcd"


def test_a_sample_that_compiles_is_judged_as_it_stands() -> None:
    for text in (WRONG, "x = 1\n", f'fence = """\n{T}python\n1\n{T}\n"""\n'):
        assert mended_sample(text, PROBLEM) == text
    assert mended_sample("def f(", PROBLEM) == "def f("
