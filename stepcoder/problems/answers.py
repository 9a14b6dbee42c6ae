"""The code in what a model wrote: four ways to take it out, for four kinds of text.

| function | the text is | the code is |
|---|---|---|
| `extract_completion` | a completion whose prompt opened the fence | all before the closing fence |
| `code_span` | an answer in training | the block that counts, as it is |
| `last_block` | an answer for another trainer (`adapters`) | the last fenced block, as it is |
| `program_of_answer` | a chat answer that `evaluate` judges | a whole program for its problem |

The first two keep character offsets, so a token of the response has its place in the program; the
third knows no problem; the last goes furthest to find a program that defines what the tests call.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator, Sequence

from stepcoder.problems.names import bound_at, bound_names, defined_name, loaded_names
from stepcoder.problems.problem import Problem
from stepcoder.problems.source import parse
from stepcoder.problems.template import FENCE

_CLOSING = re.compile(rf"^{FENCE}", re.MULTILINE)
_OPENED_BLOCK = rf"^{FENCE}[^\n`]*\n(.*?)"
_BLOCK = re.compile(rf"{_OPENED_BLOCK}^{FENCE}", re.DOTALL | re.MULTILINE)
_LAST_BLOCK = re.compile(rf"{_OPENED_BLOCK}\Z", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(
    rf"^{FENCE}[ \t]*(?P<tag>[\w+#.-]*)[^\n`]*\n(?P<code>.*?)(?P<end>^{FENCE}|\Z)",
    re.DOTALL | re.MULTILINE,
)
# For `program_of_answer`: an opening fence may follow words on its line, or be made of tildes.
_OPENING = re.compile(r"(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+#.-]*)[^\n`]*(?:\n|\Z)")
_INLINE = re.compile(rf"{FENCE}(?:(?:python3?|py)\b)?([^\n`]+){FENCE}")
_PYTHON = {"", "python", "py", "python3", "py3", "ipython", "pycon"}
_STATEMENT = re.compile(r"^(?:from|import|def|class|async def|@)\b|^@|^\w+ *=(?!=)", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^(?=[^\s#)\]}])", re.MULTILINE)
_READS_STDIN = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b")
_TRIES = 200  # of parses, for answers in which code and prose are not told apart by a fence


def extract_completion(text: str) -> str:
    """Return the code of a completion: everything before a line that starts with a closing fence.

    For completions of prompts that open the fence (`prompts.TEMPLATE`), in training and where
    `evaluate` samples the same way. The code is a prefix of `text`, so offsets into it are offsets
    into the response. A completion without a closing fence is code to its end.
    """
    fence = _CLOSING.search(text)
    return text[: fence.start()] if fence else text


def code_span(answer: str) -> tuple[int, int]:
    """Return where the code of an answer begins and ends: the inside of one of its fenced blocks.

    Of the blocks that have an end, the last one that says it is Python counts; else the last one
    that says nothing (often it shows output); else the last. A block that the answer ends inside of
    counts where no other does, and the whole text where there is no block.
    """
    best, span = (-1, -1), (0, len(answer))
    for block in _FENCED.finditer(answer):
        tag = block["tag"].lower()
        rank = (bool(block["end"]), 2 if tag and tag in _PYTHON else 1 if not tag else 0)
        if rank >= best:
            best, span = rank, block.span("code")
    return span


def last_block(text: str) -> str:
    """Return the last fenced block of an answer, else the whole text.

    For the rewards of other trainers, which have tests but no Problem. A block that the answer ends
    inside of counts where no block is whole. Unlike `program_of_answer`, it mends nothing.
    """
    blocks = _BLOCK.findall(text) or _LAST_BLOCK.findall(text)
    return str(blocks[-1]) if blocks else text


def program_of_answer(answer: str, problem: Problem) -> str:
    """Return the program that a chat answer gives for a problem.

    For answers in a model's own words: prose, fenced blocks, a bare function body, cut off
    anywhere. Of several blocks, the last that defines what the tests call counts; what it uses and
    does not define comes from the blocks before it and from the problem's starter code (imports,
    helpers). Where no block defines it, a block is read as the rest of the starter code. Where
    nothing fits, the text itself is returned, and will not compile.
    """
    answer = answer.replace("\r\n", "\n")
    texts = _python_texts(answer)
    if not problem.entry_point:
        return _stdin_program(texts)
    name = defined_name(problem.entry_point)
    whole = [code for text in texts if (code := _whole_program(text, name)) is not None]
    if whole:
        chosen = whole[-1]
        earlier = [text for text in texts if text != chosen and _tree(text) is not None]
        return _with_missing(chosen, [_finished(problem.starter_code), *earlier], name)
    for text in reversed(texts):
        continued = _continued(problem.starter_code, text, name)
        if continued is not None:
            return continued
    return texts[-1]


def _python_texts(answer: str) -> list[str]:
    """Return the texts that may be code, in order: Python blocks, else the whole answer."""
    found = [(tag, code) for tag, code in _blocks(answer) if code.strip()]
    python = [(tag, code) for tag, code in found if tag.lower() in _PYTHON]
    texts = [_without_prompts(code) for _, code in python or found]
    if not texts:
        texts = [code for code in _INLINE.findall(answer) if _tree(code.strip()) is not None]
    return texts or [answer]


def _blocks(answer: str) -> list[tuple[str, str]]:
    """Return tag and code of each fenced block, without the indentation of its fence.

    If the first fence is the only one and closes code, the answer began inside a block: its prompt
    opened the fence.
    """
    found: list[tuple[str, str]] = []
    position = 0
    first = _OPENING.search(answer)
    if first and not first["tag"] and _begins_its_line(answer, first.start()):
        begun = answer[: first.start()]
        rest = _OPENING.search(answer, first.end())
        if begun.strip() and rest is None and _looks_like_code(begun):
            return [("python", begun)]
    while opening := _OPENING.search(answer, position):
        fence = opening["fence"]
        closing = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}[ \t]*$|{fence}", re.MULTILINE)
        end = closing.search(answer, opening.end())
        code = answer[opening.end() : end.start() if end else len(answer)]
        found.append((opening["tag"], _dedented(code)))
        if end is None:
            break
        position = end.end()
    return found


def _begins_its_line(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip()


def _looks_like_code(text: str) -> bool:
    """Return whether a text is code: it parses, as it is or as the body of a function."""
    return _tree(text) is not None or _tree(f"def _():\n{_indented(text)}") is not None


def _without_prompts(code: str) -> str:
    """Return an interactive session's input as a program; anything else as it is."""
    lines = code.split("\n")
    if not lines[0].startswith(">>> "):
        return code
    return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ", "...")))


