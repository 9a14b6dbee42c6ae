"""Loads pretrained checkpoints, and refuses in one line what cannot be trained over packed rows.

Whether a family of decoders can be trained is not looked up but tried, for each model that is
loaded: the log-probabilities of packed rows must be those that the model itself gives to each row
alone. So nothing has to be known about heads, masks, position codes or recurrent layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stepcoder.errors import RunError
from stepcoder.kernels import reference
from stepcoder.models.attention import PACKED, unpacked_attention
from stepcoder.models.batch import Row, pack
from stepcoder.models.policy import hidden_states, lm_head, prepare

# Nats. Packed rows of SmolLM2-135M (30 layers) differ from single ones by 2e-5 in float32 (and by
# 0.06 in bfloat16, hence the former); ALiBi or a recurrent layer left out, by 0.03 and more.
ROUNDING = 5e-3


def load_pretrained(
    folder: str | Path, dtype: torch.dtype, device: torch.device, option: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and causal language model from a folder, ready for packed rows.

    Raises:
        RunError: it is no such checkpoint, or it cannot be trained; `option` is what named it.
    """
    tokenizer = load_tokenizer(folder, option)
    model = load_policy(folder, dtype, device, option)
    check_vocabulary(tokenizer, model, f"{option}: {folder}")
    return tokenizer, model


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, where: str
) -> None:
    """Raise RunError, which begins with `where`, if a tokenizer has tokens that a model has not."""
    # Added special tokens may lie beyond (Gemma-3 has one for images): no program contains them.
    special = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    ids = set(tokenizer.get_vocab().values()) - {i for i, token in special.items() if token.special}
    embeddings: Any = model.get_input_embeddings()
    last, vocabulary = max(ids, default=0), len(embeddings.weight)
    if last >= vocabulary:
        raise RunError(
            f"{where}: the tokenizer's last token is {last}, but the model's vocabulary has "
            f"{vocabulary} entries; give the tokenizer that belongs to the model"
        )


def load_tokenizer(folder: str | Path, option: str) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer.

    Raises:
        RunError: there is none, or tokens cannot be aligned with characters or ended by it.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # from_pretrained has no exception class for what it cannot read
        raise RunError(
            f"{option}: {folder} has no tokenizer that loads; save the model's own there "
            f"({_said(error)})"
        ) from None
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise RunError(
            f"{option}: {folder} has only a slow tokenizer ({type(tokenizer).__name__}), which "
            "does not say which characters a token covers; give a folder with tokenizer.json"
        )
    if tokenizer.eos_token_id is None and tokenizer.pad_token_id is None:
        raise RunError(
            f"{option}: the tokenizer in {folder} has no end-of-sequence token and no padding "
            "token; name them in its tokenizer_config.json (eos_token, pad_token)"
        )
    return tokenizer


def load_policy(
    folder: str | Path,
    dtype: torch.dtype,
    device: torch.device,
    option: str = "model.path",
    needs_head: bool = True,
) -> PreTrainedModel:
    """Load a causal language model, ready for packed rows; the head may be missing if not needed.

    Raises:
        RunError: it is no transformers checkpoint, it is incomplete, or it cannot be trained.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # from_pretrained has no exception class for what it cannot read
        raise RunError(
            f"{option}: {folder} does not load as a causal language model ({_said(error)})"
        ) from None
    model: PreTrainedModel = loaded[0]
    name = f"{option}: {type(model).__name__} in {folder}"
    if getattr(model, "is_quantized", False):
        raise RunError(f"{name} is quantized; give its checkpoint in bfloat16 or float32")
    missing = sorted(loaded[1]["missing_keys"])
    if not needs_head:
        missing = [key for key in missing if not key.startswith("lm_head")]
    if missing:
        raise RunError(f"{name} lacks {len(missing)} of its weights, among them {missing[0]}")
    try:
        difference = packing_difference(prepare(model, device))
    except RunError as error:
        raise RunError(f"{option}: {error}") from None
    except Exception as error:  # whatever a decoder raises that was written for other attention
        raise RunError(f"{name} cannot be trained over packed rows ({_said(error)})") from None
    if not difference <= ROUNDING:
        raise RunError(
            f"{name} cannot be trained over packed rows: its own log-probabilities differ from "
            f"the trainer's by {difference:.2g} nats a token (docs/models.md says which models can)"
        )
    return model


@torch.no_grad()
def packing_difference(model: PreTrainedModel) -> float:
    """Mean difference, in nats, of what packed rows give and what the model gives each row alone.

    Three rows of random tokens, two with one prompt. At each response token, what is compared are
    the log-probability of the most likely token and the entropy. All is computed in float32.
    """
    dtypes = {p: p.dtype for p in model.parameters()}
    for parameter in dtypes:
        parameter.data = parameter.data.float()
    head = lm_head(model)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(len(head.weight), (count,), generator=generator).tolist()

    shared, other = draw(9), draw(5)
    rows = [
        Row(prompt, draw(n), [0.0] * n, [True] * n, 0.0)
        for prompt, n in ((shared, 7), (shared, 4), (other, 8))
    ]
    batch = pack(rows).to(model.device)

    def alone(row: Row) -> Tensor:
        """The model's own log-probabilities (R, V) at a row's R response tokens."""
        tokens = torch.tensor([[*row.prompt_ids, *row.response_ids]], device=model.device)
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
        return logits[len(row.prompt_ids) - 1 : -1].float().log_softmax(-1)

    model.set_attn_implementation(unpacked_attention(model))
    own = torch.cat([alone(row) for row in rows])  # (N, V)
    model.set_attn_implementation(PACKED)
    before = batch.predictor_index[batch.response_positions]
    hidden, likely = hidden_states(model, batch)[before], own.argmax(-1)
    logprobs, entropy = reference.logprob_entropy(hidden, head.weight, likely, *head.at(1.0))
    differences = torch.stack([logprobs - own.amax(-1), entropy + (own.exp() * own).sum(-1)])
    for parameter, dtype in dtypes.items():
        parameter.data = parameter.data.to(dtype)  # as it was: widening had rounded nothing
    return differences.abs().mean().item()


def _said(error: Exception) -> str:
    """Return the first sentence or so of an error, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."
