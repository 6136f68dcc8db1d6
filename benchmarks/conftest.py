from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.ratios import Kind, Ratio, noted


@pytest.fixture
def quick() -> bool:
    """Whether to measure less, as CI does: ``PEPROF_BENCHMARK=quick``."""
    return os.environ.get("PEPROF_BENCHMARK") == "quick"


@pytest.fixture
def note_ratio(benchmark: Any, quick: bool) -> Callable[[str, float, Kind], None]:
    """Notes a ratio that is held to the baseline, see ``benchmarks/ratios.py``: name, value, kind."""

    def note(name: str, value: float, kind: Kind) -> None:
        ratio = Ratio(name=name, value=value, kind=kind, mode="quick" if quick else "full")
        benchmark.extra_info.setdefault("ratios", []).append(noted(ratio))

    return note
