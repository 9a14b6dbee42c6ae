"""The template of a training prompt: its default, and the check of one that a user writes.

Light on purpose: the configuration imports it, and must not wait for tokenizers or the sandbox.
"""

from __future__ import annotations

FENCE = "```"
TEMPLATE = "{description}\n" + FENCE + "python\n{given}"
CHAT = "chat"  # in place of a template: the tokenizer's chat template, with the fence opened
AUTO = "auto"  # CHAT where the tokenizer has a chat template, else TEMPLATE
ANSWER = "answer"  # the chat template alone: the policy answers in its own words


def check_template(template: str) -> None:
    """Raise ValueError unless it is a name, or has {description} and ends as `resolved` ones do."""
    if template in (AUTO, CHAT, ANSWER):
        return
    if template.count("{description}") != 1:
        raise ValueError("the prompt template must contain {description} exactly once")
    if template.count("{given}") + template.count("{answer}") != 1 or not template.endswith(
        ("{given}", "{answer}")
    ):
        raise ValueError(
            "the prompt template must contain {given} once, at its very end ({answer} instead lets "
            "the policy begin with words)"
        )


def in_own_words(template: str) -> bool:
    """Return whether the policy answers with a code block somewhere, not with code from the start.

    Such a template ends with {answer}, where others end with {given}.
    """
    return template == ANSWER or template.endswith("{answer}")
