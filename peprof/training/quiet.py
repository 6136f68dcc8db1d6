"""Libraries whose advice isn't meant for those who run a suite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_alone(library: str) -> Iterator[None]:
    """Within it a library says errors and nothing less.

    Args:
        library: the name of its logger.
    """
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within it ``datasets`` draws none: whoever works here shows how far it is."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()
