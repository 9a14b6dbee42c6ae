"""The code in what a model wrote, for training, evaluation, the judge's files and other trainers.

| function | the text is | the code is |
|---|---|---|
| `extract_completion` | a completion whose prompt opened the fence | all before the closing fence |
| `code_span` | an answer in training | the block that counts, as it stands |
| `program_of_answer` | an answer that is judged | a whole program: the same block, mended |

The first two keep character offsets, so a token of the response has its place in the program. The
last also adds what the block lacks: imports and helpers of earlier blocks and of the starter code,
the rest of a function, the class of a bare method.

Which block counts: thinking (`<think>` to `</think>`) is no part of the answer, nor is what follows
a special token such as `<|endoftext|>`. Of the blocks that are left, the last complete program: one
that defines what the tests call, or reads stdin and prints. Uses of an earlier block, its tests,
its output and stubs are none; a block that the answer ends inside of counts only where no other
does.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepcoder.problems.names import (
    DEFINITIONS,
    bound_at,
    bound_names,
    called_name,
    defined_name,
    loaded_names,
)
from stepcoder.problems.problem import Problem
from stepcoder.problems.source import parse
from stepcoder.problems.template import FENCE

_CLOSING = re.compile(rf"^{FENCE}", re.MULTILINE)
# An opening fence may follow words on its line; a closing one ends a line or begins it.
_OPENING = re.compile(r"(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+#.-]*)[^\n`]*(?:\n|\Z)")
_INLINE = re.compile(rf"{FENCE}(?:(?:python3?|py)\b)?([^\n`]+){FENCE}")
_PYTHON = {"", "python", "py", "python3", "py3", "ipython", "pycon"}
_THOUGHT = r"(?:think|thinking|thought|reasoning)>"
_THOUGHT_BEGINS = re.compile(rf"^[ \t]*<{_THOUGHT}", re.MULTILINE)
_THOUGHT_ENDS = re.compile(rf"</{_THOUGHT}")
# Names of special tokens that end an answer; where one stands inside a line it is code or prose.
_SPECIAL = r"(?:<\|[\w ]{1,30}\|>|<｜[^｜\n]{1,40}｜>|</s>|<eos>|<end_of_turn>)"
_END = re.compile(rf"{_SPECIAL}(?=\s*?(?:\r?\n|\Z)|{_SPECIAL})")
_TURN = re.compile(rf"\s*(?:(?:{_SPECIAL}|<s>)(?:assistant\b)?\s*)*")
_STATEMENT = re.compile(r"^(?:from|import|def|class|async def|@)\b|^@|^\w+ *=(?!=)", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^(?=[^\s#)\]}])", re.MULTILINE)
_READS_STDIN = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b")
_PRINTS = re.compile(r"\bprint\b|\bstdout\b")
_TRIES = 200  # of parses, for answers in which code and prose are not told apart by a fence


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: the characters inside it, and whether it has an end."""

    tag: str
    begin: int
    end: int
    closed: bool = True


def extract_completion(text: str) -> str:
    """Return the code of a completion: everything before a line that starts with a closing fence.

    For completions of prompts that open the fence (`prompts.TEMPLATE`), in training and where
    `evaluate` samples the same way. The code is a prefix of `text`, so offsets into it are offsets
    into the response. A completion without a closing fence is code to its end, or to a special
    token.
    """
    ends = [match.start() for match in (_CLOSING.search(text), _END.search(text)) if match]
    return text[: min(ends, default=len(text))]


def code_span(answer: str, entry_point: str | None = None) -> tuple[int, int]:
    """Return where the code of an answer begins and ends: the inside of the block that counts.

    All of the answer, without thinking and special tokens, where it has no block.
    """
    blocks = _candidates(answer)
    place = _chosen(blocks, [answer[b.begin : b.end] for b in blocks], entry_point)
    return blocks[place].begin, blocks[place].end


