from __future__ import annotations

import os

import pytest


@pytest.fixture
def quick() -> bool:
    """Whether to measure less, as CI does: ``PEPROF_BENCHMARK=quick``."""
    return os.environ.get("PEPROF_BENCHMARK") == "quick"
