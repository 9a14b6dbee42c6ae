"""Python source text: its syntax tree, where its lines start, and which lines form a statement.

Takes source text; gives character offsets and 1-based line numbers. Lines are counted as the Python
compiler counts them: a line ends at LF, CR LF or a lone CR, and at nothing else.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass

from stepcoder.sandbox import syntax

_NEWLINE = re.compile(r"\r\n|\r|\n")
_LAYOUT = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One logical line: a simple statement, the header of a compound one, or several with `;`.

    It covers the physical lines `first` to `last` (1-based, inclusive); `depth` is the number of
    blocks around it; `word` is its first token.
    """

    first: int
    last: int
    depth: int
    word: str

    @property
    def lines(self) -> range:
        """The numbers of its physical lines."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Outline:
    """A source text that was read once: its logical lines, in order, and its syntax tree."""

    lines: list[LogicalLine]
    tree: ast.Module


def outline(source: str) -> Outline:
    """Return the outline of a source text. Raises SyntaxError for what is not a program."""
    tree = parse(source)
    return Outline(logical_lines(source), tree)


def parse(source: str) -> ast.Module:
    """Return the syntax tree, without warnings; raise SyntaxError for all that is not a program.

    Python's parser raises other exceptions for some texts (NUL characters, lone surrogates, very
    deep nesting), and warns about some valid ones.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return syntax.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or type(error).__name__) from None


def line_starts(source: str) -> list[int]:
    """Return the character offset of the start of each line; line n starts at `[n - 1]`."""
    return [0, *(match.end() for match in _NEWLINE.finditer(source))]


def split_lines(source: str) -> list[str]:
    """Return the text of each line without its line end; a final line end starts an empty line."""
    return _NEWLINE.split(source)


def logical_lines(source: str) -> list[LogicalLine]:
    """Return the logical lines of a source text that parses, in order.

    Comments, blank lines and lines within a string or brackets start no logical line. Raises
    SyntaxError if the text cannot be split into tokens.
    """
    # tokenize disagrees with the compiler about a lone CR, so give it LF only: no line moves.
    readline = io.StringIO(_NEWLINE.sub("\n", source)).readline
    lines: list[LogicalLine] = []
    depth = 0
    first: tokenize.TokenInfo | None = None
    try:
        for token in tokenize.generate_tokens(readline):
            if token.type == tokenize.INDENT:
                depth += 1
            elif token.type == tokenize.DEDENT:
                depth -= 1
            elif token.type == tokenize.NEWLINE and first is not None:
                lines.append(LogicalLine(first.start[0], token.start[0], depth, first.string))
                first = None
            elif first is None and token.type not in _LAYOUT and token.type != tokenize.NEWLINE:
                first = token
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None
    return lines
