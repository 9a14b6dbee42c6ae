"""Policy, critic and reference: transformers decoders that run over packed rows.

Takes a packed batch of T tokens, gives final hidden states (T, H); the LM head is
left to the kernels, so that only the rows that need it are ever multiplied by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from stepcoder.errors import RunError
from stepcoder.kernels.logprob import logprob_entropy
from stepcoder.kernels.token_loss import value_loss
from stepcoder.models.attention import PACKED, packed_attention
from stepcoder.models.batch import Batch
from stepcoder.models.lora import copy_of
from stepcoder.models.sharding import forward_with


def choose_device(name: str) -> torch.device:
    """Return the configured device; `auto` takes CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device: cuda was asked for, but torch finds no GPU; use device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def prepare(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Put a causal language model on its device with packed attention, and check its head.

    Dropout stays off throughout (eval mode): PPO's ratio must be 1 before the first update.

    Raises:
        RunError: the LM head has a bias, which the fused head does not support.
    """
    model.set_attn_implementation(PACKED)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise RunError(
            f"{type(model).__name__}: the LM head has a bias, which the fused PPO head does not "
            "support; use a model whose head has none"
        )
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    return model


def recompute_layers(model: PreTrainedModel) -> None:
    """Keep only the layers' inputs for the backward pass, which computes the rest again.

    Copies of the model do the same. The gradients are the same numbers. transformers' own switch
    works in training mode alone, in which some families (StarCoder2, OPT) drop out.

    Raises:
        RunError: the model has no layers that transformers could compute again.
    """
    for layer in _layers_of(model, "model.checkpointing"):
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


def compile_layers(model: PreTrainedModel) -> None:
    """Have torch.compile fuse what the layers do between matrix products and attention.

    Copies of the model do the same. Layers of one class share their graphs, which serve any number
    of tokens. Of a layer that is also computed again, the backward pass runs the compiled one.

    Raises:
        RunError: the model has no layers that transformers could compute again, or torch.compile
            does not work on this machine.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=model.device))
    except Exception as error:  # each backend has its own; most say what they miss
        said = str(error).partition("\n")[0]
        raise RunError(
            f"model.compile: torch.compile does not work here ({said:.160}); "
            "install a C++ compiler (and Triton for CUDA), or set it to false"
        ) from None
    for layer in _layers_of(model, "model.compile"):
        layer.forward = partial(_compiled, layer.forward)


def _compiled(forward: Any, *inputs: Any, **options: Any) -> Any:
    if "packing" not in options:  # an engine's copy, which generates with a KV cache
        return forward(*inputs, **options)
    # By the class's function, so that a copied layer computes with its own weights.
    return _graphs_of(forward.__func__)(forward.__self__, *inputs, **options)


@cache
def _graphs_of(forward: Callable[..., Any]) -> Callable[..., Any]:
    AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
    return torch.compile(forward, dynamic=True)


def _layers_of(model: PreTrainedModel, option: str) -> list[GradientCheckpointingLayer]:
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise RunError(
            f"{option}: {type(model).__name__} has no layers that transformers knows as such; "
            "set it to false"
        )
    return layers


def frozen_copy(model: PreTrainedModel, offload: bool = False) -> PreTrainedModel:
    """Return a copy without gradients: the reference policy. It shares what is frozen already.

    With `offload` its own weights wait in the CPU's memory; `at_hand` has them on the device.
    """
    reference = copy_of(model)
    reference.requires_grad_(requires_grad=False)
    shared = {id(p) for p in model.parameters()}
    for parameter in reference.parameters():
        if offload and parameter.is_cuda and id(parameter) not in shared:
            parameter.data = parameter.data.cpu().pin_memory()
    return reference


