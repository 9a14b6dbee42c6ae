"""Samples: single rollouts for people to read, with the lines that ran marked.

Takes a RolloutSample (plain data of one judged rollout), gives text, an HTML fragment for the
report, and JSON data and back. The policy loss trains on the tokens of the lines that ran
(StepCoder, arXiv 2402.01391, section 3).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from stepcoder.problems.answers import extract_completion
from stepcoder.problems.source import line_starts, split_lines
from stepcoder.report.html import fragment, plain_text
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

LONGEST_VALUE = 400  # characters that are kept of a message or a returned value
TESTS_SHOWN = 8  # on a page, tests alike counting once
SHADES = (0.05, 0.3, 0.75, 1.5)  # absolute advantages from which on a color is darker


class Piece(NamedTuple):
    """A part of a prompt: one special token, or the text between two of them."""

    text: str
    special: bool


class Token(NamedTuple):
    """One token of a completion: how the update took it.

    `end` is where its characters end in the completion; `name` is the text of a token without any,
    such as the end of the sequence. `trained` is False where the policy loss leaves it out (FGO,
    gates), `advantage` None where the update did not see the rollout.
    """

    end: int
    trained: bool
    advantage: float | None
    name: str = ""


class FailedTest(NamedTuple):
    """What the first failing test asked (a call, stdin, code), and what it expected, if known."""

    number: int  # from 1
    asked: str
    expected: str


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """One judged rollout.

    `given` + `completion` is the program followed by whatever the policy wrote after its closing
    fence; `executed_lines` are 1-based lines of it. `masked_share` is the share of the response's
    tokens that the policy loss leaves out. `reward` is None where the judge itself failed. Older
    runs have no `prompt`, which is what the model saw, `tokens` or `failed`.
    """

    task_id: str
    step: int
    stage: int
    description: str
    given: str
    completion: str
    executed_lines: frozenset[int]
    masked_share: float
    verdict: Verdict
    reward: float | None
    # Where the code lies in the completion, if words are around it; its lines are then numbered
    # from the beginning of the completion.
    code: tuple[int, int] | None = None
    prompt: tuple[Piece, ...] = ()
    prompt_tokens: int = 0
    tokens: tuple[Token, ...] = ()
    failed: FailedTest | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a sample: its first `given` characters were given, the policy wrote the rest.

    `part` is who wrote it: "given" (all of it), "written", or "outside" the code (the closing fence
    and what follows). Only lines of the code can have `ran`.
    """

    text: str
    part: Literal["given", "written", "outside"]
    given: int
    ran: bool


def lines_of(sample: RolloutSample) -> list[Line]:
    """Return the lines of given part and completion; a final line end opens no further line."""
    whole = sample.given + sample.completion
    code = sample.code or (0, len(extract_completion(sample.completion)))
    code_start, code_end = (len(sample.given) + place for place in code)
    starts = line_starts(whole)
    lines = []
    spans = pairwise([*starts, len(whole)])
    for number, (text, (start, end)) in enumerate(zip(split_lines(whole), spans, strict=True), 1):
        if number == len(starts) and not text and number > 1:
            continue
        given = min(max(len(sample.given) - start, 0), len(text))
        part: Literal["given", "written", "outside"] = "written"
        if end <= len(sample.given):
            part = "given"
        elif start >= code_end or end <= code_start:
            part = "outside"
        ran = part != "outside" and number in sample.executed_lines
        lines.append(Line(text, part, given, ran))
    return lines


def to_text(sample: RolloutSample) -> str:
    """Return a sample as text: a heading, the description, the program with its gutter, the tests.

    The gutter has the line number, `│` for a given line, `✓` for one that ran, `·` for one that did
    not while others did.
    """
    return plain_text("sample.txt", **_values(sample))


def to_html(sample: RolloutSample, number: int = 1) -> Markup:
    """Return a sample, the `number`-th of its step, as an HTML <article> of the report's page."""
    tests = _tests(sample)
    failed = sample.failed
    return fragment(
        "sample.html",
        **{**_values(sample), "tests": tests[:TESTS_SHOWN]},
        number=number,
        more_tests=len(tests[TESTS_SHOWN:]),
        parts=_parts(sample),
        got=failed and sample.verdict.tests[failed.number - 1].got,
    )


def _values(sample: RolloutSample) -> dict[str, Any]:
    """Return what the templates show."""
    return {
        "sample": sample,
        "facts": _facts(sample),
        "description": split_lines(sample.description.strip()),
        "lines": _marked(sample),
        "tests": _tests(sample),
    }


def to_dict(sample: RolloutSample) -> dict[str, Any]:
    """Return a sample as data for `from_dict`, its verdict's longest texts cut.

    It is JSON but for the sets of lines: json.dumps(data, default=sorted).
    """
    data = asdict(sample)
    for verdict in (data["verdict"], *data["verdict"]["tests"]):
        for key in ("message", "got"):
            verdict[key] = verdict.get(key) and verdict[key][:LONGEST_VALUE]
    return data


