"""``peprof/tiny``: a small BERT-like encoder that knows the language of the synthetic reviews.

It is pre-trained on first use, on generated text, and cached: a stand-in that makes peprof run offline, not a
model of English.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from peprof.errors import StoreError
from peprof.events import Progress
from peprof.training.embedded.cache import cache_directory
from peprof.training.embedded.pretraining import Recipe, make_tokenizer, model_config, pretrain

VERSION: Final = 1
RECIPE: Final = Recipe()
_WEIGHTS: Final = "model.safetensors"
_MARK: Final = "recipe.json"


def tiny_config(*, num_labels: int) -> BertConfig:
    """The encoder's geometry, for weights that were never pre-trained."""
    config = model_config(RECIPE, vocab_size=len(make_tokenizer(RECIPE.max_positions)))
    config.num_labels = num_labels
    return config


def load_tiny(
    *,
    num_labels: int,
    progress: Callable[[Progress], None] | None = None,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the encoder with a fresh head, and its tokenizer; pre-train it if this machine hasn't yet.

    Args:
        num_labels: classes of the head. Head and pooler are drawn from torch's global random state: masked
            language modelling trains neither.
        progress: hears of pre-training.
        attention: the attention kernel, as transformers names it.
        dtype: of the parameters.

    Raises:
        StoreError: the cache can't be written.
    """
    directory = ensure_pretrained(progress)
    with _quietly():
        model = BertForSequenceClassification.from_pretrained(
            directory, num_labels=num_labels, attn_implementation=attention, dtype=dtype
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    return model, tokenizer


def ensure_pretrained(
    progress: Callable[[Progress], None] | None = None, *, recipe: Recipe | None = None
) -> Path:
    """Pre-train unless a whole result lies in the cache; of several processes one works, the others wait.

    Args:
        progress: hears of pre-training; of nothing when it is already done.
        recipe: another one than ``RECIPE``; it has its own directory.

    Returns:
        A directory that transformers loads model and tokenizer from.

    Raises:
        StoreError: the cache can't be written.
    """
    recipe = recipe or RECIPE
    directory = cache_directory() / f"tiny-{VERSION}-{recipe.digest()}"
    if _is_whole(directory):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_name(directory.name + ".lock")):
            if not _is_whole(directory):  # another process may have done it meanwhile
                _make(directory, recipe, progress)
    except OSError as error:
        raise StoreError(
            f"peprof/tiny can't be cached in {directory.parent}: {error}",
            hint="Set PEPROF_CACHE to a directory that can be written and has 20 MB free.",
        ) from error
    return directory


def _make(directory: Path, recipe: Recipe, progress: Callable[[Progress], None] | None) -> None:
    """Write everything beside its place, then move it there at once: no reader sees a half-written one."""
    _remove_leftovers(directory)
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}.part-", dir=directory.parent) as part:
        made = Path(part) / "whole"
        model = pretrain(recipe, progress)
        with _quietly():
            model.save_pretrained(made)
        make_tokenizer(recipe.max_positions).save_pretrained(made)
        sizes = {file.name: file.stat().st_size for file in sorted(made.iterdir())}
        (made / _MARK).write_text(json.dumps({"synthetic": True, "bytes": sizes}, indent=1) + "\n")
        if directory.exists():  # damaged, or it wouldn't be made again
            shutil.rmtree(directory)
        made.replace(directory)


def _remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left; the lock is held, so nobody is at work on them."""
    for part in directory.parent.glob(f"{directory.name}.part-*"):
        shutil.rmtree(part)


def _is_whole(directory: Path) -> bool:
    """Whether all files are there, of the size they were written with, and the weights can be opened."""
    try:
        sizes = json.loads((directory / _MARK).read_text())["bytes"]
        if any((directory / name).stat().st_size != size for name, size in sizes.items()):
            return False
        with safe_open(directory / _WEIGHTS, framework="pt") as weights:
            return len(weights.keys()) > 0
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, SafetensorError):
        return False


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide transformers' bars for small files, and its warning that head and pooler are new."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
