"""The template of a training prompt: its default, and the check of one that a user writes.

Light on purpose: the configuration imports it, and must not wait for tokenizers or the sandbox.
"""

from __future__ import annotations

FENCE = "```"
TEMPLATE = "{description}\n" + FENCE + "python\n{given}"
CHAT = "chat"  # in place of a template: the tokenizer's chat template, with the fence opened
AUTO = "auto"  # CHAT where the tokenizer has a chat template, else TEMPLATE


def check_template(template: str) -> None:
    """Raise ValueError unless it is a name, or holds {description} once and ends with {given}."""
    if template in (AUTO, CHAT):
        return
    if template.count("{description}") != 1:
        raise ValueError("the prompt template must contain {description} exactly once")
    if template.count("{given}") != 1 or not template.endswith("{given}"):
        raise ValueError("the prompt template must contain {given} once, at its very end")