def _stdin_program(texts: Sequence[str]) -> str:
    """Return the longest program that reads stdin and parses, else the longest text."""
    fitting = [text for text in texts if _tree(text) is not None] or list(texts)
    reading = [text for text in fitting if _READS_STDIN.search(text)] or fitting
    longest = max(reading, key=len)
    return longest if _tree(longest) is not None else next(_cut_out(longest), longest)


def _whole_program(text: str, name: str) -> str | None:
    """Return the program in a text that defines `name`, without surrounding prose; else None."""
    if re.search(rf"\b{re.escape(name)}\b", text) is None:
        return None
    candidates = (text, _dedented(text))
    for candidate in (*candidates, *_cut_out(_dedented(text))):
        tree = _tree(candidate)
        if tree is not None and name in bound_names(*tree.body):
            return candidate
    return None


def _cut_out(text: str) -> Iterator[str]:
    """Yield parts of a text that parse: from the start of a statement to a later line at column 0.

    This removes prose before and after the code, and a last statement that is incomplete.
    """
    starts = [match.start() for match in _STATEMENT.finditer(text)]
    ends = [len(text), *reversed([match.start() for match in _TOP_LEVEL.finditer(text)])]
    tries = _TRIES
    for start in starts:
        for end in ends:
            if end <= start or tries == 0:
                break
            tries -= 1
            if _tree(text[start:end]) is not None:
                yield text[start:end]
                break


