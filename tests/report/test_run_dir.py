"""The run folder: records and samples, and that neither a kill nor a resume spoils them."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.begun_run import begun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepcoder.config import Config, load_config
from stepcoder.errors import RunError
from stepcoder.report.page import write_report
from stepcoder.report.run_dir import Phase, RunDir, read_records, read_rollout_samples, sample_files
from stepcoder.report.samples import (
    FailedTest,
    Piece,
    RolloutSample,
    Token,
    lines_of,
    to_dict,
    to_html,
    to_text,
)
from stepcoder.sandbox.verdict import Status, TestVerdict, Verdict

SAMPLE = RolloutSample(
    task_id="sums/add/1",
    step=20,
    stage=1,
    description="Add two numbers.",
    given="def add(a, b):\n    if not b:\n",
    completion="        return a\n    return a - b\n```\nDone.",
    executed_lines=frozenset({1, 2, 4}),
    masked_share=0.25,
    verdict=Verdict(
        Status.WRONG_ANSWER,
        (
            TestVerdict(Status.ACCEPTED, executed_lines=frozenset({1, 2, 4})),
            TestVerdict(Status.WRONG_ANSWER, "expected 3,\ngot -1", error_line=4),
        ),
        executed_lines=frozenset({1, 2, 4}),
    ),
    reward=-0.3,
)
SCORED = replace(
    SAMPLE,
    completion="        return a\n    return a - b\n```\n",
    prompt=(Piece("<|user|>", special=True), Piece("Add\n\ttwo <b>.", special=False)),
    prompt_tokens=7,
    tokens=(
        Token(0, True, 0.2, "\n"),  # the end of the prompt's line, which the policy wrote
        Token(15, True, -0.31),
        Token(17, False, 1.75),
        Token(25, True, 2.0),  # over the end of a line
        Token(34, True, None),
        Token(35, True, 0.04),
        Token(38, True, -0.75),
        Token(38, True, 2.0),  # of the same character as the one before
        Token(38, True, 0.5, "<|end|>"),
    ),
    failed=FailedTest(2, "add(1,\n 2)", "3"),
)


def config_for(folder: Path) -> Config:
    return Config(run_dir=str(folder / "run"))


def test_a_new_run_whose_folder_was_deleted_says_what_was_wrong(tmp_path: Path) -> None:
    def fails() -> None:
        with RunDir.open(config_for(tmp_path)) as run:
            run.path.rename(tmp_path / "elsewhere")
            raise RunError("no model")

    with pytest.raises(RunError, match="no model"):
        fails()


def steps(run: Path) -> list[tuple[str, int]]:
    return [(record["phase"], record["step"]) for record in read_records(run)]


def scalars(run: Path, phase: Phase, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard" / phase))
    events.Reload()
    if name not in events.Tags()["scalars"]:
        return []
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]


def log_run(run: RunDir, sft: int, rl: int, value: float = 1.0) -> None:
    for step in range(1, sft + 1):
        run.log(step, {"phase": "sft", "loss": value})
    for step in range(rl + 1):
        run.log(step, {"phase": "rl", "kl": value, "time": {"judge": value}})


def test_a_run_leaves_its_configuration_metrics_and_events(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with begun(config) as run:
        log_run(run, sft=2, rl=1)
    assert load_config(run.path / "config.yaml") == config
    assert steps(run.path) == [("sft", 1), ("sft", 2), ("rl", 0), ("rl", 1)]
    last = read_records(run.path)[-1]
    assert last.pop("logged_at") > 1.7e9
    assert last == {"phase": "rl", "step": 1, "kl": 1.0, "time": {"judge": 1.0}}
    assert scalars(run.path, "sft", "loss") == [(1, 1.0), (2, 1.0)]
    assert scalars(run.path, "rl", "time/judge") == [(0, 1.0), (1, 1.0)]


def test_a_run_without_a_folder_makes_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with begun(Config()) as first, begun(Config()) as second:
        assert first.path != second.path
        assert {first.path.parent, second.path.parent} == {Path("runs")}
        assert load_config(first.path / "config.yaml").run_dir == str(tmp_path / first.path)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with begun(config) as run:
        log_run(run, sft=0, rl=1)
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        begun(config).__enter__()
    assert steps(run.path) == [("rl", 0), ("rl", 1)]


def fail_in(config: Config, records: int) -> None:
    with begun(config) as run:
        for step in range(records):
            run.log(step, {"kl": 0.1})
        raise ZeroDivisionError


def test_a_start_that_fails_leaves_no_folder_that_blocks_the_next_one(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with pytest.raises(ZeroDivisionError):
        fail_in(config, records=0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_later_keeps_its_folder(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with pytest.raises(ZeroDivisionError):
        fail_in(config, records=1)
    assert steps(tmp_path / "run") == [("rl", 0)]


def test_a_start_that_fails_deletes_nothing_that_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError):
        fail_in(config_for(tmp_path), records=0)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run_dir: .*file/run: Not a directory"):
        begun(Config(run_dir=str(tmp_path / "file" / "run"))).__enter__()


@pytest.mark.parametrize(
    ("resume_at", "sft_kept", "rl_kept"),
    [
        (("rl", 3), [1, 2, 3], [0, 1, 2, 3]),
        (("rl", 0), [1, 2, 3], [0]),
        (("sft", 2), [1, 2], []),
        (("sft", 0), [], []),
    ],
)
def test_a_resume_forgets_what_came_after_its_checkpoint(
    tmp_path: Path, resume_at: tuple[Phase, int], sft_kept: list[int], rl_kept: list[int]
) -> None:
    config = config_for(tmp_path)
    with begun(config) as run:
        log_run(run, sft=3, rl=5)
        for step in (2, 4):
            run.log_samples(step, [SAMPLE])
    phase, step = resume_at
    with begun(config, resume_at) as run:
        assert steps(run.path) == [("sft", s) for s in sft_kept] + [("rl", s) for s in rl_kept]
        run.log(step + 1, {"phase": phase, "loss" if phase == "sft" else "kl": 2.0})
    files = [file.name for file in sorted((run.path / "samples").iterdir())]
    kept = ["step-000002.json", "step-000002.txt"] if resume_at == ("rl", 3) else []
    assert files == kept
    sft, rl = [(s, 1.0) for s in sft_kept], [(s, 1.0) for s in rl_kept]
    (sft if phase == "sft" else rl).append((step + 1, 2.0))
    assert scalars(run.path, "sft", "loss") == sft
    assert scalars(run.path, "rl", "kl") == rl


def test_a_record_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with begun(config) as run:
        log_run(run, sft=0, rl=2)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "rl", "step": 3, "kl"')
    assert steps(run.path) == [("rl", 0), ("rl", 1), ("rl", 2)]
    with begun(config, ("rl", 2)) as run:
        run.log(3, {"kl": 0.5})
    assert steps(run.path) == [("rl", 0), ("rl", 1), ("rl", 2), ("rl", 3)]


def test_a_record_that_is_broken_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"phase": "rl", "step": 1, "logged_at": 0}\n[1]\n{}\n')
    with pytest.raises(RunError, match="line 2 is no record of a step; delete it"):
        read_records(tmp_path)


def test_every_step_that_was_logged_survives_kill_9(tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from stepcoder.config import Config
        from stepcoder.report.run_dir import RunDir
        with RunDir.open(Config(run_dir={str(tmp_path / "run")!r})) as run:
            run.begin()
            for step in range(1, 4):
                run.log(step, {{"kl": float(step)}})
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert steps(tmp_path / "run") == [("rl", 1), ("rl", 2), ("rl", 3)]
    with begun(Config(run_dir=str(tmp_path / "run")), ("rl", 2)) as run:
        run.log(3, {"kl": 30.0})
    assert [record["kl"] for record in read_records(run.path)] == [1.0, 2.0, 30.0]
    assert scalars(run.path, "rl", "kl") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    with begun(config_for(tmp_path)) as run:
        run.log(1, {"kl": math.nan, "time": {"judge": math.inf}, "entropy": 0.5})
    line = (run.path / "metrics.jsonl").read_text().strip()

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    record = json.loads(line, parse_constant=refuse)
    assert (record["kl"], record["time"], record["entropy"]) == (None, {"judge": None}, 0.5)


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    with begun(config_for(tmp_path)) as run:
        run.log_samples(20, [SAMPLE, SAMPLE])
        run.log_samples(3, [SCORED])
    assert read_rollout_samples(sample_files(run.path)) == [[SCORED], [SAMPLE, SAMPLE]]
    text = (run.path / "samples" / "step-000020.txt").read_text(encoding="utf-8")
    assert text.count("sums/add/1") == 2


def test_a_sample_with_broken_text_is_still_written(tmp_path: Path) -> None:
    broken = replace(SAMPLE, completion="    return '\ud800\x00'\r\n")
    with begun(config_for(tmp_path)) as run:
        run.log_samples(1, [broken])
        page = write_report(run.path)
    assert read_rollout_samples(sample_files(run.path)) == [[broken]]
    assert "return" in page.read_text(encoding="utf-8")


def test_long_values_of_a_verdict_are_cut() -> None:
    verdict = Verdict(Status.WRONG_ANSWER, (TestVerdict(Status.WRONG_ANSWER, got="9" * 10_000),))
    (test,) = to_dict(replace(SAMPLE, verdict=verdict))["verdict"]["tests"]
    assert len(test["got"]) == 400


def test_lines_tell_who_wrote_them_and_whether_they_ran() -> None:
    assert [(line.part, line.ran) for line in lines_of(SAMPLE)] == [
        ("given", True),
        ("given", True),
        ("written", False),
        ("written", True),
        ("outside", False),
        ("outside", False),
    ]


def test_a_line_that_was_given_in_part_was_written() -> None:
    sample = replace(SAMPLE, given="x = ", completion="1\n")
    (line,) = lines_of(sample)
    assert (line.text, line.part, line.given) == ("x = 1", "written", 4)
    assert '<span class="given">x = </span>1' in to_html(sample)


def test_a_page_shows_each_tokens_advantage_and_the_special_tokens_of_the_prompt() -> None:
    page = to_html(SCORED)
    codes = re.findall(r"<code>(.*?)</code>", page)
    assert codes == [
        '<u class="given">def add(a, b):</u>',
        '<u class="given">    if not b:</u>',
        '<u class="name p1" title="+0.20">\\n</u><u class="n2" title="-0.31">        return </u>'
        '<u class="masked" title="masked (+1.75)">a</u>'
        '<u class="end masked" title="masked (+1.75)"></u>',
        '<u class="p4" title="+2.00">    retu</u><u class="zero">rn a - b</u>'
        '<u class="end zero"></u>',
        '<u class="zero" title="+0.04">`</u><u class="n3" title="-0.75">``</u>'
        '<u class="end n3" title="-0.75"></u><u class="name p2" title="+0.50">&lt;|end|&gt;</u>',
    ]
    (prompt,) = re.findall(r'<pre class="prompt" tabindex="0">(.*?)</pre>', page, re.DOTALL)
    assert prompt == "<mark>&lt;|user|&gt;</mark>Add\n\ttwo &lt;b&gt;."
    assert "7 tokens" in page
    assert "Add two numbers." not in page
    assert "<dt>test 2</dt><dd>add(1,\n 2)</dd>" in page
    assert "<dt>expected</dt><dd>3</dd>" in page


def test_samples_of_runs_from_before_tokens_were_kept_are_still_shown(tmp_path: Path) -> None:
    old = to_dict(SAMPLE)
    for name in ("code", "prompt", "prompt_tokens", "tokens", "failed"):
        del old[name]
    with begun(config_for(tmp_path)) as run:
        run.log_samples(1, [])
    (file,) = sample_files(run.path)
    file.write_text(json.dumps([old], default=sorted))
    assert read_rollout_samples([file]) == [[SAMPLE]]
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "Add two numbers." in page
    assert 'class="line written ran"' in page
    assert "<u class=" not in page[page.index("<article") : page.index("</article>")]


def test_an_empty_completion_has_no_lines_of_its_own() -> None:
    sample = replace(SAMPLE, given="x = 1\n", completion="")
    assert [line.part for line in lines_of(sample)] == ["given"]


def test_a_sample_reads_well_as_text() -> None:
    assert to_text(SAMPLE) == textwrap.dedent(
        """\
        sums/add/1   step 20   stage 1   reward -0.30   25% of the response masked

          Add two numbers.

        program (│ given, ✓ ran, · did not run)
           1 │✓ def add(a, b):
           2 │✓     if not b:
           3  ·         return a
           4  ✓     return a - b
           5    ```
           6    Done.

        verdict: wrong answer
          test 1: accepted
          test 2: wrong answer: expected 3, got -1 (line 4)
        """
    )


def test_where_nothing_ran_no_line_is_marked() -> None:
    verdict = Verdict(Status.COMPILE_ERROR, message="SyntaxError: invalid syntax", error_line=3)
    sample = replace(SAMPLE, executed_lines=frozenset(), verdict=verdict)
    assert "·" not in to_text(sample).replace("· did not run)", "")
    assert "skipped" not in to_html(sample)
    assert to_text(sample).endswith(
        "no test ran: compile error: SyntaxError: invalid syntax (line 3)\n"
    )


def test_tests_that_ended_alike_are_told_once() -> None:
    passed, slow = TestVerdict(Status.ACCEPTED), TestVerdict(Status.CPU_TIME_LIMIT)
    wrong = TestVerdict(Status.WRONG_ANSWER, "expected 1, got 2")
    verdict = Verdict(Status.CPU_TIME_LIMIT, (passed, passed, wrong, slow, slow, slow, passed))
    assert to_text(replace(SAMPLE, verdict=verdict)).splitlines()[-4:] == [
        "  tests 1-2: accepted",
        "  test 3: wrong answer: expected 1, got 2",
        "  tests 4-6: cpu time limit",
        "  test 7: accepted",
    ]
