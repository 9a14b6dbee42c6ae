"""The configuration of a run: one tree of frozen dataclasses, its checks and the command line.

Takes a YAML or TOML file and overrides `section.key=value`, gives a Config. The defaults are those
for a real code model (StepCoder, arXiv 2402.01391, and its authors' public PPO code for what the
paper leaves open); `configs/embedded.yaml` holds the numbers for the small embedded model.

Nothing slow is imported here, so that --help and a wrong option answer at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from stepcoder.options import (
    ConfigError,
    LineParser,
    Range,
    build,
    check_values,
    describe,
    flatten,
    leaves,
    read_file,
    read_overrides,
    to_text,
)
from stepcoder.problems.sources import Source, columns_of, sources_of, written
from stepcoder.problems.template import AUTO, check_template, in_own_words
from stepcoder.user_code import is_user_code

COUNT = Range(at_least=1)
NOT_NEGATIVE = Range(at_least=0)
POSITIVE = Range(above=0)
SHARE = Range(at_least=0, at_most=1)

OptimizerName = Literal["adamw", "muon"]
RecipeName = Literal[
    "stepcoder", "ppo", "grpo", "gspo", "dapo", "rloo", "ppocoder", "rltf", "coderl", "rlcf"
]
# What a recipe's paper sets otherwise than the defaults.
RECIPE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gspo": {"ppo.clip": 3e-4, "ppo.clip_high": 4e-4, "ppo.kl_beta": 0.0},
    "dapo": {
        "ppo.clip_high": 0.28,
        "ppo.kl_beta": 0.0,
        "ppo.outcome_gate": True,
        "rollout.refill": 3,
        "rollout.overlong": "penalty",
    },
}

PRESETS = Path(__file__).with_name("configs")
EMBEDDED = "embedded"  # the data.path of the built-in problems
EMBEDDED_POSITIONS = 2048  # the longest sequence of the embedded decoder, in tokens
PATHS = ("data.path", "data.validation_path", "model.path", "model.critic_path", "rollout.replay")
# Options and sections that a resume cannot change, and why; any other takes effect.
FIXED = {
    "run_dir": "--resume names the folder",
    "seed": "all random numbers follow from it",
    "recipe": "the checkpoint holds its models",
    "dtype": "the checkpoint holds weights of this one",
    "model": "the checkpoint holds its weights",
    "model.checkpointing": None,  # these two change where memory goes and no number
    "model.offload_reference": None,
    "model.compile": None,  # rounds otherwise, as another machine does
    "data.split": "the problems trained so far follow from it",
    "data.validation_share": "the problems trained so far follow from it",
    "data.columns": "the problems trained so far follow from it",
    "data.limit": "the problems trained so far follow from it",
    "sft": "the supervised phase keeps its schedule, and RL the problems that it left",
    "curriculum.cccs": "the stages reached follow from it",
    "curriculum.scopes": "the stages reached follow from it",
    "rollout.samples_per_task": "the checkpoint may hold programs of the next steps",
    "ppo.optimizer": "the checkpoint holds its state",
}


@dataclass(frozen=True, slots=True)
class DataConfig:
    """The problems."""

    path: Annotated[
        str,
        "File or folder of problems, or several: PATH,PATH:WEIGHT; FILE.py:NAME: a function of "
        "your own that yields them; embedded: the built-in ones.",
    ] = EMBEDDED
    validation_path: Annotated[str | None, "Held-out problems; null: some of data.path."] = None
    columns: Annotated[
        str | None,
        "Columns by other names: OURS:THEIRS with commas, such as prompt:question.",
    ] = None
    split: Annotated[
        Literal["file", "hash"],
        "Validation problems are those that the file names, and if it names none, or with hash, "
        "some by a hash of the task id. A file's test problems never train.",
    ] = "file"
    validation_share: Annotated[float, "Share of problems that the hash holds out.", SHARE] = 0.1
    strict: Annotated[bool, "Stop at a broken record instead of skipping it."] = False
    max_skipped: Annotated[
        float, "Stop if more than this share of a file's records is broken.", SHARE
    ] = 0.5
    limit: Annotated[int | None, "Use at most this many problems of each part.", COUNT] = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The policy and the critic; sizes are those of the embedded decoder."""

    path: Annotated[
        str | None, "Folder or hub id of a transformers model, or a run; null: the embedded one."
    ] = None
    critic_path: Annotated[
        str | None, "The same for the critic's start, of a run its critic; null: the policy."
    ] = None
    critic: Annotated[
        Literal["model", "head"],
        "A model of its own, or only a head on the policy's states (less memory and time).",
    ] = "model"
    checkpointing: Annotated[
        bool, "Keep only the layers' inputs for the backward pass, which computes the rest again."
    ] = False
    compile: Annotated[
        bool, "Fuse the layers' elementwise operations by torch.compile; needs a C++ compiler."
    ] = False
    offload_reference: Annotated[
        bool, "Keep the reference in the CPU's memory but while it scores; no effect on a CPU."
    ] = False
    lora_rank: Annotated[
        int, "Rank of LoRA adapters, trained in place of weights (peft); 0: none.", NOT_NEGATIVE
    ] = 0
    layers: Annotated[int, "Layers of the embedded decoder.", COUNT] = 4
    width: Annotated[int, "Its hidden size.", COUNT] = 192
    heads: Annotated[int, "Its attention heads.", COUNT] = 6
    kv_heads: Annotated[int, "Its key and value heads.", COUNT] = 2
    vocabulary: Annotated[int, "Entries of its tokenizer's vocabulary.", Range(at_least=300)] = 1024


