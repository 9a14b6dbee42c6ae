"""Problems: their files and JSON schema, their source text, prompts, and the code in answers."""

from typing import Any

__all__ = ["LoadReport", "Problem", "load_problems"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: `template`, which --help needs, must not wait for pydantic."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stepcoder.problems import problem

    return getattr(problem, name)
