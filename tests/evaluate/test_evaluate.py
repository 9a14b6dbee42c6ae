"""`python -m stepcoder.evaluate`: figures, resume after kill -9, top-p, errors in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
import torch
from browser import console_errors, needs_browser, open_browser, requested

from stepcoder.config import ModelConfig
from stepcoder.evaluate.__main__ import main
from stepcoder.evaluate.passk import estimate, pass_at_k
from stepcoder.evaluate.policies import find_checkpoint
from stepcoder.models.embedded import small_decoder, train_tokenizer
from stepcoder.rollout.engine import Sampling
from stepcoder.rollout.hf_engine import nucleus
from stepcoder.rollout.vllm.api import generate_body

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"


def problem(name: str, **more) -> dict:
    return {
        "task_id": name,
        "prompt": "Add one.",
        "starter_code": "def f(x):\n",
        "canonical_solution": RIGHT,
        "entry_point": "f",
        "tests": {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 3]},
        **more,
    }


def write_lines(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def problems(tmp_path) -> Path:
    levels = ("interview", "introductory", "introductory")
    records = [problem(f"t/{i}", difficulty=level) for i, level in enumerate(levels)]
    return write_lines(tmp_path / "problems.jsonl", records)


@pytest.fixture
def policy(tmp_path) -> Path:
    folder = tmp_path / "policy"
    tokenizer = train_tokenizer([RIGHT + "```"], 300)
    shape = ModelConfig(layers=1, width=32, heads=2, kv_heads=1)
    small_decoder(shape, tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("n", "c", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (6, 5, 2), (4, 4, 4)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_a_right_one(n, c, k):
    drawn = list(combinations(range(n), k))
    share = sum(any(i < c for i in choice) for choice in drawn) / len(drawn)
    assert pass_at_k(n, c, k) == pytest.approx(share)


def test_pass_at_k_of_too_few_samples_is_refused():
    with pytest.raises(ValueError, match="pass@3 of 1 in 2"):
        pass_at_k(2, 1, 3)
    assert estimate([(2, 1)], 3) is None


def test_the_interval_is_that_of_a_mean_over_problems():
    counts = [(1, 1)] * 40 + [(1, 0)] * 60
    found = estimate(counts, 1)
    assert found.value == 0.4
    deviation = 1.96 * (0.4 * 0.6 / 100) ** 0.5
    assert found.low == pytest.approx(0.4 - deviation, abs=0.015)
    assert found.high == pytest.approx(0.4 + deviation, abs=0.015)
    assert estimate(counts, 1) == found


def test_samples_give_figures_groups_and_failing_tests(problems, tmp_path, capsys):
    samples = [
        {"task_id": "t/0", "solution": WRONG},
        {"task_id": "t/0", "completion": "    return x + 1\n"},
        {"task_id": "t/1", "answer": f"Sure!\n```python\n{RIGHT}```\nThat is all."},
        {"task_id": "t/1", "solution": "def f(x:"},
        {"task_id": "t/2", "solution": RIGHT},
        {"task_id": "t/2", "solution": RIGHT},
    ]
    file, out = write_lines(tmp_path / "samples.jsonl", samples), tmp_path / "out"
    arguments = [str(problems), "--samples", str(file), "-o", str(out), "-k", "1", "2"]
    assert main(arguments) == 0
    assert "pass@2" in capsys.readouterr().out
    figures = json.loads((out / "results.json").read_text())
    assert figures["all"]["pass@1"]["value"] == pytest.approx(2 / 3)
    assert figures["all"]["pass@2"]["value"] == 1.0
    assert figures["difficulty introductory"]["pass@1"]["value"] == 0.75
    assert list(figures) == ["all", "difficulty introductory", "difficulty interview"]
    failed = lines(out / "problems.jsonl")[0]["first_failure"]
    assert failed["status"] == "wrong answer"
    assert failed["failing_test"]["number"] == 1
    assert failed["failing_test"]["input"] == "[1]"
    assert failed["failing_test"]["expected"] == "2"
    assert failed["failing_test"]["got"] == "1"
    page = (out / "report.html").read_text()
    assert "<script src" not in page
    assert "t/0: 1 of 2 pass" in page
    assert "| all | 3 | 6 | 66.7%" in (out / "results.md").read_text()
    assert (out / "results.csv").read_text().startswith("group,problems,samples,k,pass_at_k")


@needs_browser
def test_a_browser_draws_the_page_without_a_network(problems, tmp_path):
    samples = [
        {"task_id": f"t/{i}", "solution": solution} for i in range(3) for solution in (RIGHT, WRONG)
    ]
    file, out = write_lines(tmp_path / "samples.jsonl", samples), tmp_path / "out"
    assert main([str(problems), "--samples", str(file), "-o", str(out), "-k", "1", "2"]) == 0
    with open_browser() as driver:
        driver.get((out / "report.html").as_uri())
        assert driver.execute_script("return document.body.dataset.drawn") == "5"
        assert console_errors(driver) == []
        assert all(url.startswith(("file:", "data:")) for url in requested(driver))


def test_a_killed_evaluation_goes_on_where_it_stopped(problems, tmp_path):
    slow = "import time\ntime.sleep(0.1)\n" + RIGHT
    samples = [{"task_id": f"t/{i % 3}", "solution": slow} for i in range(60)]
    file, out = write_lines(tmp_path / "samples.jsonl", samples), tmp_path / "out"
    arguments = [str(problems), "--samples", str(file), "-o", str(out), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepcoder.evaluate", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    verdicts = out / "verdicts.jsonl"
    while not verdicts.exists() or verdicts.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = verdicts.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert whole.count(b"\n") < 60
    verdicts.write_bytes(whole + b'{"task_id": "t/')  # a line that was being written
    assert main(arguments) == 0
    assert verdicts.read_bytes().startswith(whole)
    keys = sorted((r["task_id"], r["sample"]) for r in lines(verdicts))
    assert keys == [(f"t/{i}", n) for i in range(3) for n in range(20)]


def test_a_policys_answers_are_the_same_after_a_resume(problems, policy, tmp_path):
    options = ["--policy", str(policy), "-n", "2", "--max-new-tokens", "6", "--device", "cpu"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([str(problems), *options, "-o", str(whole)]) == 0
    assert main([str(problems), *options, "-o", str(cut)]) == 0
    for name, kept in (("samples.jsonl", 3), ("verdicts.jsonl", 1)):
        text = (cut / name).read_text().splitlines(keepends=True)
        (cut / name).write_text("".join(text[:kept]))
    assert main([str(problems), *options, "-o", str(cut)]) == 0

    def answers(folder):
        return sorted((r["task_id"], r["sample"], r["completion"]) for r in lines(folder / SAMPLES))

    assert len(answers(whole)) == 6
    assert answers(cut) == answers(whole)
    assert len({text for _, _, text in answers(whole)}) > 1
    assert len(lines(cut / "verdicts.jsonl")) == 6


def test_problems_whose_prompts_do_not_fit_are_left_out_and_named(policy, tmp_path, capsys):
    records = [problem("short"), problem("long", prompt="Add one. " * 40)]
    path = write_lines(tmp_path / "two.jsonl", records)
    options = [str(path), "--policy", str(policy), "-n", "1", "--max-new-tokens", "4"]
    options += ["--device", "cpu", "--max-prompt-tokens", "60"]
    assert main([*options, "-o", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert error.count("1 problems left out, prompts above --max-prompt-tokens=60: long\n") == 1
    assert [r["task_id"] for r in lines(tmp_path / "out" / SAMPLES)] == ["short"]
    assert main([*options, "--max-prompt-tokens", "5", "-o", str(tmp_path / "none")]) == 2
    assert "no prompt fits" in capsys.readouterr().err
    assert main([*options, "--max-prompt-tokens", "3000", "-o", str(tmp_path / "more")]) == 2
    assert "beyond the model's 2048 positions" in capsys.readouterr().err


def test_a_policy_that_was_trained_in_its_own_words_is_asked_for_an_answer(policy, tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "rl-000001"
    folder.mkdir(parents=True)
    (folder / "state.pt").touch()
    (folder / "policy").symlink_to(policy)
    (tmp_path / "run" / "config.yaml").write_text(
        'prompt: {template: "{description}\\n{answer}"}\ncurriculum: {cccs: false}\n'
    )
    path = write_lines(tmp_path / "one.jsonl", [problem("t/0")])
    options = ["--policy", str(tmp_path / "run"), "-n", "1", "--max-new-tokens", "4"]
    assert main([str(path), *options, "--device", "cpu", "-o", str(tmp_path / "out")]) == 0
    (record,) = lines(tmp_path / "out" / SAMPLES)
    assert "answer" in record
    assert "given" not in record


SAMPLES = "samples.jsonl"


def test_other_settings_do_not_go_on_with_a_folder(problems, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(problems), "--canonical", "-o", str(out)]) == 0
    assert main([str(problems), "--canonical", "-o", str(out), "--cpu-s", "1"]) == 2
    error = capsys.readouterr().err
    assert "cpu_s was 2.0, is 1.0" in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl", "--canonical"], "none.jsonl: no such file"),
        (["problems.jsonl", "--policy", "nowhere"], "--policy: nowhere is no folder here"),
        (["problems.jsonl", "--policy", "."], "config.json is missing"),
        (["problems.jsonl", "--samples", "bad.jsonl"], "bad.jsonl line 1: field"),
        (["problems.jsonl", "--samples", "none.jsonl"], "none.jsonl cannot be read"),
        (["problems.jsonl", "--canonical", "--split", "moon"], "--split moon: the problems have"),
    ],
)
def test_wrong_input_is_one_line(arguments, words, problems, monkeypatch, capsys):
    monkeypatch.chdir(problems.parent)
    Path("bad.jsonl").write_text('{"task_id": "t/0"}\n')
    assert main([*arguments, "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["-n", "2", "-k", "5"], ["--temperature", "0"], ["--top-p", "0"], ["-n", "0"]]
)
def test_wrong_options_are_one_line(arguments, problems, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(problems), "--policy", "p", "-o", "out", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_of_a_run_the_newest_checkpoint_and_its_template_are_taken(tmp_path, policy):
    for name in ("sft-000009", "rl-000001", "rl-000002"):
        folder = tmp_path / "run" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "state.pt").touch()
        (folder / "policy").symlink_to(policy)
    (tmp_path / "run" / "config.yaml").write_text('prompt: {template: "{description}# {given}"}')
    found = find_checkpoint(tmp_path / "run")
    assert found.folder.parent.name == "rl-000002"
    assert found.prompt.template == "{description}# {given}"
    older = find_checkpoint(tmp_path / "run" / "checkpoints" / "rl-000001")
    assert older.folder.parent.name == "rl-000001"
    assert older.prompt == found.prompt
    assert find_checkpoint(policy).prompt.template == "auto"


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    probabilities = torch.tensor([[0.1, 0.5, 0.25, 0.15], [0.96, 0.02, 0.01, 0.01]])
    kept = nucleus(probabilities, 0.7) > 0
    assert kept.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert (nucleus(probabilities, 1e-9) > 0).sum(-1).tolist() == [1, 1]


def test_training_never_asks_a_server_for_top_p():
    from stepcoder.rollout.engine import Request

    request = Request((1, 2), 0)
    assert generate_body(request, Sampling(0.8, 4), (1,), None)["sampling_params"]["top_p"] == 1.0
    body = generate_body(request, Sampling(0.8, 4, top_p=0.95), (1,), None)
    assert body["sampling_params"]["top_p"] == 0.95
