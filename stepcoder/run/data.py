"""The problems of a run: loaded or embedded, split into parts, fingerprinted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stepcoder import suite
from stepcoder.config import EMBEDDED, Config, DataConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import given_parts
from stepcoder.problems.problem import Problem, ProblemError, fingerprint, load_problems, split_of
from stepcoder.problems.prompts import fits, prompt_text, starter_part
from stepcoder.user_code import is_user_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainingData:
    """Problems to train on, problems held out, and what identifies them on a resume."""

    supervised: tuple[Problem, ...]  # whose solutions the supervised phase shows
    train: tuple[Problem, ...]  # what RL trains on
    validation: tuple[Problem, ...]  # evaluated during the run
    test: tuple[Problem, ...]  # evaluated before and after RL only: nothing is chosen by them
    fingerprint: str
    skipped: tuple[str, ...] = ()  # one line for each broken record


def load_data(config: DataConfig, supervised_share: float) -> TrainingData:
    """Load the configured problems.

    With `split: file` the file's own names decide (train; validation; eval, the test problems),
    and a stable hash of the task_id where it names no training problem; with `split: hash` the hash
    decides for all (no test problems). Below a supervised share of 1, another hash sets the
    supervised phase's problems apart from RL's.

    Raises:
        RunError: no problem to train on, or (strict) a broken record.
    """
    problems, skipped = _load("data.path", config.path, config.strict)
    if config.validation_path is None:
        train, validation, test = _split(problems, config)
    else:
        validation, more = _load("data.validation_path", config.validation_path, config.strict)
        train, test, skipped = problems, (), skipped + more
    if config.limit is not None:
        train, validation, test = (p[: config.limit] for p in (train, validation, test))
    if not train:
        raise RunError(
            f"{config.path}: no problem to train on ({len(problems)} loaded, {len(skipped)} "
            "skipped); check data.path, data.split and data.validation_share"
            + "".join(f" (skipped: {line})" for line in skipped[:1])
        )
    supervised, rest = train, train
    if supervised_share < 1:
        parts = [split_of(f"supervised {p.task_id}", supervised_share) for p in train]
        supervised = _of_part(train, parts, "validation")
        rest = _of_part(train, parts, "train")
    if not rest:
        raise RunError(f"sft.share: {supervised_share} leaves no problem for RL; give less, or 1")
    marks = fingerprint(train + validation + test)
    return TrainingData(supervised, rest, validation, test, marks, skipped)


def fitting(
    data: TrainingData, tokenizer: PreTrainedTokenizerBase, config: Config
) -> tuple[TrainingData, str]:
    """Return the problems whose prompts fit, and a line that names the others ("" for none).

    A problem is trained on only if the prompts of all its stages have at most
    `prompt.max_prompt_tokens` tokens; elsewhere it is stage 0 that counts. The fingerprint stays.

    Raises:
        RunError: nothing is left to train on.
    """
    template, most = config.prompt.template, config.prompt.max_prompt_tokens
    left_out: dict[str, None] = {}  # in order, each once

    def that_fit(problems: Sequence[Problem], *, stages: bool = False) -> tuple[Problem, ...]:
        kept = []
        for p in problems:
            parts = given_parts(p, config.curriculum.scopes) if stages else [starter_part(p)]
            if all(fits(tokenizer, prompt_text(p, part, template), most) for part in parts):
                kept.append(p)
            else:
                left_out[p.task_id] = None
        return tuple(kept)

    found = replace(
        data,
        supervised=that_fit(data.supervised),
        train=that_fit(data.train, stages=config.curriculum.cccs),
        validation=that_fit(data.validation),
        test=that_fit(data.test),
    )
    line = left_out_line(list(left_out), "prompt.max_prompt_tokens", most)
    if not found.train or (data.supervised and not found.supervised):
        raise RunError(f"no problem is left to train on: {line}")
    return found, line


def left_out_line(task_ids: Sequence[str], option: str, most: int, shown: int = 5) -> str:
    """Return the line that names the problems whose prompts do not fit; "" for none."""
    if not task_ids:
        return ""
    more = f" and {len(task_ids) - shown} more" if len(task_ids) > shown else ""
    named = ", ".join(task_ids[:shown])
    return f"{len(task_ids)} problems left out, prompts above {option}={most}: {named}{more}"


def evenly_spaced(problems: Sequence[Problem], limit: int | None) -> Sequence[Problem]:
    """Return at most `limit` problems, evenly from all: sets come ordered by kind."""
    count = len(problems)
    if limit is None or limit >= count:
        return problems
    return [problems[i * count // limit] for i in range(limit)]


def _load(option: str, path: str, strict: bool) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    if path == EMBEDDED:
        return suite.problems(), ()
    if not is_user_code(path) and not Path(path).exists():
        raise RunError(f'{option}: "{path}" does not exist; give a file, a folder or "{EMBEDDED}"')
    try:
        report = load_problems(path, strict=strict)
    except ProblemError as error:
        raise RunError(str(error)) from None
    usable = tuple(p for p in report.problems if p.canonical_solution)
    if without := len(report.problems) - len(usable):
        line = f"{path}: {without} problems without a solution left out; training needs one of each"
        return usable, (*report.skipped, line)
    return usable, report.skipped


def _split(problems: Sequence[Problem], config: DataConfig) -> Iterator[tuple[Problem, ...]]:
    """Give the problems of training, validation and test."""
    if config.split == "file" and any(p.split == "train" for p in problems):
        parts = [p.split for p in problems]
    else:
        parts = [split_of(p.task_id, config.validation_share) for p in problems]
    for name in ("train", "validation", "eval"):
        yield _of_part(problems, parts, name)


def _of_part(problems: Sequence[Problem], parts: Sequence[str], name: str) -> tuple[Problem, ...]:
    """Return the problems whose part has this name; `parts` has one for each problem."""
    return tuple(p for p, part in zip(problems, parts, strict=True) if part == name)
