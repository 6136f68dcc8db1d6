"""One tree of errors: each carries the command's exit code and a hint on what to do next.

Exit codes: 0 fine, 1 a regression, 2 usage (a suite, an option, an input), 3 a run failed or nothing could be
estimated, 4 results that can't be compared, 5 results that can't be written or read, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class PeprofError(Exception):
    """Base of all errors that peprof reports to its user without a traceback.

    Args:
        message: what was wrong and where.
        hint: what to do next, in one sentence.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # errors cross a process border: keep the hint
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[PeprofError], message: str, hint: str | None) -> PeprofError:
    return kind(message, hint=hint)


class UsageError(PeprofError):
    """An option or argument of a command makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong in a suite.

    Args:
        key: where, as a dotted path: ``train.batch_size``, ``methods[2] (lora).rank``.
        problem: what is wrong, with the value found.
        expected: what would be right.
        suggestion: a nearby right name, if there is one.
    """

    key: str
    problem: str
    expected: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        text = f"{self.key}: {self.problem}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.suggestion:
            text += f". Did you mean '{self.suggestion}'?"
        return text


class SuiteError(PeprofError):
    """A suite has faults; all of them are listed together.

    Args:
        source: the suite's file, or what stands for it.
        faults: at least one fault.
    """

    def __init__(self, source: str, faults: Iterable[Fault], *, hint: str | None = None) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = [f"{source}: {count}", *(f"  {fault}" for fault in self.faults)]
        super().__init__("\n".join(lines), hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_suite_error, (self.source, self.faults, self.hint))


def _rebuild_suite_error(source: str, faults: tuple[Fault, ...], hint: str | None) -> SuiteError:
    return SuiteError(source, faults, hint=hint)


class SourceUnreachableError(PeprofError):
    """A model or data set lies on a hub that can't be reached, and no copy is cached."""


class DeviceError(PeprofError):
    """The device asked for doesn't exist or can't be used."""


class RunFailedError(PeprofError):
    """A run of a suite ended as ``failed`` or ``timeout``, or no row of an estimate could be told."""

    exit_code = 3


class StoreError(PeprofError):
    """Results can't be written or read: a full disk, no permission, a damaged file."""

    exit_code = 5
