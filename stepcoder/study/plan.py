"""The plan of a study: each variant runs once for each seed, from the seed's supervised start.

Takes a YAML file, gives a Plan and the configuration of each of its runs:

    base: embedded                 # options of all runs: our preset, or a file of options
    seeds: [0, 1, 2]
    jobs: 2                        # runs at a time
    against: stepcoder             # the variant that the others are compared with
    start: {sft: {steps: 200}}     # options of the run that makes a seed's start
    options: {max_tokens: 100000}  # options of the runs that are compared
    trials:                        # each variant tries these on a seed of its own; its best runs
      seed: 100
      settings: [{ppo: {policy_lr: 1.0e-4}}, {ppo: {policy_lr: 3.0e-4}}]
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

KEYS = ("base", "seeds", "jobs", "against", "start", "options", "trials", "variants")
START = "start"
DONE = "done"


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One run of a study: the start of a seed (variant "start"), or a variant from that start.

    `setting` is that of a trial; None means that the variant's best trial says.
    """

    variant: str
    seed: int
    setting: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        trial = "" if self.setting is None else f"-trial{self.setting}"
        return f"{_slug(self.variant)}{trial}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Trials:
    """What each variant tries before it is compared: equally many settings, on one seed."""

    seed: int
    settings: tuple[Options, ...]

    def of(self, variant: str) -> list[StudyRun]:
        """Return a variant's trials, in the order of the settings."""
        return [StudyRun(variant, self.seed, i) for i in range(len(self.settings))]


@dataclass(frozen=True, slots=True)
class Plan:
    """A study. Options have dotted names; a later one of `base`, `start` or `options` wins."""

    base: Options
    seeds: tuple[int, ...]
    jobs: int
    against: str
    start: Options
    options: Options
    trials: Trials | None
    variants: Mapping[str, Options]

    @property
    def runs(self) -> list[StudyRun]:
        """The trials, then all runs seed by seed, so that an unfinished study has whole seeds."""
        compared = [StudyRun(v, seed) for seed in self.seeds for v in (START, *self.variants)]
        if self.trials is None:
            return compared
        tried = [trial for variant in self.variants for trial in self.trials.of(variant)]
        return [StudyRun(START, self.trials.seed), *tried, *compared]

    def needs(self, run: StudyRun) -> list[StudyRun]:
        """Return the runs that must be done before a run."""
        if run.variant == START:
            return []
        trials = self.trials.of(run.variant) if self.trials and run.setting is None else []
        return [StudyRun(START, run.seed), *trials]

    def config(self, run: StudyRun, folder: Path, setting: int | None = None) -> Config:
        """Return the configuration of a run below `folder`, with a setting of the trials.

        Raises:
            ConfigError: an option is wrong.
        """
        own: Options = {"seed": run.seed, "run_dir": str(folder / run.name)}
        if run.variant == START:
            return from_dict({**self.base, **self.start, "steps": 0, **own})
        tried = self.trials.settings[setting] if self.trials and setting is not None else {}
        model = str(folder / StudyRun(START, run.seed).name / "start")
        own |= {"model.path": model, "sft.steps": 0}
        return from_dict(
            {**self.base, **self.options, **self.variants[run.variant], **tried, **own}
        )


def is_done(folder: Path, run: StudyRun) -> bool:
    """Return whether a run is done."""
    return (folder / run.name / DONE).exists()


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
    trials = _trials(tree.get("trials"), tree["seeds"], where)
    plan = Plan(
        base=_base(str(tree.get("base", "embedded")), path.parent),
        seeds=tuple(seeds),
        jobs=jobs,
        against=str(against),
        start=_options(tree.get("start"), where) | everywhere,
        options=_options(tree.get("options"), where) | everywhere,
        trials=trials,
        variants={str(name): _options(given, where) for name, given in variants.items()},
    )
    for run in plan.runs:
        plan.config(run, Path(), run.setting)  # a wrong option fails before anything runs
    return plan


def bundled(name: str) -> Path | None:
    """Return the plan configs/study-NAME.yaml of the package, or None."""
    file = PRESETS / f"study-{name}.yaml"
    return file if file.is_file() else None


def _base(base: str, folder: Path) -> Options:
    if base == "embedded":
        folder, base = PRESETS, "embedded.yaml"
    return _options(read_file(folder / base), f" in {base}")


def _trials(tree: Any, seeds: Sequence[int], where: str) -> Trials | None:
    if tree is None:
        return None
    seed, settings = (tree.get(k) if isinstance(tree, dict) else None for k in Trials.__slots__)
    if type(seed) is not int or not isinstance(settings, list) or len(settings) < 2:
        raise ConfigError(f'"trials"{where} must have a seed and a list of two or more "settings"')
    if seed in seeds:
        raise ConfigError(
            f'the seed of "trials"{where} is {seed}, one of the compared; give another'
        )
    return Trials(seed, tuple(_options(setting, where) for setting in settings))


def _options(tree: Any, where: str) -> Options:
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{tree!r}{where} must be options, such as {{ppo: {{clip: 0.1}}}}")
    return flatten(tree, SECTIONS, where)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
