"""Steps under autocast on ``meta`` are those of a run on the CPU under torch's own autocast, to the byte.

Each method on each architecture, with or without checkpoints in turns; ``PEPROF_EVERY_SETTING=1`` asks for
both (some minutes).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.estimation.small_models import METHODS, spec_of
from tests.estimation.test_estimate_equals_run import _do_slow_things_once, check, models

__all__ = ["_do_slow_things_once", "models"]  # fixtures
KINDS = ("distilbert", "t5", "llama-lm")
"""An encoder, an encoder-decoder and a decoder: the others have no function that none of these calls."""


def in_turns(first: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Each of these with each architecture, and whether there are checkpoints."""
    every = bool(os.environ.get("PEPROF_EVERY_SETTING"))
    return [
        (one, architecture, checkpointing)
        for (row, one), (column, architecture) in product(enumerate(first), enumerate(KINDS))
        for checkpointing in (False, True)
        if every or (row + column) % 2 == checkpointing
    ]


@pytest.mark.parametrize(("method", "architecture", "checkpointing"), in_turns(METHODS))
def test_every_method(models: Path, method: str, architecture: str, checkpointing: bool) -> None:
    options = {"train__autocast": "bfloat16", "method__gradient_checkpointing": checkpointing}
    check(spec_of(models, architecture, method, **options))


SETTINGS: dict[str, dict[str, Any]] = {
    "float16": {"train__autocast": "float16"},
    "accumulation": {"train__gradient_accumulation_steps": 2},
    "eager": {"model__attention": "eager"},
    "sgd": {"train__optimizer": "sgd", "train__optimizer_options": {"momentum": 0.9}},
    "weights in bfloat16": {"model__dtype": "bfloat16"},
}


@pytest.mark.parametrize(("setting", "architecture", "checkpointing"), in_turns(list(SETTINGS)))
def test_every_way_of_training(models: Path, setting: str, architecture: str, checkpointing: bool) -> None:
    options = {"train__autocast": "bfloat16", "method__gradient_checkpointing": checkpointing}
    check(spec_of(models, architecture, "lora", **{**options, **SETTINGS[setting]}))
