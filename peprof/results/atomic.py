"""Files that are replaced as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` in one step when the block ends.

    When the block is left by an exception, what was there stays as it was, and nothing else is left. What a
    writer that was killed has left is cleared away by ``remove_temporary_files``.

    Args:
        path: in a directory that exists.

    Raises:
        OSError: a full disk, no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # an interrupt too must not leave it behind
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def remove_temporary_files(directory: Path) -> None:
    """Clears away what a writer that was killed has left; only where nobody else may be writing.

    Raises:
        OSError: no permission.
    """
    for stray in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        stray.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Makes the new name last through a power cut, on systems where a directory can be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
