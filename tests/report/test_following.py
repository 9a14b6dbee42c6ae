"""What a real run tells those who follow it: what is slow, what never passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_runs import constant_problems, run

from stepcoder.report.page import write_report
from stepcoder.report.run_dir import read_records

STEPS = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights on two problems, each of which it tries at every step."""
    folder = tmp_path_factory.mktemp("followed")
    given = f"data.path={constant_problems(folder / 'two.jsonl', (3, 4))}"
    options = ["sft.steps=0", "sft.share=1.0", f"steps={STEPS}", "eval.every=2"]
    assert run(folder / "run", given, *options, "rollout.tasks_per_step=2", "dtype=float32") == 0
    return folder / "run"


def test_a_run_names_what_took_longest_and_what_never_passes(trained: Path) -> None:
    *_, third, last = read_records(trained)
    names = ["constant/0", "constant/1"]
    for task_id, tokens, end in last["slowest"]["generate"]:
        assert task_id in names
        assert (tokens, end) == (24, "cut off") or (tokens <= 24 and end == "ended")
    (_, seconds, status), *_ = last["slowest"]["judge"]
    assert seconds == round(last["slowest_judge_s"], 3)
    assert status in last["verdicts"]
    assert third["never_passed"] == {"problems": 2, "most_tried": [[name, 3] for name in names]}
    assert last["never_passed"]["most_tried"] == [[name, 4] for name in names]
    page = write_report(trained).read_text(encoding="utf-8")
    assert "2 problems, in 3 attempts or more" in page
    assert "<tr><th>constant/0</th><td>4 attempts</td></tr>" in page
