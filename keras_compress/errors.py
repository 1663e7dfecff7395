"""What a user can fix: every message says what was expected, what was received and what to do.

Commands print these as one line and exit with code 2; any other exception is a fault of ours and exits with code 1.
"""

import numbers


class UserError(Exception):
    """Something that the user can fix."""


class InputError(UserError, ValueError):
    """A model, data or setting that cannot be used, found before any work starts."""


class StorageError(UserError, OSError):
    """A file or folder that cannot be read or written, or a disk that is full."""


def check_integer(name: str, value: object, low: int) -> None:
    """Raises InputError for what is no integer from `low` upwards."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise InputError(f"{name} must be an integer from {low} upwards. Received: {value!r}.")