@contextmanager
def at_hand(model: PreTrainedModel | None, device: torch.device) -> Iterator[None]:
    """Have all weights of a model on a device, those too that wait in the CPU's memory."""
    parameters = [] if model is None else model.parameters()
    waiting = {p: p.data for p in parameters if p.device.type != device.type}
    for parameter, data in waiting.items():
        parameter.data = data.to(device, non_blocking=True)
    try:
        yield
    finally:
        for parameter, data in waiting.items():  # it never changes: nothing is copied back
            parameter.data = data


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Final hidden states of every token: (T, H), rows never seeing each other."""
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model

    def work() -> Tensor:
        output = decoder(
            input_ids=batch.tokens[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            packing=batch.packing,
        )
        states: Tensor = output.last_hidden_state  # (1, T, H)
        return states

    return forward_with(model, work)[0]


@dataclass(frozen=True, slots=True)
class Head:
    """An LM head: logits = cap(scale * hidden W^T), cap(z) = softcap * tanh(z / softcap)."""

    weight: Tensor  # (V, H), tied or not
    scale: float = 1.0
    softcap: float = 0.0  # 0: the logits are not capped

    def at(self, temperature: float) -> tuple[float, float]:
        """Temperature and softcap with which the kernels, whose logits have no scale, give these.

        c tanh(s z / c) / t = c' tanh(z / c') / t'  with  c' = c / s  and  t' = t / s.
        """
        return temperature / self.scale, self.softcap / self.scale


def lm_head(model: PreTrainedModel) -> Head:
    """Return the LM head, with what a family does to its logits.

    Gemma caps them, Cohere multiplies and Granite divides them. A family that does anything else is
    refused when it is loaded (`pretrained.py`).
    """
    config = model.config.get_text_config()
    multiplier, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", 1)
    softcap = getattr(config, "final_logit_softcapping", None)
    weight = model.get_output_embeddings().weight
    return Head(weight, (multiplier or 1.0) / divisor, softcap or 0.0)


def response_logprobs(
    model: PreTrainedModel, piece: Batch, temperature: float, states: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (N,) of the response tokens of a batch, in batch order.

    `states` are the model's (T, H) for this batch, where the caller has them.
    """
    positions = piece.response_positions
    before = piece.predictor_index[positions]
    states = hidden_states(model, piece) if states is None else states
    hidden = states[before]  # (N, H): the states that predict them
    head = lm_head(model)
    return logprob_entropy(hidden, head.weight, piece.tokens[positions], *head.at(temperature))


def fresh_head(backbone: PreTrainedModel, outputs: int) -> nn.Linear:
    """Return a head for a decoder's states (H wide), with weights of deviation 1 / (H + 1)."""
    width: int = backbone.config.get_text_config().hidden_size
    head = nn.Linear(width, outputs, dtype=backbone.dtype)
    nn.init.normal_(head.weight, std=1 / (width + 1))
    nn.init.zeros_(head.bias)
    return head


VALUE_HEAD = "value_head.safetensors"  # of a critic, beside the decoder in its folder


