"""Which rollouts of a step are worth reading or naming, and what of them is shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

from stepcoder.method.fgo import executed_closure
from stepcoder.method.rewards import reward
from stepcoder.models.batch import Batch
from stepcoder.problems.prompts import token_spans
from stepcoder.problems.source import line_starts
from stepcoder.report.samples import FailedTest, Piece, RolloutSample, Token
from stepcoder.rollout.rollout import Rollout
from stepcoder.sandbox import CallTests, Status, StdinTests
from stepcoder.sandbox.messages import shown, shown_value
from stepcoder.sandbox.program import test_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PASSES = (Status.ACCEPTED, Status.NOT_RUN)


def worth_reading(rollouts: Sequence[Rollout], count: int = 6) -> list[Rollout]:
    """Return a few rollouts: of different problems, with different verdicts first."""
    chosen: dict[tuple[str, str], Rollout] = {}
    for rollout in rollouts:
        chosen.setdefault((rollout.verdict.status, rollout.task.problem.task_id), rollout)
    by_status: dict[str, list[Rollout]] = {}
    for (status, _), rollout in chosen.items():
        by_status.setdefault(status, []).append(rollout)
    rounds = zip_longest(*by_status.values())
    return [r for same_rank in rounds for r in same_rank if r is not None][:count]


def slowest(rollouts: Sequence[Rollout], count: int = 3) -> dict[str, list[list[str | float]]]:
    """Return the rollouts that took longest: [task_id, tokens, end] and [task_id, seconds, end].

    Engines generate many completions at a time, so what one of them takes is its tokens.
    """

    def size(rollout: Rollout) -> int:
        return len(rollout.completion.token_ids)

    def wall_s(rollout: Rollout) -> float:
        return rollout.verdict.wall_s

    generated = sorted(rollouts, key=size, reverse=True)[:count]
    judged = sorted(rollouts, key=wall_s, reverse=True)[:count]
    return {
        "generate": [
            [r.task.problem.task_id, size(r), "ended" if r.completion.stopped else "cut off"]
            for r in generated
        ],
        "judge": [
            [r.task.problem.task_id, round(wall_s(r), 3), r.verdict.status.value] for r in judged
        ],
    }


def sample_of(
    rollout: Rollout, step: int, tokenizer: PreTrainedTokenizerBase, batch: Batch
) -> RolloutSample:
    """Return what a person wants to read of a rollout, with its tokens as a step trained them."""
    task, verdict = rollout.task, rollout.verdict
    value, lines = reward(verdict), verdict.executed_lines
    if value is not None:
        lines = executed_closure(rollout.program, verdict.executed_lines)
    tokens = tokens_of(rollout, tokenizer, batch)
    code = None
    if task.in_own_words:
        code = (rollout.code_start, rollout.code_start + len(rollout.program))
        before = len(line_starts(rollout.text[: code[0]])) - 1
        lines = frozenset(line + before for line in lines)
    return RolloutSample(
        task_id=task.problem.task_id,
        step=step,
        stage=task.stage,
        description=task.problem.prompt,
        given=task.given,
        completion=rollout.text,
        executed_lines=lines,
        masked_share=sum(not token.trained for token in tokens) / max(len(tokens), 1),
        verdict=verdict,
        reward=value,
        code=code,
        prompt=pieces_of(rollout.prompt_ids, tokenizer),
        prompt_tokens=len(rollout.prompt_ids),
        tokens=tokens,
        failed=failed_test(rollout),
    )


def tokens_of(
    rollout: Rollout, tokenizer: PreTrainedTokenizerBase, batch: Batch
) -> tuple[Token, ...]:
    """Return the tokens of a rollout with what the batch says of them, if it holds the rollout.

    A batch lacks those that the judge failed on, and with a replay buffer others.
    """
    ids, packing, all_ids = rollout.completion.token_ids, batch.packing, batch.tokens.tolist()
    trained: list[bool] = [True] * len(ids)
    advantages: list[float | None] = [None] * len(ids)
    bounds = list(zip(packing.starts.tolist(), packing.ends.tolist(), strict=True))
    for prompt, row in zip(packing.prompts.tolist(), packing.responses.tolist(), strict=True):
        (start, middle), (begin, end) = bounds[prompt], bounds[row]
        if (*all_ids[start:middle], *all_ids[begin:end]) == (*rollout.prompt_ids, *ids):
            trained = batch.executed_mask[begin:end].tolist()
            if batch.advantages is not None:
                advantages = [round(a, 3) for a in batch.advantages[begin:end].tolist()]
            break
    names = [
        name_of(i, tokenizer) if start == end else ""
        for i, (start, end) in zip(ids, rollout.spans, strict=True)
    ]
    return tuple(map(Token, (end for _, end in rollout.spans), trained, advantages, names))


def pieces_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """Return the text of a prompt's tokens, special tokens apart."""
    text, spans = token_spans(tokenizer, (), ids)
    pieces: list[Piece] = []
    for special, group in groupby(zip(ids, spans, strict=True), key=lambda t: t[1][0] == t[1][1]):
        found = list(group)
        if special:
            pieces += [Piece(name_of(i, tokenizer), special=True) for i, _ in found]
        else:
            pieces.append(Piece(text[found[0][1][0] : found[-1][1][1]], special=False))
    return tuple(pieces)


def name_of(token_id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of one token, special or not."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return str(backend.decode([token_id], skip_special_tokens=False))


def failed_test(rollout: Rollout) -> FailedTest | None:
    """Return what the first test that did not pass asked for, None if none ran."""
    problem, tests = rollout.task.problem, rollout.task.problem.tests
    verdicts = enumerate(rollout.verdict.tests)
    index = next((i for i, test in verdicts if test.status not in PASSES), None)
    if index is None:
        return None
    asked, expected = "", ""
    if isinstance(tests, CallTests):
        asked = f"{problem.entry_point}({', '.join(map(shown_value, tests.inputs[index]))})"
        expected = shown_value(tests.outputs[index])
    elif isinstance(tests, StdinTests):
        asked, expected = tests.inputs[index], tests.outputs[index]
    else:
        asked = test_text(tests, index)
    return FailedTest(index + 1, shown(asked), shown(expected))
