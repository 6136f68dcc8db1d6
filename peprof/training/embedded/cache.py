"""Where peprof keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Say where things are cached; the directory need not exist yet.

    ``PEPROF_CACHE`` if set, else ``peprof`` in ``XDG_CACHE_HOME`` if that is set, else ``~/.cache/peprof``.

    Example:
        >>> import os; os.environ["PEPROF_CACHE"] = "/tmp/elsewhere"
        >>> str(cache_directory())
        '/tmp/elsewhere'
    """
    if chosen := os.environ.get("PEPROF_CACHE"):
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path is to be ignored.
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "peprof"