@dataclass(frozen=True, slots=True)
class SFTConfig:
    """The supervised phase before RL, on canonical solutions."""

    steps: Annotated[int, "Optimizer steps; 0 leaves the phase out.", NOT_NEGATIVE] = 0
    batch_size: Annotated[int, "Solutions per step.", COUNT] = 64
    lr: Annotated[float, "Peak learning rate.", POSITIVE] = 2e-5
    optimizer: Annotated[OptimizerName, "Muon takes layers' matrices, AdamW the rest."] = "adamw"
    share: Annotated[
        float, "Share of the training problems that it uses; below 1, RL has the others.", SHARE
    ] = 1.0
    warmup_share: Annotated[float, "Share of the steps over which the rate rises.", SHARE] = 0.1
    fall_share: Annotated[float, "Share of the steps over which the rate falls.", SHARE] = 0.7
    weight_decay: Annotated[float, "AdamW's weight decay.", NOT_NEGATIVE] = 0.01


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """What the policy reads."""

    template: Annotated[
        str,
        "Text with {description} that ends with {given}; chat: the tokenizer's own; "
        "auto: it, if there is one; answer: it, in the policy's own words; @FILE: the text there.",
    ] = AUTO
    thinking: Annotated[bool, "Let the policy think first, if its chat template can."] = False
    max_prompt_tokens: Annotated[int, "Problems with longer prompts are left out.", COUNT] = 1024


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """A reward of your own."""

    function: Annotated[
        str | None,
        "FILE.py:NAME of a function (problem, program, verdict) that gives a program's reward; "
        "null: the recipe's.",
    ] = None


@dataclass(frozen=True, slots=True)
class CurriculumConfig:
    """CCCS: how much of the canonical solution a prompt gives."""

    cccs: Annotated[bool, "Give less and less of the solution; false gives none."] = True
    scopes: Annotated[
        Literal["branches", "all"],
        "Stages start at branches and loops; all: at functions and comprehensions too.",
    ] = "branches"
    alpha: Annotated[float, "Weight of the newest pass rate in the moving average.", SHARE] = 0.5
    threshold: Annotated[float, "A stage is left when the average exceeds this.", SHARE] = 0.5
    full_prompt_share: Annotated[float, "Share of attempts at stage 0 in any case.", SHARE] = 0.0


