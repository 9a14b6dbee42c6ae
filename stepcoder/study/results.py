"""The results of a study: learning curves and final scores of its runs, and paired differences.

Takes the folders of runs, gives plain data. A difference is taken within a seed, where both runs
have the same start, problems and order; its interval is Student's t over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from stepcoder.errors import RunError
from stepcoder.journal import Record
from stepcoder.report.charts import evaluations
from stepcoder.report.run_dir import read_records
from stepcoder.study.plan import START, Plan, StudyRun, is_done

# Student's t, two-sided 95%, by degrees of freedom from 1; beyond, `1.96 + 2.4 / n` is within 0.01.
_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run reached. Shares are of problems solved (pass@1).

    `curve` has (tokens generated so far, share of the validation problems).
    """

    variant: str
    seed: int
    curve: tuple[tuple[int, float], ...]
    test_start: float
    test_end: float
    steps: int
    tokens: int
    wall_s: float

    @property
    def validation_end(self) -> float:
        """Share of the validation problems at the end."""
        return self.curve[-1][1]

    @property
    def validation_mean(self) -> float:
        """Mean share over the tokens of the run, so that learning early counts more."""
        area = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(self.curve))
        return area / max(self.curve[-1][0] - self.curve[0][0], 1)


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean over seeds and its 95% confidence interval, which is infinite for a single seed."""

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.half_width


@dataclass(frozen=True, slots=True)
class Difference:
    """One variant minus another in one measure, seed by seed."""

    variant: str
    minus: str
    measure: str
    by_seed: Mapping[int, float]

    @property
    def interval(self) -> MeanInterval:
        """The mean difference."""
        return mean_interval(list(self.by_seed.values()))


MEASURES = {
    "test_end": "test pass@1",
    "validation_end": "validation pass@1",
    "validation_mean": "validation pass@1, mean over the tokens",
}


def run_results(plan: Plan, folder: Path) -> list[RunResult]:
    """Return the results of the compared runs that are done, in the plan's order."""
    compared = [run for run in plan.runs if run.variant != START and run.setting is None]
    return [_read(run, folder) for run in compared if is_done(folder, run)]


def trial_results(plan: Plan, folder: Path) -> dict[str, list[RunResult]]:
    """Return each variant's trials, in the order of the settings, if all of them are done."""
    if plan.trials is None:
        return {}
    trials = {variant: plan.trials.of(variant) for variant in plan.variants}
    return {
        variant: [_read(run, folder) for run in mine]
        for variant, mine in trials.items()
        if all(is_done(folder, run) for run in mine)
    }


def best_trial(trials: Sequence[RunResult]) -> int:
    """Return the place of the trial with the highest validation pass@1, mean over the tokens."""
    return max(range(len(trials)), key=lambda i: trials[i].validation_mean)


def setting_of(plan: Plan, run: StudyRun, folder: Path) -> int | None:
    """Return which setting a run has: a trial its own, a compared run that of the best trial."""
    if plan.trials is None or run.variant == START or run.setting is not None:
        return run.setting
    return best_trial(trial_results(plan, folder)[run.variant])


def _read(run: StudyRun, folder: Path) -> RunResult:
    return run_result(run, read_records(folder / run.name))


def run_result(run: StudyRun, records: Sequence[Record]) -> RunResult:
    """Return the result of a finished run from its records.

    A set without test problems is judged by its validation problems.

    Raises:
        RunError: no problem was held out.
    """
    rl = [record for record in records if record["phase"] == "rl"]
    tokens = {record["step"]: record.get("tokens_total", 0) for record in rl}
    curve = evaluations(rl)
    tests = [value for _, value in evaluations(rl, "test") or curve]
    if not curve:
        raise RunError(
            f"{run.name}: no validation problem was evaluated; a study needs some "
            "(data.validation_share, or data.validation_path)"
        )
    return RunResult(
        run.variant,
        run.seed,
        tuple((tokens[step], value) for step, value in curve),
        tests[0],
        tests[-1],
        rl[-1]["step"],
        tokens[rl[-1]["step"]],
        sum(sum((record.get("time") or {}).values()) for record in rl),
    )


def differences(plan: Plan, found: Sequence[RunResult], measure: str) -> list[Difference]:
    """Return `against` minus each other variant, over the seeds that have both."""
    values = {(r.variant, r.seed): float(getattr(r, measure)) for r in found}

    def by_seed(other: str) -> dict[int, float]:
        return {
            seed: values[plan.against, seed] - values[other, seed]
            for seed in plan.seeds
            if (plan.against, seed) in values and (other, seed) in values
        }

    others = [v for v in plan.variants if v != plan.against]
    pairs = [Difference(plan.against, other, measure, by_seed(other)) for other in others]
    return [pair for pair in pairs if pair.by_seed]


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean of values and Student's 95% interval of it (infinite for a single value)."""
    count = len(values)
    if count < 2:
        return MeanInterval(fmean(values), math.inf, count)
    quantile = _T_95[count - 2] if count - 2 < len(_T_95) else 1.96 + 2.4 / (count - 1)
    return MeanInterval(fmean(values), quantile * stdev(values) / math.sqrt(count), count)


def at_tokens(curve: Sequence[tuple[int, float]], tokens: float) -> float | None:
    """Return a curve's value between its points; None beyond its end."""
    at, values = zip(*curve, strict=True)
    return float(np.interp(tokens, at, values)) if tokens <= at[-1] else None
