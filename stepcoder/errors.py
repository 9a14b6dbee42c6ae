"""The exceptions that a command turns into one line and an exit status."""


class RunError(Exception):
    """A run cannot start or go on; the message is one line that names the fix."""


class InputError(ValueError):
    """An input cannot be used; the message is one line that names file, line, field and fix."""