def program_of_answer(answer: str, problem: Problem) -> str:
    """Return the program that a chat answer gives for a problem (`mended_program`)."""
    return mended_program(answer, problem.entry_point, problem.starter_code)


def mended_program(answer: str, entry_point: str | None = None, starter_code: str = "") -> str:
    """Return the program of an answer in a model's own words.

    What the block that counts uses and does not define comes from the blocks before it and from the
    starter code. Where no block defines what the tests call, one is read as a bare method, or as
    the rest of the starter code. Where nothing fits, the text itself is returned, and will not
    compile.
    """
    answer = answer.replace("\r\n", "\n")
    blocks = _candidates(answer)
    texts = [_without_prompts(_dedented(answer[b.begin : b.end])) for b in blocks]
    place = _chosen(blocks, texts, entry_point)
    starter = _finished(starter_code)
    if not entry_point:
        program = texts[place]
        if _tree(program) is None:
            whole = (starter_code + program, next(_cut_out(program), program))
            return next((text for text in whole if _tree(text) is not None), program)
        return _with_missing(program, [starter, *texts[:place]], None)
    name = defined_name(entry_point)
    # The one that counts comes first, then the others from the last one on.
    in_order = [texts[place], *(t for i, t in reversed([*enumerate(texts)]) if i != place)]
    for shaped in (_whole_program, _of_another_shape):
        for text in in_order:
            if (found := shaped(text, entry_point)) is not None:
                others = (t for t in texts if t != text)
                return _with_missing(found, [starter, *others], name)
    for text in in_order:
        if (continued := _continued(starter_code, text, name)) is not None:
            return continued
    return texts[place]


def mended_sample(text: str, problem: Problem) -> str:
    """Return the program of a file's sample: as it stands, unless only its mended form compiles."""
    if _tree(text) is not None:
        return text
    mended = program_of_answer(text, problem)
    return mended if _tree(mended) is not None else text


def _answer_span(text: str) -> tuple[int, int]:
    """Return where the answer itself lies: behind thinking, before the end of the turn.

    Of thinking that does not end, nothing is an answer.
    """
    turn = _TURN.match(text)
    begin = turn.end() if turn and turn[0].strip() else 0
    end = _END.search(text, begin)
    stop = end.start() if end else len(text)
    for thought in _THOUGHT_ENDS.finditer(text, begin, stop):
        if _begins_its_line(text, thought.start()) or _THOUGHT_BEGINS.match(text.lstrip()):
            begin = thought.end()
    unfinished = _THOUGHT_BEGINS.search(text, begin, stop)
    return begin, unfinished.start() if unfinished else stop


def _candidates(answer: str) -> list[_Block]:
    """Return the blocks that may be the program, in order.

    Those that say that they are Python, or say nothing, if there are any. Where there is no block,
    code within a line of the text, else the whole answer.
    """
    begin, end = _answer_span(answer)
    blocks = _blocks(answer, begin, end)
    blocks = [b for b in blocks if b.tag.lower() in _PYTHON] or blocks
    filled = [b for b in blocks if answer[b.begin : b.end].strip()]
    blocks = filled or [b for b in blocks if b.closed]
    inline = [_Block("", *m.span(1)) for m in _INLINE.finditer(answer, begin, end)]
    inline = [b for b in inline if _tree(answer[b.begin : b.end].strip()) is not None]
    return blocks or inline or [_Block("", begin, end)]


