"""The configuration: files, overrides, strict types, errors that name key and fix."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcoder.config import (
    LEAVES,
    Config,
    from_dict,
    load_config,
    parse_args,
    to_dict,
    to_yaml,
)
from stepcoder.options import ConfigError, Leaf, convert


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def error_of(file: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_tree_is_small_enough_to_know_and_every_leaf_says_what_it_means() -> None:
    assert len(LEAVES) <= 111
    assert [name for name, leaf in LEAVES.items() if not leaf.meaning.endswith(".")] == []


def test_every_default_is_a_value_that_its_own_leaf_accepts() -> None:
    for leaf in LEAVES.values():
        assert convert(leaf, leaf.default, "") == leaf.default


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    yaml = "steps: 7\nppo:\n  clip: 0.3\n  adam_betas: [0.8, 0.9]\nfgo: {enabled: false}\n"
    toml = "steps = 7\n[ppo]\nclip = 0.3\nadam_betas = [0.8, 0.9]\n[fgo]\nenabled = false\n"
    config = load_config(written(tmp_path, yaml))
    assert config == load_config(written(tmp_path, toml, "run.toml"))
    assert (config.steps, config.ppo.clip, config.ppo.adam_betas) == (7, 0.3, (0.8, 0.9))
    assert config.fgo.enabled is False
    assert config.curriculum == Config().curriculum


def test_an_override_wins_over_the_file_and_the_last_override_wins(tmp_path: Path) -> None:
    file = written(tmp_path, "ppo: {clip: 0.3}\nseed: 4\n")
    config = load_config(file, ["ppo.clip=0.1", "ppo.clip=0.15"])
    assert (config.ppo.clip, config.seed) == (0.15, 4)


def test_a_file_may_use_dotted_keys_and_leave_a_section_empty(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "ppo.clip: 0.3\nsft:\n"))
    assert config == replace(Config(), ppo=replace(Config().ppo, clip=0.3))


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", ".0001", "+1.0e-4"])
def test_a_number_is_a_number_however_yaml_reads_it(tmp_path: Path, text: str) -> None:
    assert load_config(None, [f"ppo.policy_lr={text}"]).ppo.policy_lr == 1e-4
    assert load_config(written(tmp_path, f"ppo: {{policy_lr: {text}}}")).ppo.policy_lr == 1e-4


def test_text_stays_text_even_where_yaml_would_read_something_else() -> None:
    config = load_config(None, ["run_dir=123", "data.path=yes"])
    assert (config.run_dir, config.data.path) == ("123", "yes")
    assert load_config(None, ["run_dir=null"]).run_dir is None
    template = load_config(None, ['prompt.template="{description}\\n{given}"']).prompt.template
    assert template == "{description}\n{given}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=yes", '"seed" on the command line is true; give an integer >= 0'),
        ("seed=1.5", '"seed" on the command line is 1.5; give an integer >= 0'),
        ('seed="1__0"', '"seed" on the command line is "1__0"; give an integer >= 0'),
        ("seed=\uff12", '"seed" on the command line is "\uff12"; give an integer >= 0'),
        (
            f"sft.lr=1{'0' * 400}",
            f'"sft.lr" on the command line is 1{"0" * 56}...; give a number > 0',
        ),
        ("steps=-1", '"steps" on the command line is -1; give an integer >= 0'),
        ("steps=", '"steps" on the command line is null; give an integer >= 0'),
        ("ppo.clip=0", '"ppo.clip" on the command line is 0; give a number > 0'),
        ("ppo.clip=.nan", '"ppo.clip" on the command line is nan; give a number > 0'),
        ("ppo.kl_beta=.inf", '"ppo.kl_beta" on the command line is inf; give a number >= 0'),
        ("ppo.gamma=1.1", '"ppo.gamma" on the command line is 1.1; give a number 0..1'),
        ("fgo.enabled=1", '"fgo.enabled" on the command line is 1; give true or false'),
        (
            "fgo.compile_error=none",
            '"fgo.compile_error" on the command line is null; give "all" or "from_error"',
        ),
        (
            "ppo.adam_betas=[0.9, 0.95, 1]",
            '"ppo.adam_betas" on the command line is [0.9, 0.95, 1]; give 2 numbers 0..1',
        ),
        (
            "sandbox.libraries=numpy",
            '"sandbox.libraries" on the command line is "numpy"; give a list of names, or null',
        ),
        ("data.limit=0", '"data.limit" on the command line is 0; give an integer >= 1, or null'),
    ],
)
def test_a_bad_value_is_one_line_with_key_value_and_what_is_accepted(
    override: str, message: str
) -> None:
    assert error_of(None, override) == message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("ppo.clp=1", '"ppo.clip"'),
        ("clip=0.1", '"ppo.clip"'),
        ("pp.clip=0.1", '"ppo.clip"'),
        ("rollout.temprature=1", '"rollout.temperature"'),
        ("model.lr=1", '"sft.lr"'),
        ("step=3", '"steps"'),
    ],
)
def test_an_unknown_key_gets_the_one_that_was_meant(override: str, meant: str) -> None:
    name = override.partition("=")[0]
    expected = f'unknown key "{name}" on the command line; did you mean {meant}?'
    assert error_of(None, override) == expected


def test_sampling_that_would_bias_the_ratio_is_refused_with_the_reason() -> None:
    for name in ("top_p", "top_k", "repetition_penalty"):
        message = error_of(None, f"rollout.{name}=0.9")
        assert message.startswith(f'"rollout.{name}" on the command line is not supported')
        assert "PPO's ratio" in message


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "ppo: {clp: 0.2}")
    assert error_of(file) == 'unknown key "ppo.clp" in run.yaml; did you mean "ppo.clip"?'
    file = written(tmp_path, "ppo: {clip: high}")
    assert error_of(file) == '"ppo.clip" in run.yaml is "high"; give a number > 0'
    file = written(tmp_path, "ppo: 0.2")
    assert error_of(file) == '"ppo" in run.yaml is 0.2; it is a section of keys'


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("run.yaml", "ppo: [1", "run.yaml cannot be read: while parsing"),
        ("run.yaml", "- 1\n- 2\n", "run.yaml holds [1, 2]; it must hold keys and values"),
        ("run.yaml", "seed: 1\nseed: 2\n", 'line 2: key "seed" is given twice'),
        ("run.yaml", "? [seed]\n: 2\n", "run.yaml cannot be read: while constructing a mapping"),
        ("run.toml", "seed = \n", "run.toml cannot be read: "),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, text: str, part: str
) -> None:
    assert part in error_of(written(tmp_path, text, name))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.yaml").endswith("cannot be read (No such file or directory)")


def test_an_override_without_a_value_and_one_for_a_section_say_what_to_write() -> None:
    assert error_of(None, "ppo.clip") == '"ppo.clip" is not an override; write section.key=value'
    assert "is a section; give one of its keys, such as ppo.epochs=..." in error_of(None, "ppo=1")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["model.heads=5"], '"model.width" is 192; give a multiple of 2 x model.heads (5)'),
        (["model.kv_heads=4"], '"model.kv_heads" is 4; give a divisor of model.heads (6)'),
        (["rollout.max_new_tokens=2000"], "the embedded model takes at most 2048"),
        (["ppo.minibatches=5000"], "give at most the 512 rollouts a step"),
        (["sandbox.wall_s=1"], "give at least sandbox.cpu_s (2)"),
        (["eval.samples=4"], "set eval.temperature above 0, or eval.samples=1"),
        (["prompt.template={given}"], "must contain {description} exactly once"),
        (["prompt.template={description}"], "must contain {given} once, at its very end"),
        (["prompt.template=answer"], "set curriculum.cccs=false, or take prompt.template=chat"),
        (["prompt.thinking=true"], "set prompt.template=answer"),
        (["model.critic=head", "recipe=coderl"], 'recipe "coderl" needs a whole model'),
        (["model.critic=head", "model.critic_path=x"], '"model.critic_path" needs a whole model'),
        (["ppo.outcome_gate=true", "rollout.samples_per_task=1"], "samples_per_task at least 2"),
        (["rollout.refill=2"], "set ppo.outcome_gate=true as well"),
        (["recipe=dapo", "rollout.ahead=1"], "set rollout.ahead=0"),
        (["rollout.overlong_buffer=2000"], "give at most rollout.max_new_tokens (1024)"),
        (["ppo.kl_target=1", "ppo.kl_beta=0"], "give it a first weight above 0"),
        (["ppo.importance_floor=0.5"], "set ppo.importance=mask"),
        (["ppo.importance=mask", "ppo.importance_floor=3"], "less than ppo.importance_cap (2)"),
        (["ppo.warmup_steps=9", "steps=8"], "give at most steps (8)"),
        (["fgo.outside=mask", "recipe=grpo"], "set fgo.enabled=true, or fgo.outside=train"),
        (["data.columns=prompt"], "no list of OURS:THEIRS, such as prompt:question"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(overrides: list[str], part: str) -> None:
    assert part in error_of(None, *overrides)


def test_a_model_of_ones_own_is_not_held_to_the_embedded_models_length() -> None:
    overrides = ["model.path=somewhere", "rollout.max_new_tokens=4000"]
    assert load_config(None, overrides).rollout.max_new_tokens == 4000


def values_of(leaf: Leaf) -> st.SearchStrategy[Any]:
    """Values that a leaf accepts and that fit any others."""
    if leaf.name.startswith("prompt.") or leaf.name in (
        "recipe",
        "reward.function",
        "data.columns",
        "rollout.server",
        "model.heads",
        "model.kv_heads",
        "model.width",
    ):
        return st.just(leaf.default)
    if leaf.type is str:
        plain = st.text(min_size=1)
    elif leaf.type is bool:
        plain = st.booleans()
    elif leaf.type == tuple[str, ...]:
        plain = st.lists(st.text()).map(tuple)
    else:
        plain = st.just(leaf.default)
    return st.one_of(st.none(), plain) if leaf.optional else plain


@settings(deadline=None, max_examples=40)
@given(st.fixed_dictionaries({name: values_of(leaf) for name, leaf in LEAVES.items()}))
def test_the_printed_configuration_reads_back_as_itself(values: dict[str, Any]) -> None:
    config = from_dict(values)
    assert from_dict(yaml.safe_load(to_yaml(config))) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_no_part_of_a_configuration_can_be_changed() -> None:
    parts = [Config(), *(v for f in fields(Config) if is_dataclass(v := getattr(Config(), f.name)))]
    assert len(parts) == 13
    for part in parts:
        with pytest.raises(AttributeError):
            setattr(part, fields(part)[0].name, 1)


def left(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as stopped:
        parse_args(arguments)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out + captured.err


def test_the_command_line_without_arguments_is_the_embedded_preset() -> None:
    command = parse_args([])
    assert (command.resume, command.dry_run) == (None, False)
    assert command.config.model.path is None
    assert command.config.data.path == "embedded"
    assert command.config.sft.steps > 0
    assert command.config.dtype == "float32"


def test_other_problems_keep_the_embedded_preset_and_another_model_does_not() -> None:
    preset = parse_args([]).config
    other_data = parse_args(["data.path=problems.jsonl"]).config
    assert other_data == replace(preset, data=replace(preset.data, path="problems.jsonl"))
    assert parse_args(["model.path=m"]).config == load_config(None, ["model.path=m"])


def test_a_configuration_file_starts_from_the_defaults_not_from_the_preset(tmp_path: Path) -> None:
    file = written(tmp_path, "seed: 3\n")
    command = parse_args(["--config", str(file), "steps=9", "--dry-run", "ppo.clip=0.1"])
    assert command.config == load_config(file, ["steps=9", "ppo.clip=0.1"])
    assert command.dry_run


def test_resume_takes_the_folders_own_configuration_and_the_overrides(tmp_path: Path) -> None:
    written(tmp_path, to_yaml(Config(seed=5, run_dir="where/it/was")), "config.yaml")
    command = parse_args(["--resume", str(tmp_path), "steps=900"])
    assert command.resume == tmp_path
    assert command.config == Config(seed=5, run_dir=str(tmp_path), steps=900)


def test_a_wrong_command_line_leaves_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (
        'stepcoder.train: unknown key "ppo.clp" on the command line; did you mean "ppo.clip"?'
    )
    assert left(capsys, "ppo.clp=1") == (2, expected + "\n")
    code, text = left(capsys, "--resume", str(tmp_path))
    assert (code, text.count("\n")) == (2, 1)
    assert "config.yaml is missing" in text
    code, text = left(capsys, "--config", "a", "--resume", "b")
    assert (code, text.count("\n")) == (2, 1)


def test_help_lists_every_option_with_its_default_within_the_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, text = left(capsys, "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 100
    lines = text.splitlines()
    assert [name for name in LEAVES if not any(line.split()[:1] == [name] for line in lines)] == []
    (clip,) = (line for line in lines if line.split()[:1] == ["ppo.clip"])
    assert clip.split(maxsplit=5)[1:] == ["float", ">", "0", "0.2", "Clip range of the ratio."]


def test_the_command_line_is_read_without_importing_what_is_slow() -> None:
    code = "import sys, stepcoder.config; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "transformers", "tokenizers", "numpy", "pydantic", "rich", "plotly"}
    assert not slow & set(done.stdout.split())
    assert "stepcoder" in done.stdout