class Critic(nn.Module):
    """A decoder with a fresh linear head that gives a value for each state (arXiv 2402.01391)."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        """Put a fresh head on a decoder: values start near 0."""
        super().__init__()
        self.backbone, self.head = backbone, fresh_head(backbone, 1)

    @classmethod
    def from_policy(cls, policy: PreTrainedModel) -> Critic:
        """Start from the policy's own weights, adapters included."""
        return cls(copy_of(policy.get_decoder())).to(policy.device).eval()

    def forward(self, batch: Batch, states: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Value (N,) before each of the N response tokens, in batch order, float32 or wider."""
        return values_of(self.head, hidden_states(self.backbone, batch), batch)

    def loss(self, piece: Batch, states: Tensor | None, whole: Batch, clip: float) -> Tensor:
        """Clipped value loss of a microbatch, over the response tokens of its whole minibatch."""
        return clipped_value_loss(self(piece, states), piece, whole, clip)


class ValueHead(nn.Module):
    """A critic without a decoder: a head on the policy's own states.

    Its gradient ends at the states, so it does not train the policy. It costs neither the memory of
    a second model nor the time of its passes, and knows only what the policy's states say.
    """

    def __init__(self, policy: PreTrainedModel) -> None:
        """Put a fresh float32 head beside the policy's LM head: values start near 0."""
        super().__init__()
        self.head = fresh_head(policy.get_decoder(), 1).float()

    def forward(self, batch: Batch, states: Tensor | None) -> Tensor:
        """Value (N,) before each response token, from the policy's states (T, H), float32."""
        assert states is not None
        return values_of(self.head, states.detach(), batch)

    def loss(self, piece: Batch, states: Tensor | None, whole: Batch, clip: float) -> Tensor:
        """Clipped value loss of a microbatch, over the response tokens of its whole minibatch."""
        return clipped_value_loss(self(piece, states), piece, whole, clip)


def values_of(head: nn.Linear, states: Tensor, batch: Batch) -> Tensor:
    """Value (N,) of a head before each response token, from states (T, H), float32 or wider."""
    before = batch.predictor_index[batch.response_positions]  # where each token is chosen
    values: Tensor = head(states[before].to(head.weight.dtype)).sum(-1)  # of a single output
    return values.to(torch.promote_types(values.dtype, torch.float32))


def clipped_value_loss(values: Tensor, piece: Batch, whole: Batch, clip: float) -> Tensor:
    """Clipped value loss of values (N,), over the response tokens of the whole minibatch."""
    assert piece.values is not None
    assert piece.returns is not None
    positions = piece.response_positions
    old, returns = piece.values[positions], piece.returns[positions]
    return value_loss(values, old, returns, float(len(whole.response_positions)), clip)


class OutcomeCritic(nn.Module):
    """A decoder whose head says how a program ends: C classes (CodeRL, arXiv 2207.01780, 3.2.2).

    The program's class is read from the maximum of its tokens' states, each token's from its own.
    """

    def __init__(self, backbone: PreTrainedModel, classes: int) -> None:
        """Put a fresh head on a decoder: all classes start about equally likely."""
        super().__init__()
        self.backbone, self.head = backbone, fresh_head(backbone, classes)

    @classmethod
    def from_policy(cls, policy: PreTrainedModel, classes: int) -> OutcomeCritic:
        """Start from the policy's own weights."""
        return cls(copy_of(policy.get_decoder()), classes).to(policy.device).eval()

    def forward(self, batch: Batch, states: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Probability (N,) of its row's true class at each response token, in batch order."""
        assert batch.outcomes is not None
        true = batch.broadcast_rows(batch.outcomes)[batch.response_positions]
        return self.token_probabilities(batch).gather(-1, true[:, None]).squeeze(-1)

    def token_probabilities(self, batch: Batch) -> Tensor:
        """Probability (N, C) of each class in the state after each response token, float32."""
        states = hidden_states(self.backbone, batch)[batch.response_positions]
        return torch.softmax(self.head(states).float(), dim=-1)

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, C) of each row's class, float32."""
        states = hidden_states(self.backbone, batch)[batch.response_positions]  # (N, H)
        rows = torch.arange(len(batch), device=states.device)
        row = batch.broadcast_rows(rows)[batch.response_positions]  # (N,) the row of each token
        pooled = states.new_full((len(batch), states.shape[1]), -torch.inf)
        pooled = pooled.scatter_reduce(0, row[:, None].expand_as(states), states, "amax")
        return self.head(pooled).float()  # type: ignore[no-any-return]

    def loss(
        self,
        piece: Batch,
        states: Tensor | None,  # noqa: ARG002
        whole: Batch,
        clip: float,  # noqa: ARG002
    ) -> Tensor:
        """Cross-entropy of the rows' classes, over the rows of the whole minibatch."""
        assert piece.outcomes is not None
        total = nn.functional.cross_entropy(self.logits(piece), piece.outcomes, reduction="sum")
        return total / len(whole)


AnyCritic = Critic | ValueHead | OutcomeCritic  # what a recipe may have beside the policy