def _blocks(answer: str, begin: int, stop: int) -> list[_Block]:
    """Return the fenced blocks of a part of an answer.

    If the first fence is the only one and closes code, the answer began inside a block: its prompt
    opened the fence.
    """
    found: list[_Block] = []
    first = _OPENING.search(answer, begin, stop)
    if first and not first["tag"] and _begins_its_line(answer, first.start()):
        begun = answer[begin : first.start()]
        alone = _OPENING.search(answer, first.end(), stop) is None
        if begun.strip() and alone and _looks_like_code(begun):
            return [_Block("python", begin, first.start())]
    position = begin
    while opening := _OPENING.search(answer, position, stop):
        fence = rf"{opening['fence'][0]}{{{len(opening['fence'])},}}"
        closing = re.compile(
            rf"^[ \t]*{fence}(?P<next>[ \t]*\w+[ \t]*\r?$)?|{fence}[ \t]*\r?$", re.MULTILINE
        )
        end = closing.search(answer, opening.end(), stop)
        found.append(
            _Block(opening["tag"], opening.end(), end.start() if end else stop, end is not None)
        )
        if end is None:
            break
        # "```python" where an end was due: a block that was left open, and the next one.
        position = end.start() if end["next"] else end.end()
    return found


def _chosen(blocks: Sequence[_Block], texts: Sequence[str], entry_point: str | None) -> int:
    """Return the place of the last block among those that are most of a program."""
    name = defined_name(entry_point) if entry_point else None
    known: set[str] = set()
    readers: set[str] = set()
    ranks = []
    for place, (block, text) in enumerate(zip(blocks, texts, strict=True)):
        tree = _tree(_dedented(text))
        rank = 0 if tree is None else _rank(text, tree, name, known, readers)
        ranks.append((rank, block.closed, place))
        if tree is not None:
            known |= _defined(tree)
            readers |= _defined(tree) if _READS_STDIN.search(text) else set()
    return max(ranks)[-1]


def _rank(text: str, tree: ast.Module, name: str | None, known: set[str], readers: set[str]) -> int:
    """Return how much of a program a text is.

    `known` are the names that earlier texts define, `readers` those of texts that read stdin.
    """
    if name is not None and name in _defined(tree):
        return 3 if _does_something(tree, name) else 2
    if all(isinstance(n, ast.Expr) and not isinstance(n.value, ast.Call) for n in tree.body):
        return 0  # an output
    used, imports = _used(tree), (ast.Import, ast.ImportFrom)
    acts = any(not isinstance(node, (*DEFINITIONS, *imports)) for node in tree.body)
    prints = _PRINTS.search(text) or used & readers
    if name is None and (_READS_STDIN.search(text) or used & readers):
        return 5 if acts and prints else 4
    own = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
    imported = bound_names(*(node for node in tree.body if isinstance(node, imports)))
    if all(word.lower().startswith("test") for word in own) and (imported | used) & known:
        return 1  # it uses or tests an earlier one
    return 3 if name is None and prints else 2


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a text defines; an import from a module of the user's own does not."""
    own = [
        node
        for node in tree.body
        if not isinstance(node, ast.ImportFrom)
        or (node.module or "").partition(".")[0] in sys.stdlib_module_names
    ]
    return bound_names(*own)


def _of_another_shape(text: str, entry_point: str) -> str | None:
    """Return a bare method with its class, or a function out of a class; else None."""
    tree = _tree(text)
    if tree is None:
        return None
    name, called = defined_name(entry_point), called_name(entry_point)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == called != name:
            arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            value = called if arguments[:1] == ["self"] else f"staticmethod({called})"
            return f"{text.rstrip()}\n\n\nclass {name}:\n    {called} = {value}\n"
        if isinstance(node, ast.ClassDef) and called == name and name in bound_names(*node.body):
            return f"{text.rstrip()}\n\n\n{name} = {node.name}().{name}\n"
    return None


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


def _whole_program(text: str, entry_point: str) -> str | None:
    """Return the program in a text that defines what tests call, without prose; else None."""
    name = defined_name(entry_point)
    if re.search(rf"\b{re.escape(name)}\b", text) is None:
        return None
    candidates = (text, _dedented(text))
    for candidate in (*candidates, *_cut_out(_dedented(text))):
        tree = _tree(candidate)
        if tree is not None and name in _defined(tree):
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


def _with_missing(program: str, sources: Sequence[str], name: str | None) -> str:
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
