"""What a run trains on, what it holds out, and what it never looks at while it trains."""

import pytest

from stepcoder.config import DataConfig
from stepcoder.errors import RunError
from stepcoder.run.data import load_data


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
