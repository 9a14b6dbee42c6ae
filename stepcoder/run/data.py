"""The problems of a run: loaded or embedded, split into parts, fingerprinted."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stepcoder import suite
from stepcoder.config import EMBEDDED, Config, DataConfig
from stepcoder.errors import RunError
from stepcoder.method.curriculum import given_parts
from stepcoder.problems.files import part_named
from stepcoder.problems.problem import (
    LoadReport,
    Problem,
    ProblemError,
    fingerprint,
    load_problems,
    name_in_set,
    split_of,
)
from stepcoder.problems.prompts import fits, prompt_text, starter_part
from stepcoder.problems.sources import columns_of, sources_of
from stepcoder.sandbox.program import CallTests, StdinTests, Tests
from stepcoder.user_code import is_user_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SKIPPED = "skipped.txt"  # in the run folder: why each skipped record was
SHOWN = 5  # names in a line, and skipped records that get a line of their own


@dataclass(frozen=True)
class TrainingData:
    """Problems to train on, problems held out, and what identifies them on a resume."""

    supervised: tuple[Problem, ...]  # whose solutions the supervised phase shows
    train: tuple[Problem, ...]  # what RL trains on
    validation: tuple[Problem, ...]  # evaluated during the run
    test: tuple[Problem, ...]  # evaluated before and after RL only: nothing is chosen by them
    fingerprint: str
    weights: Mapping[str, float] = field(default_factory=dict)  # by task_id, where not 1
    notes: tuple[str, ...] = ()  # a line for each thing that was skipped, left out or held out

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that are attempted."""
        return (*self.train, *self.validation, *self.test)


class _Loaded(NamedTuple):
    path: str
    weight: float
    report: LoadReport


def load_data(
    config: DataConfig, supervised_share: float, folder: Path | None = None
) -> TrainingData:
    """Load the configured problems; all skipped records are listed in a file of the run folder.

    The split of a file is kept: its training problems train, those of its validation part are
    evaluated during the run, those of its test part before and after RL. Where it has no validation
    part, and with `split: hash`, a stable hash of the task_id holds out a share of the problems
    that are not the test part's. A validation path takes the place of both. A problem that is held
    out never trains, whatever its name. Below a supervised share of 1, another hash sets the
    supervised phase's problems apart from RL's.

    Raises:
        RunError: no problem to train on, too many records skipped, or (strict) a broken record.
    """
    loaded = _load("data.path", config.path, config)
    others = _load("data.validation_path", config.validation_path, config)
    notes = _list_skipped([*loaded, *others], config, folder)
    problems, weights = _merged(loaded)
    if repeated := sum(len(report.problems) for _, _, report in loaded) - len(problems):
        notes.append(f"{repeated} problems are in several files: the first is kept")
    parts = [part_named(str(p.split)) or str(p.split) for p in problems]
    train, validation, test = (
        _of_part(problems, parts, n) for n in ("train", "validation", "eval")
    )
    unused = Counter(part for part in parts if part not in ("train", "validation", "eval"))
    if config.validation_path is not None:
        unused.update(["validation"] * len(validation))
        validation = _held_out_part(_merged(others)[0])
    elif config.split == "hash" or not validation:
        # What the file holds out for validation may train here: the hash decides anew.
        train, validation = _held_out_by_hash((*train, *validation), config)
        notes.append(_held_out_line(len(train), len(validation), config))
    if unused:
        named = ", ".join(f"{part} {count}" for part, count in unused.items())
        notes.append(f"{config.path}: {unused.total()} problems are not used ({named})")
    train, note = _without(train, (*validation, *test))
    notes += [note] * bool(note)
    if config.limit is not None:
        train, validation, test = (p[: config.limit] for p in (train, validation, test))
    if not train:
        raise RunError(_nothing_to_train_on(config, loaded, Counter(parts), note))
    supervised = tuple(p for p in train if p.canonical_solution)
    if without := len(train) - len(supervised):
        notes.append(
            f"{without} of {len(train)} training problems have no solution: RL trains whole "
            "programs on them (stage 0), and the supervised phase leaves them out"
        )
    rest = train
    if supervised_share < 1:
        shares = [split_of(f"supervised {p.task_id}", supervised_share) for p in supervised]
        supervised = _of_part(supervised, shares, "validation")
        shown = {p.task_id for p in supervised}
        rest = tuple(p for p in train if p.task_id not in shown)
    if not rest:
        raise RunError(f"sft.share: {supervised_share} leaves no problem for RL; give less, or 1")
    marks = fingerprint(train + validation + test)
    if weights:
        marks = hashlib.sha256(f"{marks} {sorted(weights.items())}".encode()).hexdigest()
    return TrainingData(supervised, rest, validation, test, marks, weights, tuple(notes))


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


