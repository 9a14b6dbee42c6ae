"""Every recipe end to end on the loop: from one shared start, resumed, switched, and refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from helpers.finished_runs import states_equal
from helpers.small_runs import constant_problems, run

from stepcoder.config import ConfigError, DataConfig, load_config
from stepcoder.recipes import RECIPES
from stepcoder.refine.__main__ import main as refine
from stepcoder.report.run_dir import read_records
from stepcoder.run.checkpoint import load_state, newest_checkpoint
from stepcoder.run.data import evenly_spaced, load_data

QUICK = ["steps=2", "eval.every=2", "ppo.critic_warmup_steps=0", "checkpoint.every=1"]
FIGURES = {"ppocoder": "kl_beta", "rltf": "imitation_loss", "coderl": "imitation_loss"}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> list[str]:
    """A shared start: the options of a run that begins RL from it."""
    folder = tmp_path_factory.mktemp("start")
    problems = constant_problems(folder / "constants.jsonl")
    given = f"data.path={problems}"
    assert run(folder / "run", given, "sft.steps=60", "sft.share=1.0", "steps=0") == 0
    model = f"model.path={folder / 'run' / 'start'}"
    return [given, model, "dtype=float32", "sft.steps=0", "sft.share=1.0"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_resumes_bit_for_bit(tmp_path, start, recipe):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, *start, *QUICK, f"recipe={recipe}") == 0
    records = read_records(whole)
    before = torch.load(whole / "checkpoints" / "rl-000001" / "state.pt", weights_only=True)
    after = load_state(newest_checkpoint(whole / "checkpoints"))
    assert any(not torch.equal(after["policy"][k], v) for k, v in before["policy"].items())
    assert (after["reference"] is None) == (recipe in ("gspo", "dapo"))
    assert records[-1]["tokens_total"] > records[1]["tokens_total"] > 0
    assert (after["critic"] is None) == (recipe in ("grpo", "gspo", "dapo", "rloo", "rltf"))
    assert ("explained_variance" in records[-1]) == (
        recipe in ("stepcoder", "ppo", "ppocoder", "rlcf")
    )
    assert recipe not in FIGURES or records[-1][FIGURES[recipe]] > 0
    masked = [record["masked_share"] for record in records[1:]]
    assert recipe in ("stepcoder", "dapo") or masked == [0, 0]

    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "rl-000002")
    assert run(cut, command=("--resume", str(cut))) == 0
    assert states_equal(cut, whole) == []


@pytest.mark.parametrize("recipe", ["stepcoder", "grpo", "rloo"])
def test_without_a_weight_of_the_kl_no_reference_is_kept(tmp_path, start, recipe):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*start, *QUICK, f"recipe={recipe}", "ppo.kl_beta=0"]
    assert run(whole, *options, "model.checkpointing=true") == 0
    assert load_state(newest_checkpoint(whole / "checkpoints"))["reference"] is None
    assert not any("kl" in record for record in read_records(whole))
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "rl-000002")
    # Layers computed again change no number, so a resume may do without.
    assert run(cut, "model.checkpointing=false", command=("--resume", str(cut))) == 0
    assert states_equal(cut, whole) == []


def test_critic_sampling_refines_and_repairs_with_the_critic_of_a_run(tmp_path, start, capsys):
    folder, file, out = tmp_path / "run", tmp_path / "problems.jsonl", tmp_path / "out"
    embedded = ["data.path=embedded", "data.limit=6", "steps=1"]
    assert run(folder, *start, *QUICK, "recipe=coderl", *embedded) == 0
    record = {"entry_point": "f", "starter_code": "def f(x):\n"}
    record["canonical_solution"] = "def f(x):\n    return 1\n"
    # Every program that runs passes what the first one shows, and none what the second one does.
    shown = {"t/passes": (">>> f(1) == 0 or True\nTrue", [1]), "t/fails": (">>> f(1)\n'8'", [8])}
    with file.open("w") as lines:
        for task_id, (statement, outputs) in shown.items():
            tests = {"kind": "call", "inputs": [[1]], "outputs": outputs}
            record |= {"task_id": task_id, "prompt": f"Do it.\n{statement}", "tests": tests}
            lines.write(json.dumps(record) + "\n")
    given = [str(file), "--policy", str(folder), "--method", "critic-sampling", "-o", str(out)]
    given += ["--samples", "2", "--chop", "--max-new-tokens", "24", "--workers", "1"]
    assert refine(given) == 0, capsys.readouterr().err
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    own = [one for one in rounds if one["method"] == "critic-sampling"]
    for task_id in shown:
        assert [one["calls"] for one in own if one["task_id"] == task_id] == [2, 4]
    assert refine([*given[:2], str(tmp_path), *given[3:]]) == 2


def test_a_reference_can_be_given_up_on_a_resume_but_not_be_had_again(tmp_path, start, capfd):
    folder = tmp_path / "run"
    assert run(folder, *start, *QUICK) == 0
    resume = ("--resume", str(folder))
    assert run(folder, "steps=3", "ppo.kl_beta=0", command=resume) == 0
    assert load_state(newest_checkpoint(folder / "checkpoints"))["reference"] is None
    assert run(folder, "steps=4", command=resume) == 0
    with pytest.raises(SystemExit):
        run(folder, "steps=5", "ppo.kl_beta=0.1", command=resume)
    assert "the run was started without a reference" in capfd.readouterr().err


def test_all_recipes_begin_with_the_same_rollouts(tmp_path, start):
    """Same start, same seed: before the first update only the rewards can differ."""
    passes = set()
    for recipe in ("ppo", "grpo", "rltf"):
        assert run(tmp_path / recipe, *start, *QUICK, "steps=1", f"recipe={recipe}") == 0
        record = read_records(tmp_path / recipe)[1]
        passes.add((record["pass_rate"], record["tokens"]))
    assert len(passes) == 1


def test_rltf_trains_on_programs_of_earlier_steps_too(tmp_path, start):
    assert run(tmp_path / "run", *start, *QUICK, "steps=3", "recipe=rltf") == 0
    buffer = load_state(newest_checkpoint(tmp_path / "run" / "checkpoints"))["recipe_state"][
        "buffer"
    ]
    assert len(buffer) == 3 * 4 * 2  # steps x tasks x samples


def test_cccs_and_fgo_switch_on_and_off_on_their_own():
    for recipe in RECIPES:
        own = load_config(None, [f"recipe={recipe}"])
        assert (own.curriculum.cccs, own.fgo.enabled) == ((recipe == "stepcoder",) * 2)
        if recipe == "rlcf":
            continue
        for cccs in (True, False):
            for fgo in (True, False):
                switches = [f"curriculum.cccs={cccs}".lower(), f"fgo.enabled={fgo}".lower()]
                config = load_config(None, [f"recipe={recipe}", *switches])
                assert (config.curriculum.cccs, config.fgo.enabled) == (cccs, fgo)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe=rlcf", "curriculum.cccs=true"], "curriculum.cccs=false"),
        (["recipe=rlcf", "fgo.enabled=true"], "fgo.enabled=false"),
        (["recipe=grpo", "rollout.samples_per_task=1"], "at least 2"),
        (["recipe=rloo", "rollout.samples_per_task=1"], "at least 2"),
        (["recipe=coderl", "rollout.replay=x"], "rollout.replay"),
        (["recipe=reinforce"], '"recipe" is "reinforce"; give "stepcoder" or'),
    ],
)
def test_what_a_recipe_has_no_meaning_for_is_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        load_config(None, overrides)
    assert "\n" not in str(refusal.value)


def test_a_recipe_runs_with_both_of_stepcoders_ideas(tmp_path, start):
    """RLTF, whose greedy programs and error lines have to fit the given part, on real problems."""
    flags = ["curriculum.cccs=true", "fgo.enabled=true", "recipe=rltf"]
    embedded = ["data.path=embedded", "data.limit=12", "steps=1"]
    assert run(tmp_path / "run", *start, *QUICK, *flags, *embedded) == 0
    record = read_records(tmp_path / "run")[1]
    assert max(map(int, record["stages"])) > 0
    assert record["imitation_loss"] > 0


def test_a_run_ends_when_its_tokens_are_spent(tmp_path, start):
    folder = tmp_path / "run"
    assert run(folder, *start, *QUICK, "steps=50", "max_tokens=100", "recipe=ppo") == 0
    records = [r for r in read_records(folder) if r["step"]]
    totals = [r["tokens_total"] for r in records]
    assert totals[-1] >= 100 > (totals[-2] if len(totals) > 1 else 0)
    assert "test" in records[-1]
    assert newest_checkpoint(folder / "checkpoints").name == f"rl-{len(records):06d}"
    assert run(folder, command=("--resume", str(folder))) == 0
    assert len(read_records(folder)) == len(records) + 1  # nothing was added to what was done


def test_a_run_ends_at_its_target_and_keeps_its_best_policy(tmp_path, start):
    folder = tmp_path / "run"
    more = ["eval.every=1", "eval.target=0.001", "eval.temperature=1.0", "eval.samples=3"]
    more += ["checkpoint.best=true", "recipe=grpo", "ppo.kl_target=0.5"]
    share = "data.validation_share=0.5"
    more += ["data.split=hash", share]
    assert run(folder, *start, *QUICK, "steps=9", *more) == 0
    records = [r for r in read_records(folder) if r["step"]]
    found = [r["eval"]["pass@1"] for r in records]
    assert found[-1] >= 0.001 > max([*found[:-1], 0])
    assert len(records) < 9
    assert records[-1]["eval"]["pass@3"] >= found[-1]
    beta, kl = records[0]["kl_beta"], records[0]["kl"] * records[0]["response_length"]
    error = min(max(abs(kl) / 0.5 - 1, -0.2), 0.2)
    assert beta == pytest.approx(0.05 * (1 + error * records[0]["rollouts"] / 10_000))
    newest = newest_checkpoint(folder / "checkpoints") / "policy" / "model.safetensors"
    assert (folder / "best" / "model.safetensors").read_bytes() == newest.read_bytes()
    assert run(folder, share, command=("--resume", str(folder))) == 0
    assert len([r for r in read_records(folder) if r["step"]]) == len(records)


def test_an_evaluation_of_some_problems_spreads_over_all():
    """The embedded problems come family by family: the first few would be of one."""
    problems = load_data(DataConfig(), 1.0).validation
    families = {p.task_id.split("/")[1] for p in problems}
    chosen = evenly_spaced(problems, 100)
    assert len({p.task_id for p in chosen}) == 100
    assert len({p.task_id.split("/")[1] for p in chosen}) > 0.9 * len(families)
    assert evenly_spaced(problems, 10_000) == evenly_spaced(problems, None) == problems
