"""Which torch's rules count, as some changed between those that peprof runs with; without importing it."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version

TorchVersion = tuple[int, int]
"""Major and minor: rules don't change within one."""


@cache
def installed_torch() -> TorchVersion:
    """That of the torch that is installed here."""
    return torch_version_of(version("torch"))


def torch_version_of(text: str) -> TorchVersion:
    """Reads a version as torch writes it.

    Args:
        text: with whatever follows: of builds, of development.

    Example:
        >>> torch_version_of("2.13.0+cu130"), torch_version_of("2.12.0a0+git1234567")
        ((2, 13), (2, 12))
    """
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)
