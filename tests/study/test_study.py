"""Studies: the plan, the statistics, the page, and a study that is killed and goes on."""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser import console_errors, needs_browser, open_browser, requested
from helpers.small_runs import SMALL, constant_problems
from selenium.webdriver.support.ui import WebDriverWait

from stepcoder.config import load_config
from stepcoder.errors import RunError
from stepcoder.options import ConfigError
from stepcoder.report.run_dir import read_records
from stepcoder.study.__main__ import main
from stepcoder.study.page import differences_csv, page, write_page
from stepcoder.study.plan import Plan, StudyRun, bundled, is_done, read_plan
from stepcoder.study.results import (
    RunResult,
    at_tokens,
    best_trial,
    differences,
    mean_interval,
    run_result,
    trial_results,
)
from stepcoder.study.runner import run_plan

PLAN = """
seeds: [3, 5]
jobs: 2
against: ours
start: {sft: {steps: 7}}
options: {max_tokens: 900}
variants:
  ours: {recipe: stepcoder, fgo: {enabled: false}}
  Plain PPO: {recipe: ppo}
"""
TRIALS = "trials: {seed: 9, settings: [{ppo: {policy_lr: 1.0e-4}}, {ppo: {policy_lr: 2.0e-4}}]}\n"


def plan_of(folder: Path, text: str = PLAN, *overrides: str) -> Plan:
    file = folder / "plan.yaml"
    file.write_text(text)
    return read_plan(file, overrides)


def test_a_plan_says_what_each_run_is_and_what_it_starts_from(tmp_path):
    plan = plan_of(tmp_path, PLAN, "ppo.clip=0.3")
    names = [run.name for run in plan.runs]
    assert names == [
        *("start-seed3", "ours-seed3", "plain-ppo-seed3"),
        *("start-seed5", "ours-seed5", "plain-ppo-seed5"),
    ]
    start = plan.config(StudyRun("start", 3), Path("out"))
    ours, ppo = (plan.config(StudyRun(v, 3), Path("out")) for v in ("ours", "Plain PPO"))
    assert (start.sft.steps, start.steps, start.max_tokens) == (7, 0, None)
    assert ours.model.path == ppo.model.path == "out/start-seed3/start"
    assert (ours.sft.steps, ours.max_tokens, ours.seed) == (0, 900, 3)
    assert (ours.curriculum.cccs, ours.fgo.enabled) == (True, False)
    assert (ppo.curriculum.cccs, ppo.fgo.enabled) == (False, False)
    assert start.ppo.clip == ours.ppo.clip == 0.3


def test_trials_run_on_a_seed_of_their_own_before_what_they_decide(tmp_path):
    plan = plan_of(tmp_path, TRIALS + PLAN)
    assert [run.name for run in plan.runs[:5]] == [
        *("start-seed9", "ours-trial0-seed9", "ours-trial1-seed9"),
        *("plain-ppo-trial0-seed9", "plain-ppo-trial1-seed9"),
    ]
    trial, compared = plan.runs[4], StudyRun("Plain PPO", 3)
    assert plan.needs(trial) == [StudyRun("start", 9)]
    assert plan.needs(compared) == [StudyRun("start", 3), *plan.runs[3:5]]
    assert plan.needs(StudyRun("start", 3)) == []
    assert plan.config(trial, tmp_path, trial.setting).ppo.policy_lr == 2e-4
    assert trial_results(plan, tmp_path) == {}
    low, high = (made_up("Plain PPO", 9, end) for end in (0.2, 0.3))
    assert best_trial([low, high]) == 1
    assert best_trial([high, low]) == best_trial([high, high]) == 0


