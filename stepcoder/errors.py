"""RunError: what stops a run, told to its user in one line."""


class RunError(Exception):
    """A run cannot start or go on; the message is one line that names the fix."""
