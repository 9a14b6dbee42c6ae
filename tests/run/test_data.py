"""What a run trains on, what it holds out, and what it never looks at while it trains."""

import pytest
from helpers.tokenizers_built import single_bytes

from stepcoder.config import Config, CurriculumConfig, DataConfig, PromptConfig, SFTConfig
from stepcoder.errors import RunError
from stepcoder.problems.problem import Problem
from stepcoder.problems.template import TEMPLATE
from stepcoder.run.data import TrainingData, fitting, load_data
from stepcoder.sandbox.program import AssertTests


def test_no_problem_is_in_two_parts_and_none_is_lost():
    data = load_data(DataConfig(), supervised_share=0.7)
    parts = [data.supervised, data.train, data.validation, data.test]
    names = [{p.task_id for p in part} for part in parts]
    assert all(len(part) > 150 for part in parts)
    whole = load_data(DataConfig(), supervised_share=1.0)
    everything = {p.task_id for p in (*whole.train, *whole.validation, *whole.test)}
    assert sum(map(len, names)) == len(set.union(*names)) == len(everything)


def test_with_a_share_of_one_supervision_and_rl_have_the_same_problems():
    data = load_data(DataConfig(), supervised_share=1.0)
    assert data.supervised == data.train


def test_a_split_by_hash_holds_out_the_share_asked_for_and_no_test_problems():
    data = load_data(DataConfig(split="hash", validation_share=0.3), supervised_share=1.0)
    total = len(data.train) + len(data.validation)
    assert data.test == ()
    assert 0.25 < len(data.validation) / total < 0.35


def test_a_share_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(RunError, match=r"data\.split"):
        load_data(DataConfig(split="hash", validation_share=1.0), 1.0)


def config(most: int, **curriculum: bool) -> Config:
    prompt = PromptConfig(TEMPLATE, max_prompt_tokens=most)
    return Config(prompt=prompt, sft=SFTConfig(1), curriculum=CurriculumConfig(**curriculum))


def test_problems_whose_prompts_do_not_fit_are_left_out_counted_and_named():
    body = "    if x:\n        return 1\n    if not x:\n        return 2\n    while x: x = 0\n"
    short, long, staged = (
        Problem(name, prompt, "def f(x):\n", f"def f(x):\n{rest}", AssertTests(("pass",)))
        for name, prompt, rest in (
            ("short", "Do.", "    pass\n"),
            ("long", "Do. " * 20, "    pass\n"),
            ("staged", "Do.", body),
        )
    )
    data = TrainingData((short, staged), (short, long, staged), (long, short), (staged,), "abc")
    tokenizer = single_bytes([])  # a token a byte
    found, line = fitting(data, tokenizer, config(45))
    assert found == TrainingData((short, staged), (short,), (short,), (staged,), "abc")
    assert line == "2 problems left out, prompts above prompt.max_prompt_tokens=45: long, staged"
    assert fitting(data, tokenizer, config(45, cccs=False))[0].train == (short, staged)
    assert fitting(data, tokenizer, config(1000)) == (data, "")
    with pytest.raises(RunError, match="no problem is left to train on: 3 problems left out"):
        fitting(data, tokenizer, config(10))