def from_dict(data: Mapping[str, Any]) -> RolloutSample:
    """Return the sample of `to_dict`'s data after a way through JSON."""
    new = {
        "executed_lines": frozenset(data["executed_lines"]),
        "verdict": verdict_from(data["verdict"]),
        "code": tuple(data["code"]) if data.get("code") else None,
        "prompt": tuple(Piece(*piece) for piece in data.get("prompt", ())),
        "tokens": tuple(Token(*token) for token in data.get("tokens", ())),
        "failed": FailedTest(*data["failed"]) if data.get("failed") else None,
    }
    return RolloutSample(**{**data, **new})


def verdict_from(data: Mapping[str, Any]) -> Verdict:
    """Return the verdict of `asdict`'s data after a way through JSON."""

    def restored(verdict: Mapping[str, Any]) -> dict[str, Any]:
        lines = frozenset(verdict["executed_lines"])
        return {**verdict, "status": Status(verdict["status"]), "executed_lines": lines}

    tests = tuple(TestVerdict(**restored(test)) for test in data["tests"])
    known = {name: value for name, value in restored(data).items() if name != "got"}
    return Verdict(**{**known, "tests": tests})  # "got": only tests have one


def _facts(sample: RolloutSample) -> list[str]:
    """Return what the heading says beside the task and its verdict."""
    reward = "no reward" if sample.reward is None else f"reward {sample.reward:+.2f}"
    masked = f"{sample.masked_share:.0%} of the response masked"
    return [f"step {sample.step}", f"stage {sample.stage}", reward, masked]


def _marked(sample: RolloutSample) -> list[tuple[Line, Literal["ran", "skipped", "unmarked"]]]:
    """Return the lines with their marks: all are "unmarked" if no line ran."""
    lines = lines_of(sample)
    anything_ran = any(line.ran for line in lines)
    return [
        (line, "ran" if line.ran else "skipped" if told else "unmarked")
        for line in lines
        for told in [anything_ran and line.part != "outside"]
    ]


def _parts(sample: RolloutSample) -> list[list[tuple[str, str, str]]]:
    """Return what each line shows, if the tokens are known: text, class and title of its parts.

    A token has the shade of its advantage, its part of a line end is a mark of its own ("end"), and
    one without characters is shown by its name ("name").
    """
    if not sample.tokens:
        return []
    whole, given = sample.given + sample.completion, len(sample.given)
    lines = lines_of(sample)
    starts = line_starts(whole)[: len(lines)]
    parts = [[(line.text[: line.given], "given", "")] if line.given else [] for line in lines]
    begin = 0
    for token in sample.tokens:
        shade, title = _shade(token)
        first = bisect_right(starts, given + begin) - 1
        if token.name:
            parts[first].append((repr(token.name)[1:-1], f"name {shade}", title))
        for below, text in enumerate(split_lines(whole[given + begin : given + token.end])):
            if below:  # its line end is shown on the line before
                parts[min(first + below, len(parts)) - 1].append(("", f"end {shade}", title))
            if text:
                parts[min(first + below, len(parts) - 1)].append((text, shade, title))
        begin = max(begin, token.end)
    return parts


def _shade(token: Token) -> tuple[str, str]:
    """Return class and title of a token: "p4" to "p1", "zero", "n1" to "n4", or "masked"."""
    value = token.advantage
    if not token.trained:
        return "masked", "masked" if value is None else f"masked ({value:+.2f})"
    if value is None:
        return "zero", ""
    level = bisect_right(SHADES, abs(value))
    return (f"{'p' if value > 0 else 'n'}{level}" if level else "zero"), f"{value:+.2f}"


def _tests(sample: RolloutSample) -> list[tuple[str, Status, str]]:
    """Return name, status and evidence of the tests; neighbors alike are one ("tests 2-4")."""
    found: list[tuple[str, Status, str]] = []
    first = 1
    outcomes = [(test.status, _evidence(test)) for test in sample.verdict.tests]
    for outcome, alike in groupby(outcomes):
        last = first + len(list(alike)) - 1
        name = f"test {first}" if first == last else f"tests {first}-{last}"
        found.append((name, *outcome))
        first = last + 1
    return found or [("no test ran", sample.verdict.status, _evidence(sample.verdict))]


def _evidence(verdict: TestVerdict | Verdict) -> str:
    """Return on one line where and why a test failed, with ": " before it; empty if it passed."""
    if verdict.status is Status.ACCEPTED:
        return ""
    reason = " ".join(verdict.message.split()) or verdict.error_type or ""
    number = f"line {verdict.error_line}"
    line = f" ({number})" if verdict.error_line and number not in reason else ""
    return (f": {reason[:LONGEST_VALUE]}" if reason else "") + line
