"""The account of a run's memory: what it holds always, and in each phase of a step.

The models are built without weights by the code that builds a run's, and a microbatch goes through
the update's code, on the meta device. So no family of models has a formula here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from stepcoder.config import Config
from stepcoder.errors import RunError
from stepcoder.method.ppo import Learner
from stepcoder.models.batch import Batch, Row, microbatches, pack
from stepcoder.models.lora import add_adapters, copy_of
from stepcoder.models.optim import Masters, Optimizer
from stepcoder.models.policy import (
    Critic,
    ValueHead,
    hidden_states,
    lm_head,
    prepare,
    recompute_layers,
)
from stepcoder.plan.alive import Alive
from stepcoder.plan.stand_ins import ATTENTION, Head
from stepcoder.recipes.own import recipe_of
from stepcoder.rollout.kv_cache import with_cache
from stepcoder.rollout.open_engine import CPU_CACHE_GB, MEMORY_SHARE, group_size
from stepcoder.run.model_folder import model_folder

META = torch.device("meta")
GIB = 1 << 30
CONTEXT = GIB  # of CUDA in each process, with the kernels that it loads: about that much
TRANSFER_BUFFER = GIB  # by which vLLM takes weights from the same GPU
SAMPLING = 5  # float32 tensors (G, V) while the transformers engine chooses G tokens


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes by what takes them: `always`, and besides in each phase of a step."""

    always: dict[str, int]
    generate: dict[str, int]
    score: dict[str, int]
    update: dict[str, int]

    @property
    def sums(self) -> dict[str, int]:
        """Bytes of each phase, with what is there always."""
        always = sum(self.always.values())
        phases = {"generate": self.generate, "score": self.score, "update": self.update}
        return {name: always + sum(parts.values()) for name, parts in phases.items()}

    @property
    def peak(self) -> int:
        """Bytes of the phase that takes most."""
        return max(self.sums.values())


def account_of(
    config: Config,
    shape: PretrainedConfig,
    critic_shape: PretrainedConfig | None = None,
    memory: float | None = None,
    processes: int = 1,
) -> Account:
    """Return the account of a run on one device, or of the first of torchrun's processes.

    Args:
        config: the run's.
        shape: the model's config.json.
        critic_shape: that of `model.critic_path`.
        memory: bytes of the device, of which vLLM takes its share; None: vLLM takes its weights and
            the KV cache of `rollout.group_size` completions.
        processes: torchrun's, over which weights, gradients and optimizer states are spread.

    Raises:
        RunError: transformers has no causal language model of this shape, or it cannot be trained.
    """
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    recipe = recipe_of(config)
    with META:
        policy = _built(shape, config, cuda)
        critic: Critic | ValueHead | None = None
        if recipe.critic == "value" and config.model.critic == "head":
            critic = ValueHead(policy)
        elif critic_shape is not None and recipe.critic == "value":
            critic = Critic(_built(critic_shape, config, cuda).get_decoder())
        elif recipe.critic is not None:  # one that predicts outcomes has a few more outputs
            critic = Critic.from_policy(policy)
    learner = Learner.create(Masters(policy), critic, config.ppo)
    if processes > 1:
        return _sharded(learner, config, cuda, processes)
    shared = set(map(id, policy.parameters()))

    def own_bytes(model: nn.Module) -> int:
        return _bytes([p for p in model.parameters() if id(p) not in shared])

    always = {"policy: weights": _bytes([*policy.parameters()])}
    for model, optimizer in (
        ("policy", learner.policy_optimizer),
        ("critic", learner.critic_optimizer),
    ):
        if optimizer is not None:
            always.setdefault(f"{model}: weights", own_bytes(critic) if critic else 0)
            always[f"{model}: float32 masters"] = _bytes(optimizer.masters.state_dict())
            always[f"{model}: optimizer's state"] = _of_optimizer(optimizer, cuda)[0]
    copied = own_bytes(copy_of(policy))  # all, or with adapters those alone
    if recipe.discriminates:
        parts = ("policy: float32 masters", "policy: optimizer's state")
        always["discriminator"] = copied + sum(always[part] for part in parts)
    has_reference = bool(config.ppo.kl_beta) or recipe.adapts_kl
    offloaded = cuda and config.model.offload_reference
    always["reference"] = copied * (has_reference and not offloaded)
    if config.rollout.ahead:
        always["weights that wait for the engine"] = copied
    if cuda:
        always["CUDA context"] = CONTEXT
    beside, generate = _of_engine(policy, copied, config, cuda, memory)
    rows = config.rollout.tasks_per_step * config.rollout.samples_per_task
    score = {"a microbatch without gradients": _scored(policy, _microbatch(config, rows), cuda)}
    score["reference"] = copied * (has_reference and offloaded)
    return Account(always | beside, generate, score, _of_update(learner, config, rows, cuda))