def _continued(starter: str, text: str, name: str) -> str | None:
    """Return starter code + a text that continues it, whatever its indentation; else None."""
    if not starter.strip():
        return None
    start = starter if starter.endswith("\n") else starter + "\n"
    depth = _body_indentation(starter)
    body = text.strip("\n")
    dedented = _dedented(body)
    for rest in (body, _indented(dedented, depth), _indented(_first_line_dedented(body), depth)):
        for cut in (rest, *_without_ends(rest)):
            tree = _tree(start + cut)
            if tree is not None and name in bound_names(*tree.body) and _does_something(tree, name):
                return start + cut.rstrip() + "\n"
    return None


def _without_ends(body: str) -> Iterator[str]:
    """Yield a body without the lines at column 0 that follow it (tests, prose)."""
    for match in list(_TOP_LEVEL.finditer(body))[:_TRIES]:
        if match.start():
            yield body[: match.start()]
            return


def _first_line_dedented(body: str) -> str:
    """Return a dedented body whose first line alone had lost its indentation (stripped answers)."""
    first, _, others = body.partition("\n")
    return f"{first.strip()}\n{_dedented(others)}"


def _does_something(tree: ast.Module, name: str) -> bool:
    """Return whether the last definition of a name does more than hold its docstring."""
    nodes = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    found = [node for node in nodes if node.name == name]
    return not found or any(
        not isinstance(n, ast.Pass)
        and not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
        for n in found[-1].body
    )


def _body_indentation(starter: str) -> str:
    """Return how a body after the starter code is indented."""
    last = next(line for line in reversed(starter.split("\n")) if line.strip())
    indentation = last[: len(last) - len(last.lstrip())]
    return indentation + "    " if last.rstrip().endswith(":") else indentation


def _finished(starter: str) -> str:
    """Return starter code, with a `pass` if it ends after a header; "" if it is no Python."""
    if not starter.strip():
        return ""
    for text in (starter, f"{starter.rstrip()}\n{_body_indentation(starter)}pass\n"):
        if _tree(text) is not None:
            return text
    return ""


def _with_missing(program: str, sources: Sequence[str], name: str) -> str:
    """Return a program, preceded by statements of other texts that bind names it lacks."""
    tree = _tree(program)
    assert tree is not None
    trees = [other for source in sources if (other := _tree(source)) is not None]
    statements = [node for other in trees for node in other.body]
    kept: set[int] = set()
    bound = bound_names(*tree.body)
    missing = _used(tree) - bound
    while missing:
        new = [
            place
            for place, node in enumerate(statements)
            if place not in kept and name not in (names := bound_names(node)) and names & missing
        ]
        if not new:
            break
        kept.update(new)
        for place in new:
            bound |= bound_names(statements[place])
            missing |= _used(statements[place])
        missing -= bound
    pieces = [ast.unparse(statements[place]) for place in sorted(kept)]
    return "\n".join([*pieces, program]) if pieces else program


def _used(tree: ast.AST) -> set[str]:
    """Return the names that code loads and that it must find at the top level of its program."""
    local = {
        name
        for node in ast.walk(tree)
        for name in bound_at(node)
        if isinstance(node, (ast.Name, ast.arg))
    }
    return loaded_names(tree) - local - set(dir(builtins))


def _tree(text: str) -> ast.Module | None:
    """Return the syntax tree of a program, None if it does not parse or has no statement."""
    try:
        tree = parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if tree.body else None


def _dedented(text: str) -> str:
    return textwrap.dedent(text.expandtabs(4) if re.search(r"^ *\t", text, re.MULTILINE) else text)


def _indented(text: str, indentation: str = "    ") -> str:
    return textwrap.indent(textwrap.dedent(text), indentation)
