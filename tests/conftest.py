"""Settings of all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Beside other workers (``pytest -n``), each has one thread, and a temporary folder of its own.

    A run holds a lock on its device in the temporary folder, for which another worker's run would wait.
    Threads are counted when torch is imported, so it is done before that.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix=f"peprof-tests-{worker}-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside other workers the longest tests come first: at the end nobody waits for the last of them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_seconds, reverse=True)


def _seconds(item: pytest.Item) -> float:
    """About how long it takes; of those that are marked slow as they say, ``slow(seconds=90)``."""
    mark = item.get_closest_marker("slow")
    return float(mark.kwargs.get("seconds", 2)) if mark is not None else 0.0
