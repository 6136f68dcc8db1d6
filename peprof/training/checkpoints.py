"""A training's state in a file: whole or not there, and known again as what it is.

The file is what ``torch.save`` writes, followed by the SHA-256 of that: the archive's own checksums aren't
looked at on reading, and a flipped bit in a weight would be trained on with. Nothing but plain values and
tensors is in it, so reading it runs no code (``weights_only``).
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from peprof.errors import StoreError
from peprof.results.atomic import replacing

FORMAT_VERSION = 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointError(StoreError):
    """A checkpoint can't be used; the message says why. The training starts anew."""


def write_checkpoint(
    path: Path, content: Mapping[str, Any], *, run_id: str, conditions: Mapping[str, str]
) -> None:
    """Puts a checkpoint in place of an earlier one, as a whole or not at all.

    Args:
        path: of the file, in a directory that exists.
        content: plain values and tensors.
        run_id: of the run whose training it is.
        conditions: what must be equal for it to be gone on with, by name.

    Raises:
        CheckpointError: a full disk, no permission; the earlier one is still there.
    """
    whole = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "conditions": dict(conditions),
        "content": dict(content),
    }
    try:
        with replacing(path) as file:
            digesting = _Digesting(file)
            try:
                torch.save(whole, cast(IO[bytes], digesting))
            except RuntimeError as error:  # what torch makes of a file that takes no more
                if digesting.refusal is not None:
                    raise digesting.refusal from error
                raise
            file.write(digesting.digest())
    except OSError as error:
        raise CheckpointError(f"can't write '{path}': {error.strerror or error}") from error


def read_checkpoint(path: Path, *, run_id: str, conditions: Mapping[str, str]) -> dict[str, Any] | None:
    """The content of a checkpoint, its tensors on the CPU; ``None`` when there is none.

    Args:
        path: of the file.
        run_id: of the run that is to go on.
        conditions: those of now.

    Raises:
        CheckpointError: it is damaged, of another version or run, or was made under other conditions.
    """
    try:
        with path.open("rb") as file:
            _check_digest(file)
            whole = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"it can't be read: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError("it is damaged") from error
    if not isinstance(whole, dict) or "format_version" not in whole:
        raise CheckpointError("it is no checkpoint")
    if whole["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"it has format version {whole['format_version']}, not {FORMAT_VERSION}")
    if whole["run_id"] != run_id:
        raise CheckpointError(f"it is of another run, '{whole['run_id']}'")
    check_conditions(whole["conditions"], conditions)
    content: dict[str, Any] = whole["content"]
    return content


def check_conditions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Sees that what was begun can be gone on with.

    Raises:
        CheckpointError: something is not as it was; says what.
    """
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if changed:
        parts = [f"{name} {_short(then.get(name))}, not {_short(now.get(name))}" for name in changed]
        raise CheckpointError(f"it was made with {'; '.join(parts)}")


def _short(value: str | None) -> str:
    return "none" if value is None else value if len(value) <= 60 else f"{value[:57]}..."


def _check_digest(file: BinaryIO) -> None:
    """Raises CheckpointError unless the file ends with the digest of what comes before; rewinds it."""
    length = file.seek(0, os.SEEK_END) - _DIGEST_BYTES
    file.seek(0)
    digest = hashlib.sha256()
    while length > 0:
        part = file.read(min(length, 1 << 20))
        if not part:
            break
        digest.update(part)
        length -= len(part)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise CheckpointError("it is damaged")
    file.seek(0)


class _Digesting:
    """A file that is written to, the digest of what was written, and why it took no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        self._digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._digest.digest()
