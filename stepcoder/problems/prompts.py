"""Prompts: their layout, their token ids, and which characters each token of a response covers.

A prompt is the description, an opening code fence and the given part of the program; the policy
continues with code and ends it with a closing fence (StepCoder, arXiv 2402.01391, section 3).
Takes Problems and token ids; gives text, token ids and the character span of every token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stepcoder.problems.names import called_name
from stepcoder.problems.problem import Problem
from stepcoder.problems.template import ANSWER, AUTO, CHAT, FENCE, TEMPLATE, in_own_words

if TYPE_CHECKING:  # cleaning imports this module, and needs no tokenizers
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

_ASK = "{description}\n\nAnswer with one Python code block."

# What may follow a prompt: code at some indentation, or the rest of the line that it ends in.
# No blank line: after a complete line the policy goes on with code, and Qwen's and Llama-3's
# tokenizers would have to give up the end of that line as well, because they join it to newlines.
_CONTINUATIONS = (
    *("x", "1", "_", " x", "    x", "        return", "\tx", "\t\tx"),
    *("(", ")", "):", "[", "]", ",", ".", "=", '"', "'", "#", FENCE),
)
_TAIL = 96  # characters: what is further away from the end of a prompt does not move its tokens

_REPLACEMENT = "\ufffd"


class _BrokenBytesError(Exception):
    """Raised for tokens that can never complete a character."""


def resolved_template(template: str, tokenizer: Any, *, thinking: bool = False) -> str:
    """Return the text of a template: for "chat" that of the tokenizer's own chat template.

    "auto" is "chat" where the tokenizer has a chat template, else the default text. In a chat, the
    user's message is the description; the assistant's answer is started with an opening fence and
    the given part, so that CCCS gives code in the same way with every template. For "answer" no
    fence is opened. If the chat template has a switch for thinking, it is off but for an "answer"
    with `thinking`.

    Raises:
        ValueError: the tokenizer has no chat template, or one that lost the description.
    """
    if template == AUTO:
        template = CHAT if getattr(tokenizer, "chat_template", None) else TEMPLATE
    if template == ANSWER:
        return _chat(tokenizer, thinking=thinking) + "{answer}"
    if template == CHAT:
        return _chat(tokenizer, thinking=False) + TEMPLATE.partition("\n")[2]
    return template


def question_text(tokenizer: Any, text: str) -> str:
    """Return the prompt that a policy answers in its own words: a turn of its chat, if it can."""
    if not getattr(tokenizer, "chat_template", None):
        return f"{text}\n\n"
    return _chat(tokenizer, thinking=False, asked="{description}").replace("{description}", text)


def _chat(tokenizer: Any, *, thinking: bool, asked: str = _ASK) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template; give a text with {description} that ends with "
            "{given} or {answer}"
        )
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    if text.count("{description}") != 1:
        raise ValueError("the tokenizer's chat template does not show the description once")
    # Encoding a prompt adds the BOS token; many chat templates write it as well.
    opening = _backend(tokenizer).encode("").ids
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and tokenizer.bos_token_id in opening:
        text = text.removeprefix(bos)
    return text


@lru_cache(maxsize=8)
def end_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a completion: what closes an answer in a chat, then the EOS.

    They differ in some families: Gemma's turns end with <end_of_turn>, its texts with <eos>.
    """
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": _ASK}, {"role": "assistant", "content": "{answer}"}]
        text: str = tokenizer.apply_chat_template(chat, tokenize=False)
        behind = text.rpartition("{answer}")[2].lstrip()
        encoding = _backend(tokenizer).encode(behind, add_special_tokens=False)
        added = _backend(tokenizer).get_added_tokens_decoder()
        ends[:0] = [i for i in encoding.ids[:1] if i in added and i not in ends]
    return tuple(ends)


def prompt_text(problem: Problem, given: str, template: str = TEMPLATE) -> str:
    """Return the text the policy continues: its end is the given part, so completion follows it.

    An answer in the policy's own words is given nothing.

    A template that begins with the description is a text that goes on. There a description that the
    given part contains is left out (HumanEval, whose prompt is code). If neither names the function
    that the tests call, the starter code is added: the descriptions of MBPP do not name it.

    Other templates, such as "chat", ask for the program in a turn of its own. It has the whole
    description, and the starter code wherever that is not given.
    """
    if in_own_words(template):
        given = ""
    description, starter = problem.prompt.strip(), problem.starter_code.strip()
    if not template.startswith("{description}"):
        if starter not in description + given:
            description += f"\n\nBegin with:\n{starter}"
    else:
        if description in given:
            description = ""
        name = called_name(problem.entry_point or "")
        if name and not re.search(rf"\b{re.escape(name)}\b", description + "\n" + given):
            description = f"{description}\n{starter}".strip()
    asked = template.removesuffix("{given}").removesuffix("{answer}")
    return asked.replace("{description}", description) + given


def starter_part(problem: Problem) -> str:
    """Return the part of the canonical solution that every prompt gives, whatever the stage.

    It is the starter code up to the end of its last line, if the canonical solution begins with it
    (leading blank lines and trailing spaces aside); else it is empty. A program is always the given
    part + the completion, so starter code can be given only if a solution continues it.
    """
    solution = problem.canonical_solution
    starter = problem.starter_code.strip()
    begin = len(solution) - len(solution.lstrip())
    if not starter or not solution.startswith(starter, begin):
        return ""
    end = begin + len(starter)
    rest_of_line = re.compile(r"[^\S\r\n]*(\r\n|\r|\n)").match(solution, end)
    return solution[: rest_of_line.end()] if rest_of_line else ""


