"""The order in which generation, judging and weight updates happen, with and without overlap."""

import threading

import pytest
import torch
from torch import nn

from stepcoder.rollout.pipeline import Generated, Pipeline, merged
from stepcoder.run.metrics import StepTimer


class Notebook:
    """Writes down what is asked of it: an engine's weights are one number here."""

    def __init__(self):
        self.weights = 0.0
        self.closed = False

    def update_weights(self, policy):
        if policy.weight.isnan().any():
            raise ValueError("these are no weights")
        self.weights = policy.weight.item()

    def close(self):
        self.closed = True


def batch_of(engine):
    return lambda: Generated([engine.weights], (0.0, 0.0), [])


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_batch_s_is_made_with_the_weights_after_step_s_minus_1_minus_ahead(ahead):
    engine, policy = Notebook(), nn.Linear(1, 1, bias=False)
    pipeline, seen, steps = Pipeline(engine, ahead), [], 8
    for step in range(1, steps + 1):
        while step + len(pipeline) <= min(step + ahead, steps):
            pipeline.begin(batch_of(engine))
        seen += pipeline.take().rollouts
        nn.init.constant_(policy.weight, step)
        pipeline.update_weights(policy)
        nn.init.constant_(policy.weight, -1)  # goes on changing before the engine is asked
    pipeline.close()
    assert seen == [max(step - 1 - ahead, 0) for step in range(1, steps + 1)]
    assert engine.closed


def test_overlapped_work_runs_beside_the_caller():
    engine, goes_on = Notebook(), threading.Event()
    pipeline = Pipeline(engine, 1)

    def slow():
        assert goes_on.wait(60)
        return batch_of(engine)()

    pipeline.begin(slow)
    goes_on.set()  # reached while the batch is being made
    assert pipeline.take().rollouts == [0.0]
    pipeline.close()


def test_nothing_is_generated_after_an_update_that_failed():
    engine, policy = Notebook(), nn.Linear(1, 1)
    pipeline = Pipeline(engine, 1)
    nn.init.constant_(policy.weight, torch.nan)
    pipeline.update_weights(policy)
    pipeline.begin(batch_of(engine))
    with pytest.raises(ValueError, match="no weights"):
        pipeline.take()
    pipeline.close()


def test_intervals_are_merged_where_they_meet():
    assert merged([(3, 4), (0, 2), (1, 2.5), (4, 5)]) == [(0, 2.5), (3, 5)]


def test_the_hidden_share_of_judging_is_what_the_loop_did_not_wait_for():
    clock = StepTimer()
    clock.record_wait(Generated([], (0.0, 4.0), [(1.0, 3.0), (3.5, 5.5)]), start=0.0, end=5.5)
    spent = clock.take()
    assert spent.seconds == {"generate": 4.0, "judge": 1.5}
    assert spent.hidden_judge_share == pytest.approx(1 - 1.5 / 4)
    clock.record_wait(Generated([], (0.0, 4.0), [(1.0, 5.0)]), start=6.0, end=6.1)  # made ahead
    assert clock.take().hidden_judge_share == pytest.approx(1 - 0.1 / 4)
