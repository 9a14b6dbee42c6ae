"""The one exception that the command line turns into a line and an exit code."""


class RunError(Exception):
    """A run cannot start or go on; the message is one line that names the fix."""