@dataclass(frozen=True, slots=True)
class FGOConfig:
    """FGO: which tokens the policy loss trains."""

    enabled: Annotated[bool, "Leave out tokens of lines that no test executed."] = True
    compile_error: Annotated[
        Literal["all", "from_error"],
        "Of a program that does not compile, train all tokens or those from the error on.",
    ] = "all"
    outside: Annotated[
        Literal["train", "mask"], "What to do with tokens outside the code: words, fences."
    ] = "train"
    normalizer: Annotated[
        Literal["trained", "response"], "The policy loss is divided by the number of these tokens."
    ] = "trained"


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """Sampling of completions."""

    engine: Annotated[Literal["hf", "vllm"], "Transformers, or vLLM servers."] = "hf"
    server: Annotated[
        str | None, "http://HOST:PORT of a vLLM server of your own (docs/engine.md); null: ours."
    ] = None
    ahead: Annotated[
        int, "Steps by which generation may run ahead of the updates; 0: on-policy.", NOT_NEGATIVE
    ] = 0
    tasks_per_step: Annotated[int, "Problems per step.", COUNT] = 32
    samples_per_task: Annotated[int, "Completions per problem.", COUNT] = 16
    temperature: Annotated[float, "Temperature of sampling and of training.", POSITIVE] = 0.8
    max_new_tokens: Annotated[int, "Longest completion, in tokens.", COUNT] = 1024
    overlong: Annotated[
        Literal["train", "mask", "penalty"],
        "Completions cut off there: train on them as on others, leave them out of the policy loss, "
        "or lower the reward of all that end within overlong_buffer tokens of it (DAPO).",
    ] = "train"
    overlong_buffer: Annotated[
        int | None, "Tokens over which the penalty rises to 1; null: a fifth of all.", COUNT
    ] = None
    refill: Annotated[
        int,
        "Times that a step may draw problems anew in place of those that ppo.outcome_gate leaves "
        "out (DAPO's dynamic sampling).",
        NOT_NEGATIVE,
    ] = 0
    group_size: Annotated[
        int | None, "Most completions generated at a time; null: 64, by vLLM on a GPU 256.", COUNT
    ] = None
    dump: Annotated[bool, "Keep every step's completions in run_dir/rollouts."] = False
    replay: Annotated[
        str | None, "Folder of a run with dumped rollouts: take them instead of generating."
    ] = None
    memory_share: Annotated[
        float | None,
        "Share of its GPU's memory that vLLM takes; null: 0.4, or 0.9 of a GPU of its own.",
        Range(above=0, at_most=1),
    ] = None
    kv_cache_gb: Annotated[
        float | None,
        "GiB of vLLM's KV cache; null: 1 on a CPU, on a GPU what memory_share leaves.",
        POSITIVE,
    ] = None
    max_infrastructure_errors: Annotated[
        float, "Stop if the sandbox fails on more than this share of a step's programs.", SHARE
    ] = 0.02


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """How many programs run at a time, and what each test of one may use."""

    workers: Annotated[int, "Programs that run at a time; 0: one per core.", NOT_NEGATIVE] = 0
    cpu_s: Annotated[float, "Seconds of CPU time.", POSITIVE] = 2.0
    wall_s: Annotated[float, "Seconds of wall time.", POSITIVE] = 6.0
    memory_mb: Annotated[int, "Memory in MiB.", Range(at_least=64)] = 512
    output_kb: Annotated[int, "Output in KiB.", COUNT] = 1024
    libraries: Annotated[
        tuple[str, ...] | None, "What programs and tests may import; null: numpy, if installed."
    ] = None
    hosts: Annotated[
        tuple[str, ...], "URLs of `stepcoder judge serve` that judge in place of this machine."
    ] = ()


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Policy optimization."""

    epochs: Annotated[int, "Passes over a step's rollouts.", COUNT] = 1
    minibatches: Annotated[int, "Optimizer steps per pass.", COUNT] = 4
    tokens_per_microbatch: Annotated[int, "Most tokens in one forward and backward.", COUNT] = 16384
    optimizer: Annotated[OptimizerName, "The policy's; see sft.optimizer."] = "adamw"
    policy_lr: Annotated[float, "The policy's learning rate; small models need more.", POSITIVE] = (
        1e-6
    )
    critic_lr: Annotated[float, "The critic's learning rate.", POSITIVE] = 1.5e-6
    warmup_steps: Annotated[int, "Steps over which both learning rates rise.", NOT_NEGATIVE] = 0
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], "How they fall to 0 from there to the last step."
    ] = "constant"
    clip: Annotated[float, "Clip range of the ratio.", POSITIVE] = 0.2
    clip_high: Annotated[float | None, "The same above 1; null: clip.", POSITIVE] = None
    dual_clip: Annotated[
        float | None,
        "Cap of the ratio where the advantage is negative; null: none.",
        Range(above=1),
    ] = None
    loss_mean: Annotated[
        Literal["recipe", "token", "sequence"],
        "Each trained token weighs the same, or each program; recipe: as its paper has it.",
    ] = "recipe"
    outcome_gate: Annotated[
        bool, "Leave problems out of the policy loss whose programs all passed, or all failed."
    ] = False
    value_clip: Annotated[float, "Clip range of the value.", POSITIVE] = 0.2
    kl_beta: Annotated[
        float, "Weight of the KL to the reference; 0: no reference is kept.", NOT_NEGATIVE
    ] = 0.05
    kl_target: Annotated[
        float | None,
        "Nats a program to which kl_beta adapts after each step; null: fixed.",
        POSITIVE,
    ] = None
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3"], "Of the KL in the loss (recipes that have it there)."
    ] = "k3"
    gamma: Annotated[float, "Discount of later rewards.", SHARE] = 1.0
    lam: Annotated[float, "Lambda of the advantage estimate (GAE).", SHARE] = 0.95
    entropy_bonus: Annotated[float, "Weight of the entropy in the policy loss.", NOT_NEGATIVE] = 0.0
    max_grad_norm: Annotated[float, "Gradients are clipped to this norm.", POSITIVE] = 1.0
    adam_betas: Annotated[tuple[float, float], "AdamW's betas.", SHARE] = (0.9, 0.95)
    weight_decay: Annotated[float, "AdamW's weight decay.", NOT_NEGATIVE] = 0.0
    critic_warmup_steps: Annotated[int, "First steps that train only the critic.", NOT_NEGATIVE] = 0
    importance_cap: Annotated[float, "Cap of the weight p(policy) / p(engine).", POSITIVE] = 2.0
    importance_floor: Annotated[float, "With mask: its least value.", NOT_NEGATIVE] = 0.0
    importance: Annotated[
        Literal["truncate", "mask"], "Lower weights to the cap, or leave what is beyond it out."
    ] = "truncate"
    importance_level: Annotated[
        Literal["token", "sequence"], "One weight a token, or the product of a program's for all."
    ] = "token"
    whiten_advantages: Annotated[
        Literal["none", "step", "prompt"],
        "Make the deviation 1 over a step, and the mean 0 over the step or each prompt.",
    ] = "none"
    scale_rewards: Annotated[bool, "Divide rewards by their standard deviation so far."] = True


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Evaluation on held-out problems."""

    every: Annotated[int, "Steps between evaluations.", COUNT] = 20
    temperature: Annotated[float, "Temperature of sampling; 0 is greedy.", NOT_NEGATIVE] = 0.0
    samples: Annotated[int, "Programs per problem; above 1, pass@ that is reported.", COUNT] = 1
    target: Annotated[
        float | None, "Stop once the validation problems' pass@1 reaches this share.", SHARE
    ] = None
    limit: Annotated[int | None, "Evaluate at most this many, spread over all.", COUNT] = None


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Saving for a resume."""

    every: Annotated[int, "Steps between checkpoints.", COUNT] = 20
    keep: Annotated[int, "Checkpoints that are kept, the newest ones.", COUNT] = 2
    best: Annotated[bool, "Keep the policy of the best evaluation so far, in run_dir/best."] = False


@dataclass(frozen=True, slots=True)
class Config:
    """The run."""

    seed: Annotated[int, "Seed of all random numbers.", NOT_NEGATIVE] = 0
    recipe: Annotated[
        str,
        f"Algorithm: {', '.join(get_args(RecipeName))}; or FILE.py:NAME, a Recipe of your own. All "
        "but stepcoder have CCCS and FGO off unless asked for.",
    ] = "stepcoder"
    run_dir: Annotated[str | None, "Folder of the run; null: runs/<date and time>."] = None
    steps: Annotated[int, "Steps of RL.", NOT_NEGATIVE] = 500
    max_tokens: Annotated[
        int | None, "RL ends after the step that brings its completions to this many tokens.", COUNT
    ] = None
    threads: Annotated[int, "Threads of torch; 0: its own choice.", NOT_NEGATIVE] = 0
    sinks: Annotated[
        tuple[str, ...],
        "Send the figures to these too, where installed: wandb, mlflow, trackio, prometheus.",
    ] = ()
    device: Annotated[Literal["auto", "cpu", "cuda"], "Where the models run."] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16"], "Of a model from model.path."] = "bfloat16"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    sft: SFTConfig = SFTConfig()
    prompt: PromptConfig = PromptConfig()
    reward: RewardConfig = RewardConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    fgo: FGOConfig = FGOConfig()
    rollout: RolloutConfig = RolloutConfig()
    sandbox: SandboxConfig = SandboxConfig()
    ppo: PPOConfig = PPOConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


LEAVES = leaves(Config)
SECTIONS = {name.partition(".")[0]: None for name in LEAVES if "." in name}  # in order


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file (None: the defaults), then apply overrides `section.key=value`.

    Raises ConfigError, with one line for the person who wrote the file or the override.
    """
    values: dict[str, Any] = {}
    if path is not None:
        where = f" in {Path(path).name}"
        values = check_values(LEAVES, flatten(read_file(Path(path)), SECTIONS, where), where)
    given = read_overrides(LEAVES, overrides)
    return _config(values | check_values(LEAVES, given, " on the command line"))


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Return the Config of nested or dotted keys. Raises ConfigError."""
    return _config(check_values(LEAVES, flatten(tree, SECTIONS, ""), ""))


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain data (tuples as lists); `from_dict` reads it."""
    return asdict(
        config,
        dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items},
    )