def target_text(problem: Problem, given: str) -> str:
    """Return what a policy should write after a given part: the rest of the solution, fenced.

    Raises ValueError if the canonical solution does not begin with the given part.
    """
    if not problem.canonical_solution.startswith(given):
        raise ValueError(f"{problem.task_id}: the given part does not begin the solution")
    code = problem.canonical_solution[len(given) :]
    return code + ("" if code.endswith("\n") else "\n") + FENCE


@lru_cache(maxsize=1 << 14)  # every epoch and evaluation asks again
def natural_end(tokenizer: Any, text: str) -> int:
    """Return how many characters of a prompt's text the policy should read.

    A model knows a text only as the tokens of the whole. Many tokenizers join a newline to the
    indentation after it, so a text that is cut at a line start may end where no token ever ended.
    The longest beginning is returned whose tokens begin those of the text with any continuation;
    the few characters behind it are for the policy to write. It depends on the text and the
    tokenizer alone: training, evaluation and use agree, and the solution tells nothing.
    """
    tail = text[-_TAIL:]
    wholes = [encode_prompt(tokenizer, tail + continuation) for continuation in _CONTINUATIONS]
    for held_back in range(len(tail)):
        ids = encode_prompt(tokenizer, tail[: len(tail) - held_back])
        if all(whole[: len(ids)] == ids for whole in wholes):
            return len(text) - held_back
    return len(text)


def fits(tokenizer: Any, text: str, most: int) -> bool:
    """Return whether a prompt's text has at most so many tokens."""
    # A token has a byte at least, but for the few that open a text.
    return len(text.encode()) + 8 <= most or len(encode_prompt(tokenizer, text)) <= most


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a prompt, with the tokenizer's own opening tokens (BOS).

    Tokens that it would put at the end (EOS) are left out: the policy goes on with the text.
    """
    encoding = _backend(tokenizer).encode(text)
    ids: list[int] = encoding.ids
    while ids and encoding.special_tokens_mask[len(ids) - 1]:
        ids.pop()
    return ids


def encode_target(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """Return the token ids that continue those of `prompt` with exactly the text `target`.

    They are those of the whole text, so the policy learns what it will meet. Where a token of the
    whole spans both, the target is tokenised on its own. SentencePiece-style tokenizers may put a
    space before a text; it would be in the middle of the program, so it is removed. Raises
    ValueError if no tokens decode to exactly the target.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    whole = encode_prompt(tokenizer, prompt + target)
    candidates = [whole[len(prompt_ids) :]] if whole[: len(prompt_ids)] == prompt_ids else []
    backend = _backend(tokenizer)
    for marker in ("", "\n", ";"):
        # After a marker the tokenizer adds no space; the tokens of the marker are then removed.
        skipped = backend.encode(marker, add_special_tokens=False).ids if marker else []
        ids = backend.encode(marker + target, add_special_tokens=False).ids
        candidates += [ids[len(skipped) :], ids[len(skipped) + 1 :]]
    for candidate in candidates:
        if token_spans(tokenizer, prompt_ids, candidate)[0] == target:
            return candidate
    raise ValueError(f"the tokenizer cannot continue a prompt with {target[:40]!r} exactly")


def token_spans(
    tokenizer: Any, prompt_ids: Sequence[int], response_ids: Sequence[int]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a response and the character span [start, end) of each of its tokens.

    Tokens are decoded as a continuation of the prompt's. Tokens that together make one character
    (bytes of UTF-8) share its span; special tokens have empty spans. The spans cover the text
    without gaps, in order. Bytes that do not make a character are decoded as U+FFFD.
    `tokenizer` is a `tokenizers.Tokenizer` or a transformers tokenizer built on one.
    """
    from tokenizers.decoders import DecodeStream

    backend = _backend(tokenizer)
    special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    context = list(prompt_ids)
    stream = DecodeStream(ids=context, skip_special_tokens=True)
    spans: list[tuple[int, int]] = []
    pieces: list[str] = []
    waiting: list[int] = []  # tokens whose character is not complete yet
    length = 0

    def place(piece: str) -> None:
        nonlocal length, waiting
        for i in waiting:
            spans[i] = (length, length + len(piece))
        pieces.append(piece)
        length += len(piece)
        waiting = []

    for index, token_id in enumerate(response_ids):
        spans.append((length, length))
        if token_id in special:
            continue
        try:
            piece = _step(stream, backend, token_id)
        except _BrokenBytesError:
            # The waiting bytes are no character; this token may decode on its own.
            if waiting:
                place(_REPLACEMENT)
            stream = DecodeStream(ids=context, skip_special_tokens=True)
            try:
                piece = _step(stream, backend, token_id)
            except _BrokenBytesError:
                piece = _REPLACEMENT
                stream = DecodeStream(ids=context, skip_special_tokens=True)
        waiting.append(index)
        if piece is not None:
            place(piece)
    if waiting:
        place(_REPLACEMENT)
    return "".join(pieces), spans


def _step(stream: DecodeStream, backend: Tokenizer, token_id: int) -> str | None:
    """Return what a token adds to the text, or None while a character is incomplete."""
    try:
        return stream.step(backend, token_id)
    except Exception as error:
        # The library has no exception class for this: invalid UTF-8 changed how the decoder reads
        # the text before it, because byte fallback decodes a run of bytes as a whole.
        if "prefix" not in str(error):
            raise
        raise _BrokenBytesError from None


def _backend(tokenizer: Any) -> Tokenizer:
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise TypeError(f"{type(tokenizer).__name__} has no tokenizers backend to align tokens by")
    return backend
