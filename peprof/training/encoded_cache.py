"""Token ids on disk: a suite's texts are tokenized once, for all its methods, seeds and later runs.

An entry is found by what decides it and nothing else: the texts themselves, a prefix before them included,
what the tokenizer is made of (not what it is called), the length that texts are cut to, and the libraries'
versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
import transformers
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from peprof.training.embedded.cache import cache_directory
from peprof.training.token_rows import TokenRows

VERSION: Final = 1
"""Of an entry's form; another one has other names."""

MAX_BYTES: Final = 2 * 1024**3
"""Of all entries together; what was not used for longest goes first."""

MAX_ENTRIES: Final = 1000
"""As many small ones take no room, but time to look through."""

_ENDING: Final = ".safetensors"
_PART: Final = ".part"
_LOCKS: Final = 16
_FORGOTTEN_S: Final = 3600.0
_OFFSETS: Final = "offsets"
_ORDER: Final = "columns"
_SUM: Final = "sha256"


def tokenized(
    columns: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int | None
) -> TokenRows:
    """Texts as token ids, from the cache if they are there.

    Args:
        columns: the first text of each row, and if there are pairs the second.
        tokenizer: the model's.
        max_length: tokens that a row is cut to; ``None`` doesn't cut.
    """
    key = entry_key(columns, tokenizer, max_length=max_length)
    return TokenCache.default().get(key, lambda: tokenize(columns, tokenizer, max_length=max_length))


def tokenize(
    columns: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int | None
) -> TokenRows:
    """The same without a cache."""
    texts = [list(column) for column in columns]
    cut = {"truncation": True, "max_length": max_length} if max_length is not None else {"truncation": False}
    return TokenRows.from_lists(dict(tokenizer(*texts, padding=False, **cut)))


def entry_key(
    columns: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, max_length: int | None
) -> str:
    """What decides the token ids, as 32 hexadecimal digits."""
    texts = hashlib.sha256()
    for column in columns:
        # With the lengths, as the characters alone would be the same for "ab", "c" and for "a", "bc".
        texts.update(np.array([len(column), *map(len, column)], dtype="<i8").tobytes())
        texts.update("".join(column).encode("utf-8", "surrogatepass"))
    parts = {
        "version": VERSION,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "tokenizer": tokenizer_digest(tokenizer),
        "max_length": max_length,
        "texts": texts.hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer makes of texts depends on this: its serialised form and what the Python side adds.

    Cutting and padding are left out of the form: they are what the last call left there.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        form = json.loads(backend.to_str())
        del form["truncation"], form["padding"]
    else:
        form = _saved_form(tokenizer)
    outside = {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "columns": tokenizer.model_input_names,
        "side": tokenizer.truncation_side,
    }
    text = json.dumps([form, outside], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _saved_form(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The files of a tokenizer that is written in Python, without the name that it was loaded by."""
    with tempfile.TemporaryDirectory(prefix="peprof-") as directory:
        tokenizer.save_pretrained(directory)
        found: dict[str, str] = {}
        for path in sorted(Path(directory).rglob("*")):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if path.name == "tokenizer_config.json":
                settings = json.loads(content)
                settings.pop("name_or_path", None)
                content = json.dumps(settings, sort_keys=True).encode()
            found[path.name] = hashlib.sha256(content).hexdigest()
    return found


@dataclass(frozen=True, kw_only=True)
class TokenCache:
    """A directory of entries that several processes may use at once.

    Args:
        directory: made when it is first needed.
        max_bytes: of all entries together.
        max_entries: how many there may be.
    """

    directory: Path
    max_bytes: int = MAX_BYTES
    max_entries: int = MAX_ENTRIES

    @classmethod
    def default(cls) -> TokenCache:
        """The one that all runs share, in ``cache_directory()``."""
        return cls(directory=cache_directory() / "tokens")

    def get(self, key: str, make: Callable[[], TokenRows]) -> TokenRows:
        """An entry, made if it isn't there or is damaged; of several processes one makes it, the others wait.

        Args:
            key: names the entry.
            make: gives its rows.

        Warns:
            RuntimeWarning: the cache can't be written; the rows are made and not kept.
        """
        entry = self.directory / f"{key}{_ENDING}"
        if (found := _read(entry)) is not None:
            return found
        lock = FileLock(self.directory / f"{int(key[:8], 16) % _LOCKS}.lock")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            self._warn(error)
            return make()
        try:
            if (found := _read(entry)) is not None:  # another process has made it meanwhile
                return found
            made = make()
            try:
                self._write(entry, made)
            except OSError as error:
                self._warn(error)
            return made
        finally:
            lock.release()

    def _warn(self, error: OSError) -> None:
        warnings.warn(
            f"token ids can't be cached in {self.directory}: {error}; each run makes them anew. "
            "Set PEPROF_CACHE to a directory that can be written.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _write(self, entry: Path, rows: TokenRows) -> None:
        """Beside its place, then there at once: no reader sees half an entry."""
        arrays = {_OFFSETS: rows.offsets, **{f"column.{name}": ids for name, ids in rows.columns.items()}}
        size = sum(array.nbytes for array in arrays.values())
        if size > self.max_bytes:
            return
        self._make_room(size)
        part = entry.with_name(f"{entry.name}.{os.getpid()}{_PART}")
        try:
            save_file(arrays, part, metadata={_ORDER: json.dumps(list(rows.columns)), _SUM: _checksum(rows)})
            part.replace(entry)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Removes the entries that were not used for longest, and what killed processes have left."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):  # somebody else makes room too
                stat = path.stat()
                if path.suffix == _ENDING:
                    entries.append((stat.st_mtime, stat.st_size, path))
                elif path.suffix == _PART and time.time() - stat.st_mtime > _FORGOTTEN_S:
                    path.unlink()
        total, count = sum(bytes_ for _, bytes_, _ in entries), len(entries)
        for _, bytes_, path in sorted(entries):
            if total + size <= self.max_bytes and count < self.max_entries:
                return
            with suppress(FileNotFoundError, PermissionError):  # Windows keeps what somebody reads
                path.unlink()
                total, count = total - bytes_, count - 1


def _read(entry: Path) -> TokenRows | None:
    """An entry, from now on the last used; ``None`` where there is none, or not a whole one."""
    try:
        with safe_open(entry, framework="np") as file:
            metadata = file.metadata() or {}
            rows = TokenRows(
                offsets=file.get_tensor(_OFFSETS),
                columns={name: file.get_tensor(f"column.{name}") for name in json.loads(metadata[_ORDER])},
            )
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    if metadata.get(_SUM) != _checksum(rows):
        return None
    with suppress(OSError):  # read, but not ours to mark
        os.utime(entry)
    return rows


def _checksum(rows: TokenRows) -> str:
    digest = hashlib.sha256(rows.offsets.tobytes())
    for name in rows.columns:
        digest.update(name.encode())
        digest.update(str(rows.columns[name].dtype).encode())
        digest.update(rows.columns[name].tobytes())
    return digest.hexdigest()