def _sharded(learner: Learner, config: Config, cuda: bool, processes: int) -> Account:
    """Return the account of one of several processes.

    The engine is elsewhere; the first process gathers the policy for it after each update.
    """
    always, gradients, moments = dict[str, int](), 0, 0
    narrow = learner.policy.dtype.itemsize
    for name, optimizer in (
        ("policy", learner.policy_optimizer),
        ("critic", learner.critic_optimizer),
    ):
        if optimizer is None:
            continue
        model = optimizer.masters.model
        trained = [p.numel() for p in model.parameters() if p.requires_grad]
        frozen = _bytes([p for p in model.parameters() if not p.requires_grad])
        always[f"{name}: shards"] = (4 * sum(trained) + frozen) // processes
        muons = 4 * sum(p.numel() for p in optimizer.matrices)  # whole in each
        state = _of_optimizer(optimizer, cuda)[0] - muons
        always[f"{name}: optimizer's state"] = state // processes + muons
        gradients += 4 * sum(trained) // processes
        moments = max(moments, muons)  # the whole gradients of a step
    recipe, whole = recipe_of(config), _bytes([*learner.policy.parameters()])
    always["reference: shards"] = bool(config.ppo.kl_beta or recipe.adapts_kl) * whole // processes
    if cuda:
        always["CUDA context"] = CONTEXT
    layers = [
        sum(p.numel() for p in m.parameters())
        for m in learner.policy.modules()
        if isinstance(m, GradientCheckpointingLayer)
    ]
    layer, root = max(layers), whole // narrow - sum(layers)
    rows = config.rollout.tasks_per_step * config.rollout.samples_per_task
    gathered = narrow * (root + 2 * layer)
    pieces = [
        _microbatch(config, -(-n // processes)) for n in (rows, rows // config.ppo.minibatches)
    ]
    score = {"a microbatch without gradients": _scored(learner.policy, pieces[0], cuda)}
    works = [
        _trained(o.masters, pieces[1], config, cuda, there=True)
        for o in (learner.policy_optimizer, learner.critic_optimizer)
        if o is not None and not isinstance(o.masters.model, ValueHead)
    ]
    work = max(works, key=lambda w: w.peak)
    update = {
        "gradients": gradients,
        "kept for the backward pass": work.kept,
        "LM head, a layer or the step": max(work.peak - work.kept, moments),
        "gathered weights": gathered,
        "gradients to be summed": (narrow + 4) * max(layer, root),
    }
    score["gathered weights"] = gathered
    return Account(always, {"weights for the engine": whole}, score, update)


def _of_engine(
    policy: PreTrainedModel, copied: int, config: Config, cuda: bool, memory: float | None
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of an engine beside the trainer: always, and while it generates.

    `copied` is what a copy of the policy takes, `memory` see `account_of`.
    """
    rollout, vocabulary = config.rollout, lm_head(policy).weight
    length = config.prompt.max_prompt_tokens + rollout.max_new_tokens
    group = min(group_size(rollout, cuda), rollout.tasks_per_step * rollout.samples_per_task)
    cache = _cache_per_token(policy) * group * length
    weights = _bytes([*policy.parameters()])
    if rollout.engine == "hf":
        generate = {f"KV cache, {group} x {length} tokens": cache}
        generate["choosing tokens"] = SAMPLING * 4 * group * len(vocabulary)
        return {"engine: weights": copied}, generate
    if cuda:
        share = rollout.memory_share or MEMORY_SHARE["shared"]
        needs = weights + int((rollout.kv_cache_gb or cache / GIB) * GIB)
        generate = {"vLLM: weights and KV cache": needs if memory is None else int(share * memory)}
        generate["vLLM: buffer for weights"] = TRANSFER_BUFFER
        return {"vLLM: CUDA context": CONTEXT}, generate
    untied = policy.config.get_text_config().tie_word_embeddings * vocabulary.nbytes
    always = {"vLLM: weights": weights + untied, "vLLM: file of weights": copied}
    always["vLLM: KV cache"] = int((rollout.kv_cache_gb or CPU_CACHE_GB) * GIB)
    return always, {"vLLM: sending weights": 2 * copied}


def _of_update(learner: Learner, config: Config, rows: int, cuda: bool) -> dict[str, int]:
    """Bytes of an update on so many rows beside the models."""
    in_minibatch = -(-rows // config.ppo.minibatches)
    piece = _microbatch(config, in_minibatch)
    several = len(piece) < in_minibatch  # then all gradients are there but in the first
    optimizers = [o for o in (learner.policy_optimizer, learner.critic_optimizer) if o is not None]
    _, gradients, steps = zip(*(_of_optimizer(o, cuda) for o in optimizers), strict=True)
    work = _trained(learner.policy_optimizer.masters, piece, config, cuda, several)
    peak = work.peak + several * sum(gradients)
    if isinstance(learner.critic, Critic):
        of_critic = _trained(optimizers[1].masters, piece, config, cuda, several)
        peak = max(peak, of_critic.peak + gradients[0] + several * gradients[1])
    peak = max(peak, sum(gradients) + max(steps))
    return {
        "gradients": sum(gradients),
        "kept for the backward pass": work.kept,
        "LM head, a layer or the step": peak - sum(gradients) - work.kept,
    }


def _built(shape: PretrainedConfig, config: Config, cuda: bool) -> PreTrainedModel:
    """Return a model as a run has it, but without weights; call it on the meta device."""
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=getattr(torch, config.dtype)
        )
    except Exception as error:  # from_config has no exception class for what it cannot build
        said = " ".join(str(error).split())[:160]
        raise RunError(f"no causal language model of type {shape.model_type} ({said})") from None
    prepare(model, META).set_attn_implementation(ATTENTION[cuda])
    if config.model.lora_rank:
        add_adapters(model, config.model.lora_rank, config.seed)
    if config.model.checkpointing:
        recompute_layers(model)
    return model


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def _of_optimizer(optimizer: Optimizer | None, cuda: bool) -> tuple[int, int, int]:
    """Bytes of an optimizer's state, of the float32 gradients, and of what a step needs besides."""
    state = gradients = step = 0
    for part in optimizer.parts if optimizer else ():
        sizes = [4 * p.numel() for group in part.param_groups for p in group["params"]]
        adamw = isinstance(part, torch.optim.AdamW)  # two moments; Muon has one
        state, gradients = state + sum(sizes) * (1 + adamw), gradients + sum(sizes)
        # On CUDA AdamW steps all weights at once, elsewhere one after the other.
        step = max(step, sum(sizes) if cuda and adamw else 2 * max(sizes))
    return state, gradients, step


@dataclass(frozen=True, slots=True)
class _Work:
    """What a microbatch takes besides the models, in bytes: at most, and kept by the forward."""

    peak: int
    kept: int


def _trained(masters: Masters, piece: Batch, config: Config, cuda: bool, there: bool) -> _Work:
    """Take a microbatch through the update of a policy or critic, forward and backward.

    `there` says whether gradients are there already; else they are part of what it takes.
    """
    model: Any = masters.model
    if there:
        for master in masters.of_weight.values():
            master.grad = torch.empty_like(master)
    alive = Alive()
    with alive, alive.most() as most:
        inputs = piece.to(META)
        if isinstance(model, Critic):
            loss = model.loss(inputs, None, piece, config.ppo.value_clip)
            kept = alive.now
        else:
            states = hidden_states(model, inputs)
            kept = alive.now
            chosen = states[inputs.predictor_index[inputs.executed_positions]]
            loss = Head.apply(cuda, chosen, lm_head(model).weight)  # type: ignore[no-untyped-call]
        loss.backward()
    return _Work(most(), kept)


def _scored(model: PreTrainedModel | Critic, piece: Batch, cuda: bool) -> int:
    """Take a microbatch through a model without gradients; returns the most that it takes."""
    alive = Alive()
    with alive, alive.most() as most, torch.no_grad():
        inputs = piece.to(META)
        if isinstance(model, Critic):
            model(inputs)
        else:
            states = hidden_states(model, inputs)
            chosen = states[inputs.predictor_index[inputs.response_positions]]
            Head.apply(cuda, chosen, lm_head(model).weight)  # type: ignore[no-untyped-call]
    return most()


def _microbatch(config: Config, rows: int) -> Batch:
    """Return the first microbatch of so many rows, all as long as they may be, scored."""
    prompt, new = config.prompt.max_prompt_tokens, config.rollout.max_new_tokens
    tokens, samples = config.ppo.tokens_per_microbatch, config.rollout.samples_per_task
    some = min(rows, tokens // new + 1)  # more never fit
    response = ([1] * new, [0.0] * new, [True] * new, 0.0)
    batch = pack([Row([row // samples] * prompt, *response) for row in range(some)])
    _, piece = next(microbatches(batch, tokens))
    zeros = torch.zeros(len(piece.tokens))
    return _settled(replace(piece, values=zeros, returns=zeros))


def _settled(batch: Batch) -> Batch:
    """Return a batch that has planned what its copy asks for, which is no part of the account."""
    packing = batch.packing
    _ = (packing.padded_prompts, packing.padded_responses, packing.ragged, packing.unpad_index)
    _ = (batch.predictor_index, batch.executed_positions, batch.response_positions)
    return batch


@torch.no_grad()
def _cache_per_token(policy: PreTrainedModel) -> int:
    """Bytes that the KV cache has for a token."""
    inputs = pack([Row([0] * 8, [0] * 8, [0.0] * 8, [True] * 8, 0.0)]).to(META)
    cache = DynamicCache()
    policy.get_decoder()(
        input_ids=inputs.tokens[None],
        position_ids=inputs.position_ids[None],
        packing=inputs.packing,
        **with_cache(cache),
    )
    layers: list[Any] = cache.layers
    return _bytes([kept for layer in layers for kept in (layer.keys, layer.values)]) // 16


def shape_of(name: str, option: str) -> PretrainedConfig:
    """Return the config.json of a folder, run or hub id. Raises RunError; `option` named it."""
    folder = model_folder(name, option) if Path(name).is_dir() else name
    try:
        shape: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # from_pretrained has no exception class for what it cannot read
        said = " ".join(str(error).split())[:160]
        raise RunError(f"{option}: {name} has no config.json that loads ({said})") from None
    return shape
