"""The plan of a study: each variant runs once for each seed, from the seed's supervised start.

Takes a YAML file, gives a Plan and the configuration of each of its runs:

    base: embedded                 # options of all runs: our preset, or a file of options
    seeds: [0, 1, 2]
    jobs: 2                        # runs at a time
    against: stepcoder             # the variant that the others are compared with
    start: {sft: {steps: 200}}     # options of the run that makes a seed's start
    options: {max_tokens: 100000}  # options of the runs that are compared
    variants:
      stepcoder: {recipe: stepcoder}
      ppo: {recipe: ppo}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcoder.config import LEAVES, PRESETS, SECTIONS, Config, from_dict
from stepcoder.options import ConfigError, flatten, read_file, read_overrides

Options = dict[str, Any]  # by dotted name

KEYS = ("base", "seeds", "jobs", "against", "start", "options", "variants")
START = "start"


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One run of a study: the start of a seed (variant "start"), or a variant from that start."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{_slug(self.variant)}-seed{self.seed}"

    @property
    def needs(self) -> StudyRun | None:
        """The run that must be done first."""
        return None if self.variant == START else StudyRun(START, self.seed)


@dataclass(frozen=True, slots=True)
class Plan:
    """A study. Options have dotted names; a later one of `base`, `start` or `options` wins."""

    base: Options
    seeds: tuple[int, ...]
    jobs: int
    against: str
    start: Options
    options: Options
    variants: Mapping[str, Options]

    @property
    def runs(self) -> list[StudyRun]:
        """All runs, seed by seed, so that an unfinished study has whole seeds to compare."""
        return [StudyRun(v, seed) for seed in self.seeds for v in (START, *self.variants)]

    def config(self, run: StudyRun, folder: Path) -> Config:
        """Return the configuration of a run below `folder`. Raises ConfigError."""
        own: Options = {"seed": run.seed, "run_dir": str(folder / run.name)}
        if run.variant == START:
            return from_dict({**self.base, **self.start, "steps": 0, **own})
        model = str(folder / StudyRun(START, run.seed).name / "start")
        own |= {"model.path": model, "sft.steps": 0}
        return from_dict({**self.base, **self.options, **self.variants[run.variant], **own})


def read_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan; `overrides` are options of all runs, as `section.key=value`.

    Raises:
        ConfigError: one line that says what is wrong with the file.
    """
    path = Path(path)
    tree = read_file(path)
    where = f" in {path.name}"
    unknown = [key for key in tree if key not in KEYS]
    if unknown:
        raise ConfigError(f'unknown key "{unknown[0]}"{where}; a study has {", ".join(KEYS)}')
    seeds, variants = tree.get("seeds"), tree.get("variants")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ConfigError(f'"seeds"{where} is {seeds}; give a list of integers, such as [0, 1, 2]')
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f'"seeds"{where} has a seed twice: {seeds}; delete one')
    if not isinstance(variants, dict) or len(variants) < 2:
        raise ConfigError(f'"variants"{where} must name at least two variants with their options')
    if len({_slug(str(v)) for v in variants} - {START}) < len(variants):
        raise ConfigError(f'"variants"{where}: two names give one folder, or one is "start"')
    against = tree.get("against", next(iter(variants)))
    if against not in variants:
        raise ConfigError(
            f'"against"{where} is {against}; give one of the variants: {", ".join(variants)}'
        )
    jobs = tree.get("jobs", 1)
    if type(jobs) is not int or jobs < 1:
        raise ConfigError(f'"jobs"{where} is {jobs}; give an integer >= 1')
    everywhere = read_overrides(LEAVES, overrides)
    plan = Plan(
        base=_base(str(tree.get("base", "embedded")), path.parent),
        seeds=tuple(seeds),
        jobs=jobs,
        against=str(against),
        start=_options(tree.get("start"), where) | everywhere,
        options=_options(tree.get("options"), where) | everywhere,
        variants={str(name): _options(given, where) for name, given in variants.items()},
    )
    for run in plan.runs:
        plan.config(run, Path())  # so that a wrong option fails before anything runs
    return plan


def bundled(name: str) -> Path | None:
    """Return the plan configs/study-NAME.yaml of the package, or None."""
    file = PRESETS / f"study-{name}.yaml"
    return file if file.is_file() else None


def _base(base: str, folder: Path) -> Options:
    if base == "embedded":
        folder, base = PRESETS, "embedded.yaml"
    return _options(read_file(folder / base), f" in {base}")


def _options(tree: Any, where: str) -> Options:
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{tree!r}{where} must be options, such as {{ppo: {{clip: 0.1}}}}")
    return flatten(tree, SECTIONS, where)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
