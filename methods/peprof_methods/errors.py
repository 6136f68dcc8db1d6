"""What can be wrong with a method's options or with the model it is applied to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UnsupportedModelError(ValueError):
    """A method can't be applied to this model: its architecture or one of its modules is unknown."""


class UnknownRoleError(ValueError):
    """A role was named that doesn't exist, or that the method can't act on.

    Args:
        role: as it was given.
        known: the roles that would have been right.
        option: the option that holds it, for the message.

    Attributes:
        suggestion: the nearest right name, or ``None``.
    """

    def __init__(self, role: object, known: Sequence[str], *, option: str = "role") -> None:
        self.role = role
        self.known = tuple(known)
        self.option = option
        near = difflib.get_close_matches(str(role), self.known, n=1)
        self.suggestion: str | None = near[0] if near else None
        message = f"{option}: unknown role {role!r}; expected one of {', '.join(self.known)}"
        if self.suggestion:
            message += f". Did you mean {self.suggestion!r}?"
        super().__init__(message)


def require(condition: bool, option: str, value: object, expected: str) -> None:
    """Check an option's value.

    Args:
        condition: what must hold.
        option: the option's name.
        value: the value found.
        expected: what would be right, in words.

    Raises:
        ValueError: if the condition doesn't hold.

    Example:
        >>> require(0 >= 1, "rank", 0, "at least 1")
        Traceback (most recent call last):
        ValueError: rank=0: expected at least 1
    """
    if not condition:
        raise ValueError(f"{option}={value!r}: expected {expected}")
