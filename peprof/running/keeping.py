"""Keeps what a run has trained, beside its record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from peprof.errors import StoreError, UsageError
from peprof.training.adapters import save_adapter
from peprof.training.peft_format import has_peft_format, save_as_peft

PEFT_DIRECTORY = "peft"


def keep_adapter(model: nn.Module, method: Any, directory: Path, warn: Callable[[str], None]) -> None:
    """Saves what was trained in peprof's format, and below it in that of the ``peft`` library if it has one.

    A full disk doesn't cost the run's result: nothing is raised, what couldn't be kept is said.

    Args:
        model: as the method's ``apply`` returned it, trained.
        method: the method.
        directory: of a run; what an earlier attempt left there is removed.
        warn: told what couldn't be kept, and why.
    """
    shutil.rmtree(directory, ignore_errors=True)
    _try(lambda: save_adapter(model, method, directory), directory, "the adapter", warn)
    if directory.exists() and has_peft_format(method):
        below = directory / PEFT_DIRECTORY
        _try(lambda: save_as_peft(model, method, below), below, "the adapter in peft's format", warn)


def _try(save: Callable[[], None], directory: Path, what: str, warn: Callable[[str], None]) -> None:
    try:
        save()
    except (StoreError, UsageError) as error:
        shutil.rmtree(directory, ignore_errors=True)  # half of it would be no use
        warn(f"{what} wasn't kept: {error.message}")
