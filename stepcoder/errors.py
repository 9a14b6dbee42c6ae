"""The exceptions that a command turns into one line and an exit status."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


class RunError(Exception):
    """A run cannot start or go on; the message is one line that names the fix."""


class InputError(ValueError):
    """An input cannot be used; the message is one line that names file, line, field and fix."""


@contextmanager
def os_errors() -> Iterator[None]:
    """Raise as OSError what torch, safetensors and tokenizers raise where a disk is full."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error.__context__, OSError):  # torch's own, about what the file raised
            raise error.__context__ from None
        number = re.search(r"os error (\d+)", str(error))  # how Rust tells it
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