def to_yaml(config: Config) -> str:
    """Return the whole configuration as YAML that `load_config` reads to the same Config."""
    return to_text(to_dict(config))


def _config(values: Mapping[str, Any]) -> Config:
    """Build the Config of converted values by dotted name. Raises ConfigError if they conflict.

    A prompt template @FILE is the text of that file.

    CCCS and FGO are StepCoder's own ideas: in other recipes they are off unless asked for.
    """
    template = values.get("prompt.template", "")
    if template.startswith("@"):
        try:
            text = Path(template[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'"prompt.template": no text in {template[1:]} ({error})') from None
        values = {**values, "prompt.template": text.removesuffix("\n")}
    recipe = values.get("recipe", "stepcoder")
    ideas = dict.fromkeys(("curriculum.cccs", "fgo.enabled"), recipe == "stepcoder")
    config = build(Config, {**ideas, **RECIPE_DEFAULTS.get(recipe, {}), **values})
    for conflict in _conflicts(config):
        raise ConfigError(conflict)
    return config


def _conflicts(config: Config) -> Iterator[str]:
    """Say what is wrong where values do not fit each other or the recipe, one line each."""
    model, rollout, ppo, recipe = config.model, config.rollout, config.ppo, config.recipe
    if recipe not in get_args(RecipeName) and not is_user_code(recipe):
        names = " or ".join(f'"{name}"' for name in get_args(RecipeName))
        yield f'"recipe" is "{recipe}"; give {names}, or FILE.py:NAME of your own'
    function = config.reward.function
    if function is not None and not is_user_code(function):
        yield f'"reward.function" is "{function}"; give FILE.py:NAME, or null'
    if model.width % (2 * model.heads):
        yield f'"model.width" is {model.width}; give a multiple of 2 x model.heads ({model.heads})'
    if model.heads % model.kv_heads:
        yield f'"model.kv_heads" is {model.kv_heads}; give a divisor of model.heads ({model.heads})'
    length = config.prompt.max_prompt_tokens + rollout.max_new_tokens
    if model.path is None and length > EMBEDDED_POSITIONS:
        yield (
            f'"prompt.max_prompt_tokens" + "rollout.max_new_tokens" is {length}; '
            f"the embedded model takes at most {EMBEDDED_POSITIONS}"
        )
    rollouts = rollout.tasks_per_step * rollout.samples_per_task
    if ppo.minibatches > rollouts:
        yield (
            f'"ppo.minibatches" is {ppo.minibatches}; give at most the {rollouts} rollouts a step '
            "(rollout.tasks_per_step x rollout.samples_per_task)"
        )
    if config.sandbox.wall_s < config.sandbox.cpu_s:
        yield (
            f'"sandbox.wall_s" is {config.sandbox.wall_s:g}; '
            f"give at least sandbox.cpu_s ({config.sandbox.cpu_s:g})"
        )
    if config.eval.temperature == 0 and config.eval.samples > 1:
        yield (
            f'"eval.samples" is {config.eval.samples}, but greedy samples are all the same; '
            "set eval.temperature above 0, or eval.samples=1"
        )
    if recipe == "rlcf" and config.curriculum.cccs:
        yield (
            'recipe "rlcf" does not look at tests, whose passes move the stages of the curriculum; '
            "set curriculum.cccs=false, or take another recipe"
        )
    if recipe == "rlcf" and config.fgo.enabled:
        yield (
            'recipe "rlcf" does not look at tests, so no line counts as executed; '
            "set fgo.enabled=false, or take another recipe"
        )
    if model.critic == "head" and (recipe == "coderl" or model.critic_path is not None):
        other = f'recipe "{recipe}"' if recipe == "coderl" else '"model.critic_path"'
        yield f'"model.critic" is head, but {other} needs a whole model; set model.critic=model'
    yield from _conflicts_of_options(config)
    if config.fgo.outside == "mask" and not config.fgo.enabled:
        yield '"fgo.outside" is mask, but FGO is off; set fgo.enabled=true, or fgo.outside=train'
    if recipe in ("grpo", "gspo", "dapo", "rloo") and rollout.samples_per_task < 2:
        yield (
            f'recipe "{recipe}" compares the rollouts of one problem with each other; '
            "give rollout.samples_per_task at least 2"
        )
    if recipe in ("rltf", "coderl") and rollout.replay is not None:
        yield (
            f'recipe "{recipe}" compares with greedy programs, which a dump does not hold; '
            "leave rollout.replay out"
        )
    own_words = in_own_words(config.prompt.template)
    if own_words and config.curriculum.cccs:
        yield (
            '"prompt.template" lets the policy begin with words, where CCCS would give it code; '
            "set curriculum.cccs=false, or take prompt.template=chat"
        )
    if config.prompt.thinking and not own_words:
        yield (
            '"prompt.thinking" needs an answer that begins with words; set prompt.template=answer'
        )
    try:
        columns_of(config.data.columns)
    except ValueError as error:
        yield f'"data.columns": {error}'
    try:
        check_template(config.prompt.template)
    except ValueError as error:
        yield f'"prompt.template": {error}'


def _conflicts_of_options(config: Config) -> Iterator[str]:
    """Say what does not fit among the options of today's PPO, which are off by default."""
    ppo, rollout = config.ppo, config.rollout
    if rollout.server is not None and rollout.engine != "vllm":
        yield '"rollout.server" is a vLLM server; set rollout.engine=vllm as well'
    if rollout.server is not None and not re.fullmatch(r"http://[^/:]+:\d+/?", rollout.server):
        yield f'"rollout.server" is "{rollout.server}"; give http://HOST:PORT'
    buffer = rollout.overlong_buffer
    if buffer is not None and buffer > rollout.max_new_tokens:
        yield (
            f'"rollout.overlong_buffer" is {buffer}; '
            f"give at most rollout.max_new_tokens ({rollout.max_new_tokens})"
        )
    if rollout.refill and not ppo.outcome_gate:
        yield (
            '"rollout.refill" replaces problems that ppo.outcome_gate leaves out; '
            "set ppo.outcome_gate=true as well"
        )
    if rollout.refill and (rollout.ahead or rollout.replay is not None):
        yield (
            '"rollout.refill" draws problems after their verdicts; '
            "set rollout.ahead=0 and leave rollout.replay out, or set rollout.refill=0"
        )
    if ppo.outcome_gate and rollout.samples_per_task < 2:
        yield (
            '"ppo.outcome_gate" compares the programs of one problem; '
            "give rollout.samples_per_task at least 2"
        )
    if ppo.kl_target is not None and not ppo.kl_beta:
        yield '"ppo.kl_target" adapts ppo.kl_beta, which is 0; give it a first weight above 0'
    if ppo.importance_floor and ppo.importance == "truncate":
        yield '"ppo.importance_floor" is of masks; set ppo.importance=mask, or leave it at 0'
    if ppo.importance_floor >= ppo.importance_cap:
        yield (
            f'"ppo.importance_floor" is {ppo.importance_floor:g}; '
            f"give less than ppo.importance_cap ({ppo.importance_cap:g})"
        )
    if ppo.warmup_steps > config.steps > 0:
        yield f'"ppo.warmup_steps" is {ppo.warmup_steps}; give at most steps ({config.steps})'


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for: the configuration, the run folder to continue, whether only to print."""

    config: Config
    resume: Path | None = None
    dry_run: bool = False


def parse_args(arguments: Sequence[str]) -> CommandLine:
    """Read the command line of `python -m stepcoder.train`; leaves with one line if it is wrong.

    Without --config and model.path the embedded preset comes first. With --resume the folder's own
    config.yaml does, and run_dir is that folder. Paths of files that exist become absolute, so that
    a resume finds them from any folder.
    """
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 100), 130)
    parser = LineParser(
        prog="stepcoder.train",
        usage="python -m stepcoder.train [--config FILE | --resume DIR] [section.key=value ...]",
        description="Train a code model by reinforcement learning from unit-test results.\n"
        "Without --config and model.path, a small embedded model learns the built-in problems.\n"
        "Ctrl-C or SIGTERM finishes the step and saves; --resume goes on from there.",
        epilog="options, in FILE or as section.key=value: name, type, default, meaning\n\n"
        + describe(Config, width - 2),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--config", metavar="FILE", type=Path, help="YAML or TOML file of options")
    start.add_argument("--resume", metavar="DIR", type=Path, help="continue the run of this folder")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="set an option")
    command = parser.parse_intermixed_args(list(arguments))
    try:
        config = _config_of(command.config, command.resume, command.overrides)
    except ConfigError as error:
        parser.error(str(error))
    return CommandLine(config, command.resume, command.dry_run)


def _config_of(path: Path | None, resume: Path | None, overrides: Sequence[str]) -> Config:
    """Return the configuration that a command line asks for. Raises ConfigError."""
    if resume is not None:
        saved = resume / "config.yaml"
        if not saved.is_file():
            raise ConfigError(f"--resume {resume}: no run is there (config.yaml is missing)")
        before, config = (_with_absolute_paths(load_config(saved, o)) for o in ((), overrides))
        _check_resumable(before, config)
        return replace(config, run_dir=str(resume))
    if path is None and not any(o.startswith("model.path=") for o in overrides):
        path = PRESETS / "embedded.yaml"
    return _with_absolute_paths(load_config(path, overrides))


def _with_absolute_paths(config: Config) -> Config:
    values = flatten(to_dict(config), SECTIONS, "")
    for name in PATHS:
        path = values[name]
        if name in ("data.path", "data.validation_path") and path is not None:
            values[name] = written([_absolute(source) for source in _sources(name, path)])
        elif path is not None and os.path.exists(path):
            values[name] = str(Path(path).absolute())
    for name in ("recipe", "reward.function", "data.path", "data.validation_path"):
        file = (values[name] or "").rpartition(":")[0]
        if file and os.path.exists(file):
            values[name] = str(Path(values[name]).absolute())
    return from_dict(values)


def _sources(name: str, paths: str) -> list[Source]:
    try:
        return sources_of(paths)
    except ValueError as error:
        raise ConfigError(f'"{name}": {error}') from None


def _absolute(source: Source) -> Source:
    exists = source.path != EMBEDDED and os.path.exists(source.path)
    return source._replace(path=str(Path(source.path).absolute())) if exists else source


def _check_resumable(before: Config, now: Config) -> None:
    """Raise ConfigError for the first change that a resume cannot make."""
    was, given = (flatten(to_dict(config), SECTIONS, "") for config in (before, now))
    for name in LEAVES:
        why = FIXED.get(name, FIXED.get(name.partition(".")[0]))
        if name == "ppo.kl_beta" and was[name] == 0:
            why = "the run was started without a reference"
        if why and was[name] != given[name]:
            raise ConfigError(
                f'"{name}" cannot change on a resume: {why}; '
                "leave it out, or start a new run without --resume"
            )