@pytest.mark.parametrize("name", ["embedded", "h200"])
def test_the_plans_that_come_along_compare_the_ablations_over_five_seeds(name):
    plan = read_plan(bundled(name))
    assert len(plan.seeds) == 5
    assert list(plan.variants)[:5] == ["stepcoder", "without CCCS", "without FGO", "ppo", "grpo"]
    configs = [plan.config(StudyRun(v, 0), Path(), 0) for v in plan.variants]
    switches = [(c.curriculum.cccs, c.fgo.enabled) for c in configs]
    assert switches[:4] == [(True, True), (False, True), (True, False), (False, False)]
    assert set(switches[4:]) == {(False, False)}
    assert len({(c.max_tokens, c.model.path, c.ppo.policy_lr) for c in configs}) == 1
    assert len({c.rollout.tasks_per_step * c.rollout.samples_per_task for c in configs}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: [3, 5]", "seeds: 3"), '"seeds" in plan.yaml is 3'),
        (("seeds: [3, 5]", "seeds: [3, 3]"), "a seed twice"),
        (("jobs: 2", "jobs: 0"), '"jobs" in plan.yaml is 0'),
        (("against: ours", "against: theirs"), "ours, Plain PPO"),
        (("against", "versus"), 'unknown key "versus"'),
        (("{recipe: ppo}", "{recipe: dpo}"), '"recipe" is "dpo"'),
        (("{max_tokens: 900}", "{max_token: 900}"), 'unknown key "max_token"'),
        (("seeds: [3, 5]", "trials: {seed: 9}\nseeds: [3, 5]"), 'a list of two or more "settings"'),
        (("seeds: [3, 5]", TRIALS.replace("9", "5") + "seeds: [3, 5]"), "one of the compared"),
        (("seeds: [3, 5]", TRIALS.replace("policy_lr", "rate") + "seeds: [3, 5]"), "ppo.rate"),
        (("Plain PPO", "Start"), "two names give one folder"),
        (("  Plain PPO: {recipe: ppo}\n", ""), "at least two variants"),
    ],
)
def test_a_wrong_plan_is_one_line_before_anything_runs(tmp_path, change, message):
    with pytest.raises(ConfigError) as refusal:
        plan_of(tmp_path, PLAN.replace(*change))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def made_up(variant: str, seed: int, end: float, start: float = 0.1) -> RunResult:
    middle = (start + end) / 2 + 0.01
    return RunResult(
        variant, seed, ((0, start), (500, middle), (1000, end)), start, end, 9, 1000, 60.0
    )


ENDS = {"ours": {3: 0.30, 5: 0.25}, "Plain PPO": {3: 0.20, 5: 0.23}}
RESULTS = [made_up(v, seed, end) for v, by_seed in ENDS.items() for seed, end in by_seed.items()]


def test_a_difference_is_taken_within_each_seed(tmp_path):
    plan = plan_of(tmp_path)
    (pair,) = differences(plan, RESULTS, "test_end")
    assert (pair.variant, pair.minus) == ("ours", "Plain PPO")
    assert pair.by_seed == pytest.approx({3: 0.10, 5: 0.02})
    # Mean 0.06, deviation 0.05657, over sqrt(2) is 0.04; t with one degree of freedom 12.706.
    assert pair.interval.mean == pytest.approx(0.06)
    assert pair.interval.half_width == pytest.approx(12.706 * 0.04)
    (alone,) = differences(plan, RESULTS[:3], "test_end")
    assert list(alone.by_seed) == [3]
    assert math.isinf(alone.interval.half_width)
    assert differences(plan, RESULTS[:2], "test_end") == []


def test_the_interval_is_students():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert mean_interval(values).mean == 3
    assert mean_interval(values).low == pytest.approx(3 - 2.776 * math.sqrt(2.5 / 5), abs=1e-3)
    many = mean_interval([0.0, 1.0] * 50)
    assert many.half_width == pytest.approx(1.984 * math.sqrt(0.2525 / 100), rel=0.005)


def test_a_result_reads_what_a_run_logged():
    records = [
        {"phase": "rl", "step": 0, "eval": {"pass@1": 0.1}, "test": {"pass@1": 0.2}},
        {"phase": "rl", "step": 1, "tokens_total": 400, "time": {"generate": 2.0, "score": 1.0}},
        {
            **{"phase": "rl", "step": 2, "tokens_total": 1000, "time": {"generate": 3.0}},
            **{"eval": {"pass@1": 0.3}, "test": {"pass@1": 0.4}},
        },
    ]
    found = run_result(StudyRun("ours", 3), records)
    assert found == RunResult("ours", 3, ((0, 0.1), (1000, 0.3)), 0.2, 0.4, 2, 1000, 6.0)
    assert found.validation_mean == pytest.approx(0.2)
    assert at_tokens(found.curve, 250) == pytest.approx(0.15)
    assert at_tokens(found.curve, 1001) is None
    untested = [{k: v for k, v in record.items() if k != "test"} for record in records]
    assert run_result(StudyRun("ours", 3), untested).test_end == 0.3
    with pytest.raises(RunError, match="validation_share"):
        run_result(StudyRun("ours", 3), [{"phase": "rl", "step": 0, "eval": {}}])


