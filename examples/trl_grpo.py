"""TRL's GRPO with our reward (programs judged in the sandbox) and our LM head.

    pip install trl datasets
    python examples/trl_grpo.py MODEL OUTPUT_FOLDER --steps 100

`CodeReward` needs a column `tests`. The head gives log-probabilities and entropies from hidden
states without a tensor of all logits, which is what takes most memory where vocabularies are large.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import datasets
import trl
from torch import Tensor
from transformers import PreTrainedModel

from stepcoder.adapters import CodeReward
from stepcoder.kernels import logprob_entropy

ROWS = [
    {
        "prompt": f"def add_{n}(x):\n    ",
        "starter_code": f"def add_{n}(x):\n    ",  # which the completion continues
        "entry_point": f"add_{n}",
        "tests": {"kind": "call", "inputs": [[1], [2]], "outputs": [1 + n, 2 + n]},
    }
    for n in range(8)
]


class GRPO(trl.GRPOTrainer):
    """TRL's trainer with our LM head."""

    def _get_per_token_logps_and_entropies(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities and entropies (B, T) of the last T tokens of (B, S)."""
        model = self.accelerator.unwrap_model(model)
        output = model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask)
        states = output.last_hidden_state[:, -logits_to_keep - 1 : -1]  # (B, T, H): before each
        targets = input_ids[:, -logits_to_keep:]
        weight = model.get_output_embeddings().weight
        return *logprob_entropy(states, weight, targets, self.temperature), None


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, and return the last step's figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32, help="longest completion")
    given = parser.parse_args(arguments)
    settings = trl.GRPOConfig(
        output_dir=given.output,
        max_steps=given.steps,
        max_completion_length=given.tokens,
        per_device_train_batch_size=8,
        num_generations=4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
    )
    with CodeReward() as reward:
        rows = datasets.Dataset.from_list(ROWS)
        trainer = GRPO(given.model, reward, args=settings, train_dataset=rows)
        trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry][-1]


if __name__ == "__main__":
    main()
