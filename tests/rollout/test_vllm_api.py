"""Requests to a vLLM server and the checks of its responses, without a server."""

import copy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcoder.errors import RunError
from stepcoder.rollout.engine import Sampling
from stepcoder.rollout.vllm.api import (
    InvalidResponse,
    cause_of,
    check_allocator,
    check_installed,
    completion_of,
    tokens_processed,
)

SAMPLING = Sampling(0.8, 4)
GOOD = {
    "choices": [
        {
            "token_ids": [5, 9],
            "finish_reason": "stop",
            "weight_versions": [{"version": "3", "start": 0, "end": 2}],
            "logprobs": {
                "content": [
                    {"token_id": 5, "logprob": -0.5},
                    {"token_id": 9, "logprob": -1.25},
                ]
            },
        }
    ],
    "usage": {"prompt_tokens_details": {"cached_tokens": 32}},
}


def read(answer):
    return completion_of(answer, 7, SAMPLING, vocabulary=10, weights="3")


def test_a_good_answer_becomes_a_completion():
    done = read(GOOD)
    assert (done.index, done.token_ids, done.logprobs) == (7, (5, 9), (-0.5, -1.25))
    assert done.stopped
    assert done.cached_tokens == 32


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda c: c.pop("logprobs"), "without what it must hold"),
        (lambda c: c.update(token_ids=[5, 10]), "outside the vocabulary"),
        (lambda c: c.update(token_ids=[5, True]), "outside the vocabulary"),
        (lambda c: c.update(token_ids=[]), "0 tokens"),
        (lambda c: c.update(token_ids=[5] * 5), "5 tokens"),
        (lambda c: c.update(token_ids=[5, 8]), "other tokens"),
        (lambda c: c.update(finish_reason="abort"), "abort"),
        (lambda c: c["logprobs"]["content"][1].update(logprob=-9999.0), "-9999"),
        (lambda c: c["logprobs"]["content"][1].update(logprob=float("nan")), "nan"),
        (lambda c: c["logprobs"]["content"][1].update(logprob=0.5), "0.5"),
        (lambda c: c["weight_versions"][0].update(version="2"), "weights ['2'], not '3'"),
    ],
)
def test_an_answer_that_cannot_be_true_is_refused_with_its_reason(damage, named):
    answer = copy.deepcopy(GOOD)
    damage(answer["choices"][0])
    with pytest.raises(InvalidResponse) as refusal:
        read(answer)
    assert named in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "usage", "token_ids", "logprobs", "content"]), inner
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_other_json_is_refused_and_never_an_error_of_ours(answer):
    with pytest.raises(InvalidResponse):
        read(answer)


def test_tokens_are_counted_from_the_servers_figures():
    text = (
        "# HELP vllm:prompt_tokens_total x\n"
        'vllm:prompt_tokens_total{engine="0"} 12.0\n'
        'vllm:generation_tokens_total{engine="0"} 30.0\n'
        'vllm:generation_tokens_created{engine="0"} 1.7e9\n'
    )
    assert tokens_processed(text) == 42


def test_the_cause_of_a_failure_is_the_first_error_in_the_log():
    log = (
        "(APIServer pid=1) WARNING 11-23 09:00:00 [x.py:1] nothing\n"
        "(EngineCore pid=2) ERROR 11-23 09:00:01 [core.py:9] Traceback (most recent call last):\n"
        "(EngineCore pid=2) ERROR 11-23 09:00:01 [core.py:9] ValueError: too little memory\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert cause_of(log) == "ValueError: too little memory"


@pytest.mark.parametrize("setting", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_expandable_segments_are_refused_where_a_server_shares_the_gpu(monkeypatch, setting):
    monkeypatch.setenv(setting, "expandable_segments:True")
    check_allocator("file")
    check_allocator("nccl")
    with pytest.raises(RunError, match=f"{setting}.*unset it"):
        check_allocator("ipc")


def test_another_vllm_is_refused_with_its_version_and_the_fix(tmp_path, monkeypatch):
    """0.25.1 is the last for torch 2.11; it has no trainer's side of the weight transfer."""
    folder = tmp_path / "vllm-0.25.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.25.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RunError) as error:
        check_installed()
    assert str(error.value) == (
        "rollout.engine=vllm: vllm 0.25.1 is installed, but this release drives vLLM 0.32.x, with "
        "torch 2.13; run make train ENGINE=vllm, or use rollout.engine=hf"
    )