@needs_browser
def test_a_browser_draws_the_page_without_a_network(tmp_path):
    plan = plan_of(tmp_path)
    file = write_page(plan, RESULTS, tmp_path)
    with open_browser() as driver:
        driver.get(file.as_uri())
        WebDriverWait(driver, 30).until(
            lambda d: d.execute_script("return document.body.dataset.drawn") == "4"
        )
        assert console_errors(driver) == []
        assert {a for a in requested(driver) if a.startswith("http")} == set()
        text = driver.find_element("tag name", "main").text
    assert "ours − Plain PPO" in text
    assert "+6.0 [-44.8, +56.8]" in text
    assert "above 0 in 2 of 2 seeds" in text


def test_the_page_of_an_unfinished_study_says_so(tmp_path):
    plan = plan_of(tmp_path)
    assert "No run has come to its end yet" in page(plan, [], {}, "s")
    assert "1 of 2 seeds, 1 of 4 runs" in page(plan, RESULTS[:1], {}, "s")
    wide = [replace(r, variant="<b>") for r in RESULTS[:1]]
    assert "<b></th>" not in page(plan, wide, {}, "<i>s")
    rows = list(csv.DictReader(io.StringIO(differences_csv(plan, RESULTS))))
    assert [row["measure"] for row in rows] == ["test_end", "validation_end", "validation_mean"]
    assert float(rows[0]["mean"]) == pytest.approx(0.06)


TINY = """
seeds: [0]
jobs: 1
trials: {seed: 1, settings: [{ppo: {policy_lr: 1.0e-5}}, {ppo: {policy_lr: 1.0e-3}}]}
start: {sft: {steps: 5, share: 1.0}}
options: {steps: 3, sft: {share: 1.0}, checkpoint: {every: 1}, eval: {every: 1}}
variants:
  ppo: {recipe: ppo}
  grpo: {recipe: grpo}
"""


def processes_of(folder: Path) -> list[int]:
    """Processes that work for the runs of a folder, as the system sees them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
        except OSError:
            continue
        if b"stepcoder.train" in command and str(folder).encode() in command:
            found.append(int(file.parent.name))
    return found


def until(happened, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_study_killed_with_9_takes_its_runs_along_and_goes_on(tmp_path):
    problems = constant_problems(tmp_path / "constants.jsonl")
    (tmp_path / "plan.yaml").write_text(TINY)
    options = [*SMALL, f"data.path={problems}", "data.split=hash", "data.validation_share=0.3"]
    out = tmp_path / "out"
    given = [str(tmp_path / "plan.yaml"), "--out", str(out), *options]
    command = [sys.executable, "-m", "stepcoder.study", *given]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    plan = read_plan(tmp_path / "plan.yaml", options)
    until(lambda: (out / "ppo-trial0-seed1").exists() or process.poll() is not None)
    assert processes_of(out)
    with pytest.raises(RunError, match="another study"):
        run_plan(plan, out, lambda _: None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not processes_of(out))
    start = out / "start-seed1" / "metrics.jsonl"
    before = start.stat().st_mtime_ns

    assert main(given) == 0
    assert all(is_done(out, run) for run in plan.runs)
    assert start.stat().st_mtime_ns == before  # what was done is not done again
    for run in [run for run in plan.runs if run.variant != "start"]:
        assert [r["step"] for r in read_records(out / run.name)] == [0, 1, 2, 3]
    for variant, trials in trial_results(plan, out).items():
        rate = (1e-5, 1e-3)[best_trial(trials)]
        assert load_config(out / f"{variant}-seed0" / "config.yaml").ppo.policy_lr == rate
    text = (out / "study.html").read_text()
    assert "2 variants, 1 of 1 seeds, 2 of 2 runs" in text
    assert len((out / "runs.csv").read_text().splitlines()) == 3
    assert len((out / "trials.csv").read_text().splitlines()) == 5


def test_a_run_that_fails_is_named_with_its_reason(tmp_path, capfd):
    (tmp_path / "plan.yaml").write_text(TINY)
    given = [str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "data.path=nowhere"]
    assert main(given) == 2
    message = capfd.readouterr().err
    assert "start-seed1 failed" in message
    assert "nowhere" in message
    assert "start-seed1.log" in message
