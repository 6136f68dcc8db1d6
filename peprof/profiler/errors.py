"""What the ledger can't do, said clearly; and what it has to say where a step ran out of memory."""

from __future__ import annotations

import torch

from peprof.breakdown.values import StepProfile
from peprof.errors import PeprofError


class ProfileError(PeprofError, ValueError):
    """A step can't be profiled as asked: what is wrong, and in the hint what to do."""


class StepOutOfMemoryError(PeprofError, torch.OutOfMemoryError):
    """A step ran out of memory while it was profiled; the error that it raised is the ``__cause__``.

    Also a ``torch.OutOfMemoryError`` (and so a ``RuntimeError``), whatever the step had raised, so that code
    that handles those goes on as before.

    Args:
        message: that of the step's error, after where it happened.
        profile: of the step until then; ``profile.ran_out`` says where, and whose the memory was.
    """

    def __init__(self, message: str, *, profile: StepProfile) -> None:
        super().__init__(
            message, hint="The error's .profile says whose the memory was; .profile.ran_out, at that moment."
        )
        self.profile = profile

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.profile))


def _rebuild(message: str, profile: StepProfile) -> StepOutOfMemoryError:
    return StepOutOfMemoryError(message, profile=profile)
