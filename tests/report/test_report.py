"""The report of a run: what is on the page, and that a real browser draws it without a network."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import console_errors, needs_browser, open_browser, requested, screenshot
from helpers.begun_run import begun
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from stepcoder.config import Config, EvalConfig, SFTConfig
from stepcoder.errors import RunError
from stepcoder.report.__main__ import main
from stepcoder.report.charts import charts, evaluations, running_mean, thinned
from stepcoder.report.page import write_report
from stepcoder.report.samples import RolloutSample
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

GIVEN = 'def count_vowels(text):\n    """Count <b>vowels</b>."""\n    total = 0\n'
COMPLETION = """\
    for letter in text:
        if letter in "aeiou":
            total += 1
        elif letter == "<i>":
            return -1
    return total
```
"""


def sample(step: int, stage: int, status: Status = Status.WRONG_ANSWER) -> RolloutSample:
    wrong = TestVerdict(status, "expected 3, got 2</script><script>alert(1)</script>")
    passed = TestVerdict(Status.ACCEPTED)
    tests = (passed, passed if status is Status.ACCEPTED else wrong)
    return RolloutSample(
        task_id=f"strings/count-vowels/{stage}",
        step=step,
        stage=stage,
        description="Return how many of the letters of a text are vowels.\nCount a, e, i, o and u.",
        given=GIVEN if stage else "def count_vowels(text):\n",
        completion=COMPLETION,
        executed_lines=frozenset({1, 3, 4, 5, 6, 7, 9} if stage else {1, 2, 3, 4, 5, 7}),
        masked_share=0.18,
        verdict=Verdict(status, tests),
        reward=1.0 if status is Status.ACCEPTED else -0.3,
    )


def rl_record(step: int, steps: int, draw: random.Random) -> dict[str, Any]:
    """One step of a run that goes as one hopes: noisy, rising, then level."""
    level = 1 - math.exp(-3 * step / steps)
    passed = 0.35 + 0.4 * level + draw.gauss(0, 0.04)
    at_0 = int(300 * level)
    at_1, wrong = int((400 - at_0) * (0.3 + 0.4 * level)), int(384 * (1 - passed) * 0.6)
    return {
        "time": {
            "generate": 3.4 + draw.random(),
            "judge": 0.4 + 0.2 * draw.random(),
            "score": 0.7,
            "update": 1.6 + 0.3 * draw.random(),
            "sync": 0.02,
        },
        "timeline": [
            ("generate", 7 * step, 7 * step + 4),
            ("judge", 7 * step + 0.2, 7 * step + 4.4),
            ("score", 7 * step + 4.4, 7 * step + 5.1),
            ("update", 7 * step + 5.1, 7 * step + 6.8),
        ],
        "hidden_judge_share": 0.9 + 0.05 * draw.random(),
        "prefix_cache_hit_rate": 0.85,
        "reward_mean": 1.45 * passed - 0.45,
        "pass_rate": passed,
        "stages": {"0": at_0, "1": at_1, "2": 400 - at_0 - at_1},
        "stage_moves": at_0 + at_1,
        "epoch": step // 8,
        "rollouts": 384,
        "tokens": 21000 + draw.randrange(2000),
        "tokens_per_s": 3300 + draw.gauss(0, 150),
        "response_length": 55.0,
        "masked_share": 0.12 + 0.05 * draw.random(),
        "kl": 0.04 * level + 0.004 * draw.random(),
        "engine_kl": 1e-6,
        "entropy": 0.55 - 0.3 * level + 0.02 * draw.random(),
        "clip_fraction": 0.04 + 0.02 * draw.random(),
        "explained_variance": 0.7 * level + draw.gauss(0, 0.05),
        "policy_loss": -0.01,
        "value_loss": 0.2,
        "verdicts": {
            "accepted": int(384 * passed),
            "wrong answer": wrong,
            "runtime error": int((384 - int(384 * passed) - wrong) * 0.7),
            "compile error": int((384 - int(384 * passed) - wrong) * 0.3),
        },
        "infrastructure_errors": 0,
        "slowest_judge_s": 0.3,
    }


def write_run(
    path: Path, steps: int, every: int = 5, sft_steps: int = 0, samples: bool = True
) -> Path:
    """Write the folder of a run with plausible numbers."""
    draw = random.Random(0)
    config = Config(run_dir=str(path), steps=max(steps, 1), sft=SFTConfig(steps=sft_steps))
    with begun(config) as run:
        for step in range(1, sft_steps + 1):
            run.log(step, {"phase": "sft", "loss": 0.3 + 3 * math.exp(-step / 20), "lr": 1e-3})
        if steps:
            run.log(0, {"eval": {"pass@1": 0.4, "problems": 200}})
        for step in range(1, steps + 1):
            record = rl_record(step, steps, draw)
            if step % every == 0:
                level = 0.4 + 0.3 * (1 - math.exp(-3 * step / steps)) + draw.gauss(0, 0.01)
                record["eval"] = {"pass@1": level, "problems": 200}
                if samples:
                    shown = [sample(step, 1), sample(step, 0, Status.ACCEPTED)]
                    run.log_samples(step, [*shown, sample(step, 2, Status.RUNTIME_ERROR)])
            run.log(step, record)
    return path


@needs_browser
@pytest.mark.parametrize(
    ("steps", "sft_steps", "width"), [(120, 110, 1400), (3, 0, 1400), (40, 0, 500)]
)
def test_a_browser_draws_every_plot_from_disk_without_errors_or_requests(
    tmp_path: Path, steps: int, sft_steps: int, width: int
) -> None:
    run = write_run(tmp_path / "run", steps, every=min(5, steps), sft_steps=sft_steps)
    page = write_report(run)
    with open_browser(width) as browser:
        browser.get(page.as_uri())
        WebDriverWait(browser, 120).until(
            lambda b: b.execute_script("return document.body.dataset.drawn")
        )
        drawn = browser.execute_script(
            """return [...document.querySelectorAll('.plot')].map(plot => ({
                 name: plot.id,
                 shapes: plot.querySelectorAll(
                   '.main-svg .trace path[d], .main-svg .trace .point path').length,
                 width: plot.querySelector('.main-svg').getBoundingClientRect().width,
               }))"""
        )
        assert len(drawn) == (17 if sft_steps else 16)
        assert [plot["name"] for plot in drawn if not plot["shapes"]] == []
        assert [plot["name"] for plot in drawn if not 300 < plot["width"] < width] == []
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(overflow) <= 0
        assert console_errors(browser) == []
        assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []
        screenshot(browser, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 50_000


@needs_browser
def test_the_pointer_shows_values_the_legend_hides_traces_and_dark_is_dark(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", 3, every=3))
    with open_browser() as browser:
        browser.get(page.as_uri())
        stages = browser.find_element("id", "stages")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stages)
        svg = stages.find_element("css selector", ".main-svg")
        ActionChains(browser).move_to_element(svg).perform()
        tip = stages.find_element("css selector", ".tip").text.split("\n")
        assert tip == ["step 2", "stage 0", "259", "stage 1", "91", "stage 2", "50"]
        assert len(stages.find_elements("css selector", ".trace")) == 3
        stages.find_element("css selector", ".legend button").click()
        assert len(stages.find_elements("css selector", ".trace")) == 2
        paper = "return getComputedStyle(document.body).backgroundColor"
        light = browser.execute_script(paper)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert (light, browser.execute_script(paper)) == ("rgb(255, 255, 255)", "rgb(20, 24, 30)")
        assert console_errors(browser) == []


def test_the_page_of_a_long_run_stays_small(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", 3000, every=100))
    assert page.stat().st_size < 400_000
    assert "Shown: 24 of the rollouts in samples/, from 8 of its\n30 steps" in page.read_text()


def test_of_rollouts_too_long_for_the_page_the_newest_steps_first_one_is_shown(
    tmp_path: Path,
) -> None:
    long = "x = 1\n" * 9000
    with begun(Config(run_dir=str(tmp_path / "run"))) as run:
        for step in (1, 2, 3):
            two = [sample(step, 0), sample(step, 1)]
            run.log_samples(step, [replace(s, completion=long) for s in two])
    page = body(run.path)
    assert re.findall(r'<article class="sample" id="([^"]+)"', page) == ["step-3-1"]
    assert "Shown: 1 of the rollouts in samples/, from 1 of its\n3 steps" in page


@needs_browser
def test_a_person_goes_through_the_rollouts_by_choice_button_key_and_address(
    tmp_path: Path,
) -> None:
    page = write_report(write_run(tmp_path / "run", 15))
    with open_browser(420) as browser:

        def shown() -> tuple[list[str], str, str, str]:
            """What is visible, what the two choices and the address say."""
            articles = browser.find_elements("css selector", ".sample")
            steps, rollouts = browser.find_elements("css selector", ".choice select")
            fragment = browser.execute_script("return location.hash")
            visible = [a.get_attribute("id") for a in articles if a.is_displayed()]
            chosen = Select(rollouts).first_selected_option.text
            return visible, Select(steps).first_selected_option.text, chosen, fragment

        def see(name: str, number: int, status: str) -> None:
            chosen = f"{number}: strings/count-vowels/{name}, {status}"
            visible, step, rollout, fragment = shown()
            assert len(visible) == 1
            assert visible == [f"step-{step}-{number}"]
            assert rollout == chosen
            assert fragment in ("", f"#{visible[0]}")

        browser.get(page.as_uri())
        see("1", 1, "wrong answer")
        assert shown()[1] == "15"
        previous, following = browser.find_elements("css selector", ".choice button")
        following.click()
        see("0", 2, "accepted")
        following.send_keys(Keys.ARROW_RIGHT)
        see("2", 3, "runtime error")
        assert not following.is_enabled()  # the last of the newest step
        steps, rollouts = browser.find_elements("css selector", ".choice select")
        Select(steps).select_by_visible_text("5")
        see("1", 1, "wrong answer")
        assert not previous.is_enabled()  # the first of all
        Select(rollouts).select_by_index(1)
        see("0", 2, "accepted")
        assert shown()[3] == "#step-5-2"
        browser.refresh()
        see("0", 2, "accepted")
        browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
        assert shown()[3] == "#step-5-1"
        browser.get(f"{page.as_uri()}#step-10-3")
        see("2", 3, "runtime error")
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(overflow) <= 0
        browser.get(f"{write_report(page.parent, 'live.html', reload_s=3).as_uri()}#step-10-3")
        browser.execute_script("document.body.dataset.old = 'yes'")
        visible = "[...document.querySelectorAll('.sample:not([hidden])')].map((a) => a.id)"
        script = f"return !document.body.dataset.old && document.body.dataset.drawn && {visible}"
        wait = WebDriverWait(browser, 120, ignored_exceptions=(WebDriverException,))
        assert wait.until(lambda b: b.execute_script(script)) == ["step-10-3"]  # loaded anew
        assert console_errors(browser) == []


def test_of_a_long_series_evenly_spaced_points_are_shown_and_the_last_one() -> None:
    assert thinned(range(1, 501)) == list(range(1, 501))
    assert thinned(range(1, 602)) == list(range(1, 602, 2))
    assert thinned(range(1, 603)) == list(range(2, 603, 2))


def body(run: Path) -> str:
    """The page without its scripts, which pytest would print when an assertion fails."""
    page = write_report(run).read_text(encoding="utf-8")
    return page[: page.index("</main>")]


def test_text_of_problems_and_programs_cannot_become_markup(tmp_path: Path) -> None:
    page = body(write_run(tmp_path / "run", 5))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Count &lt;b&gt;vowels&lt;/b&gt;" in page
    assert "elif letter == &quot;&lt;i&gt;&quot;:" in page


def test_the_page_names_no_file_of_its_own_and_forbids_the_network(tmp_path: Path) -> None:
    page = body(write_run(tmp_path / "run", 5))
    assert "default-src 'none'" in page
    assert re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?!data:)", page) == []


def test_a_run_without_a_step_has_a_page_that_says_so(tmp_path: Path) -> None:
    page = body(write_run(tmp_path / "run", 0))
    assert "No step has been logged yet." in page
    assert "Rollouts" not in page


def test_what_took_longest_is_listed_once_a_problem_with_its_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun(Config(run_dir=str(run))) as folder:
        for step in range(1, 9):
            slow = [["<p>", 0.5 / step, "accepted"], [f"q{step}", 0.01 * step, "wrong answer"]]
            folder.log(step, {"slowest": {"judge": [*slow, [f"r{step}", 0.1, "accepted"]]}})
    page = body(run)
    assert page.count("<tr><th>&lt;p&gt;</th><td>0.5 s, accepted, step 1</td></tr>") == 1
    assert "<tr><th>q8</th><td>0.08 s, wrong answer, step 8</td></tr>" in page
    assert "q7" not in page  # the eleventh
    assert "Longest completions" not in page
    assert "Never passed" not in page


def test_a_series_that_no_step_has_gives_no_plot() -> None:
    records = [{"phase": "rl", "step": 1, "reward_mean": 0.5, "kl": None, "stages": {}}]
    assert [chart.name for chart in charts(records)] == ["reward"]


def test_a_run_that_was_only_supervised_so_far_has_its_loss() -> None:
    records = [{"phase": "sft", "step": step, "loss": 1.0} for step in (1, 2)]
    assert [chart.name for chart in charts(records)] == ["loss"]


def test_every_stage_up_to_the_highest_stacks_from_0_and_missing_ones_are_zero() -> None:
    records = [
        {"phase": "rl", "step": 1, "stages": {"3": 1, "1": 4}},
        {"phase": "rl", "step": 2, "stages": {"1": 5}},
    ]
    (chart,) = charts(records)
    assert [(trace["name"], trace["y"]) for trace in chart.figure["data"]] == [
        ("stage 0", [0, 0]),
        ("stage 1", [4, 5]),
        ("stage 2", [0, 0]),
        ("stage 3", [1, 0]),
    ]


def test_verdicts_stack_in_one_order_and_unknown_ones_come_last() -> None:
    records = [
        {"phase": "rl", "step": 1, "verdicts": {"new kind": 1, "compile error": 3}},
        {"phase": "rl", "step": 2, "verdicts": {"accepted": 2}},
    ]
    (chart,) = charts(records)
    names = [trace["name"] for trace in chart.figure["data"]]
    assert names == ["accepted", "compile error", "new kind"]


def test_held_out_starts_with_the_last_supervised_evaluation_unless_rl_measured_its_start() -> None:
    supervised = [
        {"phase": "sft", "step": 50, "eval": {"pass@1": 0.2}},
        {"phase": "sft", "step": 99, "eval": {"pass@1": 0.3}},
    ]
    later = {"phase": "rl", "step": 10, "eval": {"pass@1": 0.5}}
    assert evaluations([*supervised, later]) == [(0, 0.3), (10, 0.5)]
    start = {"phase": "rl", "step": 0, "eval": {"pass@1": 0.31}}
    assert evaluations([*supervised, start, later]) == [(0, 0.31), (10, 0.5)]


def test_the_held_out_plot_marks_where_rl_started() -> None:
    records = [
        {"phase": "rl", "step": step, "eval": {"pass@1": value}}
        for step, value in ((0, 0.4), (10, 0.55))
    ]
    (chart,) = charts(records)
    assert [shape["y0"] for shape in chart.figure["layout"]["shapes"]] == [0.4]
    texts = [note["text"] for note in chart.figure["layout"]["annotations"]]
    assert texts == ["<b>55.0%</b>", "start 40.0%"]


def test_a_running_mean_takes_neighbors_on_both_sides_and_keeps_the_length() -> None:
    assert running_mean([0, 3, 6, 9], reach=1) == [1.5, 3, 6, 7.5]
    assert running_mean([2.0], reach=5) == [2.0]


def test_key_figures_compare_the_start_of_rl_with_now(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun(Config(run_dir=str(run))) as folder:
        folder.log(
            0, {"eval": {"pass@1": 0.4}, "test": {"pass@1": 0.2}, "stages": {"0": 1, "1": 3}}
        )
        folder.log(1, {"eval": {"pass@1": 0.525}, "stages": {"0": 3, "1": 1}, "reward_mean": -0.3})
        folder.log(2, {"test": {"pass@1": 0.35}})
    page = body(run)
    assert "<b>52.5%</b><p>from 40.0% (+12.5 points)</p>" in page
    assert "<b>35.0%</b><p>from 20.0% (+15.0 points)</p>" in page
    assert "<b>75.0%</b><p>from 25.0% (+50.0 points)</p>" in page
    assert "<b>-0.30</b>" in page


@pytest.mark.parametrize(
    ("temperature", "said"), [(0.0, "greedy"), (0.6, "programs sampled at temperature 0.6")]
)
def test_the_page_says_how_pass_at_1_is_measured(
    tmp_path: Path, temperature: float, said: str
) -> None:
    run = tmp_path / "run"
    with begun(Config(run_dir=str(run), eval=EvalConfig(temperature=temperature))) as folder:
        folder.log(1, {"reward_mean": -0.3})
    assert f"pass@1: {said}</p>" in body(run)


def test_the_command_writes_the_page_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", 2)
    assert main([str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_the_command_says_in_a_line_that_a_folder_holds_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().endswith("holds no run (config.yaml is missing)")
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path)