def left_out_line(task_ids: Sequence[str], option: str, most: int) -> str:
    """Return the line that names the problems whose prompts do not fit; "" for none."""
    if not task_ids:
        return ""
    return f"{len(task_ids)} problems left out, prompts above {option}={most}: {_named(task_ids)}"


def _named(task_ids: Sequence[str]) -> str:
    more = f" and {len(task_ids) - SHOWN} more" if len(task_ids) > SHOWN else ""
    return ", ".join(task_ids[:SHOWN]) + more


def evenly_spaced(problems: Sequence[Problem], limit: int | None) -> Sequence[Problem]:
    """Return at most `limit` problems, evenly from all: sets come ordered by kind."""
    count = len(problems)
    if limit is None or limit >= count:
        return problems
    return [problems[i * count // limit] for i in range(limit)]


def _load(option: str, paths: str | None, config: DataConfig) -> list[_Loaded]:
    """Load the files that an option names, none for None."""
    if paths is None:
        return []
    try:
        sources, columns = sources_of(paths), columns_of(config.columns)
    except ValueError as error:
        raise RunError(f"{option} or data.columns: {error}") from None
    found = []
    for path, weight in sources:
        if path == EMBEDDED:
            report = LoadReport(suite.problems())
        elif not is_user_code(path) and not Path(path).exists():
            raise RunError(
                f'{option}: "{path}" does not exist; give a file, a folder or "{EMBEDDED}"'
            )
        else:
            try:
                report = load_problems(path, strict=config.strict, columns=columns)
            except ProblemError as error:
                raise RunError(str(error)) from None
        found.append(_Loaded(path, weight, report))
    return found


def _merged(loaded: Iterable[_Loaded]) -> tuple[tuple[Problem, ...], dict[str, float]]:
    """Return the problems of several files and their weights; the first of a name is kept.

    Another problem of the same name gets the name of its file as well.
    """
    found: dict[str, Problem] = {}
    weights: dict[str, float] = {}
    for path, weight, report in loaded:
        for problem in report.problems:
            name, before = problem.task_id, found.get(problem.task_id)
            if before is not None and _statement(before) != _statement(problem):
                name = f"{Path(path).name}/{name}"
            if name not in found:
                found[name] = replace(problem, task_id=name)
                if weight != 1:
                    weights[name] = weight
    return tuple(found.values()), weights


def _list_skipped(loaded: Sequence[_Loaded], config: DataConfig, folder: Path | None) -> list[str]:
    """Write why each record was skipped to a file of the run folder; return the lines to show.

    Raises:
        RunError: more than `max_skipped` of the records of a file were skipped.
    """
    broken = [source for source in loaded if source.report.skipped]
    if folder is not None and broken:
        text = "\n".join(line for source in broken for line in _listing(source))
        (folder / SKIPPED).write_text(text + "\n", "utf-8", "backslashreplace")
    listed = f"; listed in {folder / SKIPPED}" if folder else ""
    lines: list[str] = []
    for path, _, report in broken:
        offered = len(report.problems) + len(report.skipped)
        reason, count = next(iter(report.reasons.items()))
        line = f"{path}: {len(report.skipped)} of {offered} records skipped{listed}"
        too_many = len(report.skipped) > config.max_skipped * offered
        if too_many and (report.problems or len(loaded) > 1):  # else there is nothing to train on
            raise RunError(
                f"{line} ({count}: {reason}). That is more than "
                f"data.max_skipped={config.max_skipped:g}; mend the file, or go on with "
                "data.max_skipped=1"
            )
        lines += [line, *(f"skipped: {each}" for each in report.skipped[:SHOWN])]
    return lines


def _listing(source: _Loaded) -> Iterator[str]:
    """Yield how often records of a file were skipped for which reason, then every record."""
    yield f"{source.path}: {len(source.report.skipped)} records skipped"
    yield from (f"{count:>8,} {reason}" for reason, count in source.report.reasons.items())
    yield from source.report.skipped


def _held_out_part(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Return what a file of held-out problems holds out: a part of it, or all where it has none."""
    parts = [part_named(str(p.split)) for p in problems]
    found = (_of_part(problems, parts, part) for part in ("validation", "eval"))
    return next(filter(None, found), tuple(problems))


def _held_out_by_hash(
    problems: Sequence[Problem], config: DataConfig
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Split problems into training and validation; of a few, none is held out rather than all."""
    parts = [split_of(p.task_id, config.validation_share) for p in problems]
    train, validation = (_of_part(problems, parts, name) for name in ("train", "validation"))
    return (train, validation) if train or config.validation_share == 1 else (validation, ())


def _held_out_line(train: int, validation: int, config: DataConfig) -> str:
    share = f"data.validation_share={config.validation_share:g}"
    if validation:
        return f"{validation} of {train + validation} problems held out by hash ({share})"
    return f"no problem is held out ({share}): nothing is evaluated during the run"


def _without(
    train: Sequence[Problem], held_out: Sequence[Problem]
) -> tuple[tuple[Problem, ...], str]:
    """Return the training problems that are not held out too, and a line about the others."""
    names = {name_in_set(p.task_id) for p in held_out}
    asked: dict[str, list[Problem]] = defaultdict(list)
    for p in held_out:
        asked[_statement(p)].append(p)
    kept: list[Problem] = []
    gone: list[Problem] = []
    for p in train:
        same = name_in_set(p.task_id) in names or any(
            not _contradict(p.tests, other.tests) for other in asked.get(_statement(p), ())
        )
        (gone if same else kept).append(p)
    if not gone:
        return tuple(kept), ""
    named = _named([p.task_id for p in gone])
    return tuple(kept), f"{len(gone)} training problems left out, held out as well: {named}"


def _statement(problem: Problem) -> str:
    """Return a statement without what may differ between copies: case and white space."""
    return "".join(problem.prompt.lower().split())


def _contradict(one: Tests, other: Tests) -> bool:
    """Return whether tests want different answers to one input: "do it" may ask for many things."""
    kinds = (CallTests, StdinTests)
    if not isinstance(one, kinds) or not isinstance(other, kinds):
        return False
    known = dict(zip(map(repr, one.inputs), map(repr, one.outputs), strict=True))
    return any(
        known.get(repr(given), repr(answer)) != repr(answer)
        for given, answer in zip(other.inputs, other.outputs, strict=True)
    )


def _nothing_to_train_on(
    config: DataConfig, loaded: Sequence[_Loaded], parts: Counter[str], left_out: str
) -> str:
    skipped = [line for source in loaded for line in source.report.skipped]
    line = f"{config.path}: no problem to train on ({parts.total()} loaded, {len(skipped)} skipped)"
    if left_out:
        return f"{line}: {left_out}; hold out others"
    if parts and not parts["train"]:
        named = ", ".join(f"{part} {count}" for part, count in parts.items())
        return (
            f"{line}: the set holds them out ({named}); train on others, or on a copy of the "
            'file whose records say "split": "train"'
        )
    return (
        f"{line}; check data.path, data.split, data.validation_path and data.validation_share"
        + "".join(f" (skipped: {each})" for each in skipped[:1])
    )


def _of_part(problems: Sequence[Problem], parts: Sequence[str], name: str) -> tuple[Problem, ...]:
    """Return the problems whose part has this name; `parts` has one for each problem."""
    return tuple(p for p, part in zip(problems, parts, strict=True) if part == name)
