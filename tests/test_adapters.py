"""Rewards for TRL and verl: in their own signatures, through their own code where installed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepcoder.adapters import CodeReward, code_of, compute_score

TESTS = {"kind": "call", "inputs": [[1], [2]], "outputs": [2, 3]}
RIGHT, WRONG = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"


@pytest.fixture(scope="module")
def rewarder() -> Iterator[CodeReward]:
    with CodeReward(workers=2) as rewarder:
        yield rewarder


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (RIGHT, RIGHT),
        (f"So:\n```python\nwrong\n```\nor\n```python\n{RIGHT}```\nDone.", RIGHT),
        (f"```\n{RIGHT}```", RIGHT),
        (f"cut off\n```python\n{RIGHT}", RIGHT),
    ],
)
def test_the_program_is_the_last_fenced_block(text: str, code: str) -> None:
    assert code_of(text) == code
    assert (
        code_of([{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]) == code
    )


def test_each_completion_has_its_reward(rewarder: CodeReward) -> None:
    completions = [RIGHT, WRONG, "def f(x): return 1 / 0", "def f(x) return"]
    columns: dict[str, Any] = {"tests": [TESTS, json.dumps(TESTS)] * 2, "entry_point": ["f"] * 4}
    given = rewarder(prompts=[""] * 4, completions=completions, trainer_state=None, **columns)
    assert given == [1.0, -0.3, -0.6, -1.0]


def test_a_completion_goes_on_from_its_starter_code(rewarder: CodeReward) -> None:
    given = rewarder([""], ["    return x + 1\n"], [TESTS], ["f"], starter_code=["def f(x):\n"])
    assert given == [1.0]


def test_a_row_that_cannot_be_judged_has_no_reward_and_one_line(
    rewarder: CodeReward, caplog: pytest.LogCaptureFixture
) -> None:
    before = rewarder.failures
    no_name = {"kind": "call", "inputs": [[1]], "outputs": [2]}
    rows = [TESTS, {"strange": 1}, {"strange": 1}, no_name, "[1"]
    assert rewarder([""] * 5, [RIGHT] * 5, rows, ["f", "f", "f", None, "f"]) == [1.0, *[None] * 4]
    assert rewarder.failures - before == 4
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == [
        f"row {i} of a batch has no reward" for i in (1, 3, 4)
    ]
    assert "no known layout" in told[0]
    assert "entry_point" in told[1]
    assert "no JSON" in told[2]


READS = "print(int(input()) + 1)\n"
METHOD = "class Solution:\n    def f(self, x: List[int]) -> int:\n        return x[0] + 1\n"


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        # PRIME/Eurus and APPS: calls with lists of arguments, results in a list of one.
        (RIGHT, {"fn_name": "f", "inputs": [[1], [5]], "outputs": [[2], [6]]}),
        # PRIME as verl's harness reads it: arguments and result as lines of JSON.
        (RIGHT, {"fn_name": "f", "inputs": ["1", "5"], "outputs": ["2", "6"]}),
        (METHOD, {"fn_name": "f", "inputs": ["[1, 7]"], "outputs": ["2"]}),
        (READS, {"inputs": ["1\n", "5\n"], "outputs": ["2\n", "6\n"]}),
        (READS, {"inputs": [["1", ""]], "outputs": [["2"]]}),
        # DeepCoder's parts, and LiveCodeBench.
        (READS, [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        (READS, [{"type": "stdin_stdout", "input": "1\n", "output": "2\n", "fn_name": None}]),
        (RIGHT, [{"type": "function_call", "fn_name": "f", "input": [1], "output": [2]}]),
        (
            METHOD,
            [{"input": "[1]", "output": "2", "testtype": "functional",
              "metadata": {"func_name": "f"}}],
        ),
        # AceCode and verl's sandbox_fusion.
        (RIGHT, ["assert f(1) == 2", "assert f(5) == 6"]),
        (RIGHT, {"inputs": ["", ""], "outputs": ["", ""], "assert_case": ["assert f(1) == 2", ""]}),
    ],
)  # fmt: skip
def test_verl_scores_ground_truths_as_they_are_published(source: str, truth: Any) -> None:
    def status(program: str, ground_truth: Any) -> Any:
        return compute_score("x", f"```python\n{program}```", ground_truth, {})["status"]

    assert status(source, json.dumps(truth)) == status(source, truth) == "accepted"
    assert status(source.replace("+ 1", "+ 2"), truth) in ("wrong answer", "runtime error")


@pytest.mark.parametrize(
    "truth", ["no JSON", "{}", '{"inputs": ["1"], "outputs": []}', None, "[1]"]
)
def test_verl_counts_a_ground_truth_that_cannot_be_read(
    truth: Any, caplog: pytest.LogCaptureFixture
) -> None:
    found = compute_score("taco", f"```python\n{RIGHT}```", truth, {"index": 7, "split": truth})
    assert found == {
        "score": 0.0,
        "acc": 0.0,
        "points": 0.0,
        "status": "infrastructure error",
        "judge_failed": 1.0,
    }
    assert "a row of 'taco' (index 7) has no reward" in caplog.text


def test_points_are_the_share_of_the_tests() -> None:
    truth = {"fn_name": "f", "inputs": [[1], [2], [3], [4]], "outputs": [2, 3, 4, 0]}
    found = compute_score("x", RIGHT, truth)
    assert (found["score"], found["points"]) == (-0.3, 0.75)


def test_a_copy_has_a_judge_of_its_own(rewarder: CodeReward) -> None:
    assert rewarder([""], [RIGHT], [TESTS], ["f"]) == [1.0]
    with pickle.loads(pickle.dumps(rewarder)) as copy:
        assert copy([""], [WRONG], [TESTS], ["f"]) == [-0.3]


def test_verl_scores_from_many_threads() -> None:
    def score(source: str) -> Any:
        found = compute_score("x", source, json.dumps(TESTS), {"entry_point": "f"}, router=None)
        return found["score"], found["acc"], found["status"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(score, [RIGHT, WRONG] * 8))
    assert found == [(1.0, 1.0, "accepted"), (-0.3, 0.0, "wrong answer")] * 8


def test_verl_loads_and_calls_the_function() -> None:
    reward_module = pytest.importorskip(
        "verl.trainer.ppo.reward", reason="verl is not installed", exc_type=ImportError
    )
    omegaconf = pytest.importorskip("omegaconf", reason="verl is not installed")
    chosen = {"path": "pkg://stepcoder.adapters", "name": "compute_score"}
    config = omegaconf.OmegaConf.create({"reward": {"custom_reward_function": chosen}})
    function = reward_module.get_custom_reward_fn(config)
    found = function(
        data_source="mine",
        solution_str=f"```python\n{RIGHT}```",
        ground_truth=json.dumps(TESTS),
        extra_info={"entry_point": "f"},
    )
    assert found["score"] == 1.0


@pytest.mark.filterwarnings("default")
def test_trl_trains_a_step_on_these_rewards(tmp_path: Path, rewarder: CodeReward) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="TRL is not installed")
    import torch
    from helpers.tokenizers_built import single_bytes
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=single_bytes([]), eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
        )
    )
    rows = [{"prompt": "Add one.", "tests": json.dumps(TESTS), "entry_point": "f"}] * 2
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=8,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=rewarder,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "reward" in entry]
    # Random letters: none is right, all had a verdict.
    assert -1.0 <= logged["rewards/code_reward/mean"] <= -0.3


def test_the_entry_point_tells_which_block_counts_and_how_it_is_mended() -> None:
    starter = "class Solution:\n    def f(self, x: int) -> int:\n        "
    method = (
        "```python\ndef f(self, x):\n    return x + 1\n```\nUse:\n```python\nx = f(None, 1)\n```"
    )
    source = code_of(f"<think>\n```python\n{WRONG}```\n</think>\n{method}", "Solution().f", starter)
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert namespace["Solution"]().f(1) == 2
    assert code_of(f"```python\n{RIGHT}```\n```python\nprint(f(1))\n```", "f") == RIGHT
