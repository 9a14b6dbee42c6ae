"""Prompts show what is needed, and tokens of every tokenizer find their characters."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.crafted import CRAFTED
from helpers.random_programs import random_program
from helpers.tokenizers_built import SPECIAL, TOKENIZERS, single_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from stepcoder.problems.answers import extract_completion
from stepcoder.problems.problem import Problem, load_problems
from stepcoder.problems.prompts import (
    encode_prompt,
    encode_target,
    end_tokens,
    natural_end,
    prompt_text,
    starter_part,
    target_text,
    token_spans,
)
from stepcoder.problems.source import line_starts
from stepcoder.problems.template import TEMPLATE, check_template
from stepcoder.sandbox.program import AssertTests

PROMPT = "Say “it”.\n```python\ndef f(x):\n"
EACH_TOKENIZER = pytest.mark.parametrize("name", TOKENIZERS)


@cache
def tokenizer(name: str) -> Tokenizer:
    return TOKENIZERS[name]([*CRAFTED.values(), PROMPT, string.printable, "é → 🙂 名前"])


def problem(
    prompt: str = "Double x.",
    starter: str = "def double(x):\n",
    solution: str = "def double(x):\n    return 2 * x\n",
    entry_point: str | None = "double",
) -> Problem:
    return Problem("p", prompt, starter, solution, AssertTests(("pass",)), entry_point)


def token_id(backend: Tokenizer, token: str) -> int:
    found: int | None = backend.token_to_id(token)
    assert found is not None
    return found


def special_ids(backend: Tokenizer) -> set[int]:
    return {token_id(backend, token) for token in SPECIAL}


def spans_cover(text: str, spans: list[tuple[int, int]]) -> bool:
    """Whether the spans that are not empty, each counted once, tile the text in order."""
    ordered = list(dict.fromkeys(span for span in spans if span[0] < span[1]))
    ends = [0, *(end for _, end in ordered)]
    return [start for start, _ in ordered] == ends[:-1] and ends[-1] == len(text)


def test_a_prompt_is_description_fence_and_given_part() -> None:
    text = prompt_text(problem(), "def double(x):\n")
    assert text == "Double x.\n```python\ndef double(x):\n"


def test_a_prompt_names_the_function_where_nothing_else_does() -> None:
    hidden = problem(solution="import os\ndef double(x):\n    return 2 * x\n")
    assert starter_part(hidden) == ""
    assert prompt_text(hidden, "") == "Double x.\ndef double(x):\n```python\n"
    named = problem(prompt="Write double(x).", solution=hidden.canonical_solution)
    assert prompt_text(named, "") == "Write double(x).\n```python\n"


def test_a_description_that_the_given_part_contains_is_not_repeated() -> None:
    header = 'def double(x):\n    """Double x."""\n'
    code = problem(prompt=header, starter=header, solution=header + "    return 2 * x\n")
    assert prompt_text(code, header) == f"\n```python\n{header}"


def test_braces_in_a_description_stay() -> None:
    text = prompt_text(problem(prompt="Return {given} {}."), "", TEMPLATE)
    assert text.startswith("Return {given} {}.\n")


@pytest.mark.parametrize("template", ["{given}", "{description}", "{description}{given}\n"])
def test_a_template_that_cannot_be_continued_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        check_template(template)


def test_the_default_template_is_accepted() -> None:
    check_template(TEMPLATE)


@pytest.mark.parametrize(
    ("solution", "starter", "expected"),
    [
        ("def f(x):\n    pass\n", "def f(x):\n", "def f(x):\n"),
        ("def f(x):  \r\n    pass\n", "\ndef f(x):", "def f(x):  \r\n"),
        ("\n\ndef f(x):\n    pass\n", "def f(x):\n    ", "\n\ndef f(x):\n"),
        ("def f(x): return 1\n", "def f(x):", ""),
        ("def f(x, y):\n    pass\n", "def f(x)", ""),
        ("import os\ndef f(x):\n    pass\n", "def f(x):\n", ""),
        ("def f(x):\n    pass\n", "", ""),
    ],
)
def test_the_starter_is_given_where_the_solution_begins_with_it(
    solution: str, starter: str, expected: str
) -> None:
    assert starter_part(problem(starter=starter, solution=solution)) == expected


def test_code_ends_at_a_fence_that_starts_a_line() -> None:
    assert extract_completion("x = 1\n```\nDone.") == "x = 1\n"
    assert extract_completion("```") == ""
    assert extract_completion("x = '```'\n") == "x = '```'\n"


def test_the_target_of_a_solution_reads_back_as_the_rest_of_it() -> None:
    assert target_text(problem(), "def double(x):\n") == "    return 2 * x\n```"
    with pytest.raises(ValueError, match="p: the given part"):
        target_text(problem(), "def triple(x):\n")


def test_every_solution_is_its_given_part_and_its_target(data: Path) -> None:
    for name in ("humaneval.jsonl", "mbpp.jsonl", "apps_plus_form.json", "leetcode_train.jsonl.gz"):
        for p in load_problems(data / name).problems:
            part = starter_part(p)
            code = part + extract_completion(target_text(p, part))
            assert code.rstrip("\n") == p.canonical_solution.rstrip("\n")
            assert part == "" or part.endswith(("\n", "\r"))


@EACH_TOKENIZER
@pytest.mark.parametrize("program", CRAFTED)
def test_a_target_keeps_its_characters_after_a_prompt(name: str, program: str) -> None:
    prompt_ids = encode_prompt(tokenizer(name), PROMPT)
    ids = encode_target(tokenizer(name), PROMPT, CRAFTED[program])
    text, spans = token_spans(tokenizer(name), prompt_ids, ids)
    assert text == CRAFTED[program]
    assert len(spans) == len(ids)
    assert spans_cover(text, spans)


@EACH_TOKENIZER
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_random_programs_keep_their_characters(name: str, seed: int) -> None:
    source = random_program(seed)
    prompt_ids = encode_prompt(tokenizer(name), PROMPT)
    text, spans = token_spans(
        tokenizer(name), prompt_ids, encode_target(tokenizer(name), PROMPT, source)
    )
    assert text == source
    assert spans_cover(text, spans)


@EACH_TOKENIZER
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_tokens_whatever_the_policy_writes_tile_their_text(
    name: str, data: st.DataObject
) -> None:
    ids = st.integers(0, tokenizer(name).get_vocab_size() - 1)
    response = data.draw(st.lists(ids, max_size=40))
    text, spans = token_spans(tokenizer(name), encode_prompt(tokenizer(name), PROMPT), response)
    assert len(spans) == len(response)
    assert spans_cover(text, spans)


NEWLINE_AND_INDENTATION = ["byte-level BPE", "SmolLM2-style BPE"]


@pytest.mark.parametrize(
    ("text", "names", "held_back"),
    [
        ("```python\ndef f(x):\n", NEWLINE_AND_INDENTATION, "\n"),
        ("```python\n", NEWLINE_AND_INDENTATION, "\n"),
        ("```python\ndef f(x):\n", ["Qwen2-style BPE", "Llama-3-style BPE", "single bytes"], ""),
        ("```python\ndef f(x):\n    x = 1\n", ["Qwen2-style BPE", "Llama-3-style BPE"], ""),
        ("```python\ndef f(x):\n    ", NEWLINE_AND_INDENTATION, "\n    "),
        ("```python\ndef f(x):\n    ", ["Qwen2-style BPE", "Llama-3-style BPE"], "    "),
    ],
)
def test_a_prompt_ends_where_a_token_ends_whatever_follows(
    text: str, names: list[str], held_back: str
) -> None:
    for name in names:
        assert text[natural_end(tokenizer(name), text) :] == held_back


@EACH_TOKENIZER
@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_a_prompt_and_what_follows_are_the_tokens_of_the_whole(
    name: str, seed: int, data: st.DataObject
) -> None:
    backend, source = tokenizer(name), random_program(seed)
    # Not before a blank line: Qwen's tokenizer joins it to the line end before (`_CONTINUATIONS`).
    starts = line_starts(source)[:-1]
    cuts = [start for start in starts if source[start:].lstrip(" \t\f")[:1].strip()]
    cut = data.draw(st.sampled_from(cuts))
    text = f"Say it.\n```python\n{source[:cut]}"
    whole = text + source[cut:] + "```"
    end = natural_end(backend, text)
    prompt_ids = encode_prompt(backend, text[:end])
    assert prompt_ids[-1] not in special_ids(backend)
    target = encode_target(backend, text[:end], whole[end:])
    assert prompt_ids + target == encode_prompt(backend, whole)
    written, spans = token_spans(backend, prompt_ids, target)
    assert written == whole[end:]
    assert spans_cover(written, spans)


def test_the_bytes_of_one_character_share_its_span() -> None:
    backend = tokenizer("single bytes")
    ids = backend.encode("a→b", add_special_tokens=False).ids
    text, spans = token_spans(backend, encode_prompt(backend, PROMPT), ids)
    assert text == "a→b"
    assert spans == [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_a_character_that_is_never_completed_reads_as_one_replacement() -> None:
    backend = tokenizer("Llama-style BPE")
    ids = [token_id(backend, "<0xE2>"), token_id(backend, "<0x86>")]
    text, spans = token_spans(backend, encode_prompt(backend, PROMPT), ids)
    assert (text, spans) == ("\ufffd", [(0, 1), (0, 1)])


def test_broken_bytes_leave_the_text_after_them_sound() -> None:
    backend = tokenizer("Llama-style BPE")
    prompt_ids = encode_prompt(backend, PROMPT)
    code = encode_target(backend, PROMPT, "return x\n")
    text, _ = token_spans(backend, prompt_ids, [token_id(backend, "<0xFF>"), *code])
    assert text == "\ufffdreturn x\n"


@EACH_TOKENIZER
def test_special_tokens_have_empty_spans(name: str) -> None:
    backend = tokenizer(name)
    prompt_ids = encode_prompt(backend, PROMPT)
    end = token_id(backend, SPECIAL[1])
    ids = [*encode_target(backend, PROMPT, "x = 1\n"), end]
    text, spans = token_spans(backend, prompt_ids, ids)
    assert text == "x = 1\n"
    assert spans[-1] == (6, 6)


def test_a_transformers_tokenizer_gives_the_same_spans() -> None:
    backend = tokenizer("byte-level BPE")
    wrapped: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token="</s>"
    )
    ids = encode_target(wrapped, PROMPT, "x = [1]\n")
    prompt_ids = encode_prompt(backend, PROMPT)
    assert token_spans(wrapped, prompt_ids, ids) == token_spans(backend, prompt_ids, ids)


def test_a_completion_ends_with_the_end_of_a_turn_or_of_the_text() -> None:
    def spoken(template: str | None) -> Any:
        wrapped: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=single_bytes([]), eos_token="</s>"
        )
        wrapped.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
        wrapped.chat_template = template
        return wrapped

    said = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}"
    gemma, chatml, plain, base = (
        spoken(said + "<end_of_turn>\n{% endfor %}"),
        spoken(said + "</s>\n{% endfor %}"),
        spoken(said + "\n{% endfor %}"),
        spoken(None),
    )
    eos, turn = base.eos_token_id, base.convert_tokens_to_ids("<end_of_turn>")
    assert end_tokens(gemma) == (turn, eos)
    assert end_tokens(chatml) == end_tokens(plain) == end_tokens(base) == (eos,)


def test_a_tokenizer_without_a_backend_is_refused() -> None:
    with pytest.raises(TypeError, match="str has no tokenizers backend"):
        encode_prompt("not a tokenizer", PROMPT)


def test_a_target_that_a_tokenizer_cannot_write_is_refused() -> None:
    backend = tokenizer("Metaspace Unigram")
    with pytest.raises(ValueError, match="cannot continue"):
        encode_target(backend, PROMPT, "x = '☃'\n")
