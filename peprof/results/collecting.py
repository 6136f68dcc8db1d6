"""Python's collector of cyclic garbage, out of the way of those who read much and keep all of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Leaves garbage where it is in the meantime.

    Each time that many objects were made, the collector looks through all there are, in vain where all of
    them are kept: of 10,000 records it costs as long as reading them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
