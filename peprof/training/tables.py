"""Two splits of a data set as columns: from a hub, from files, or generated."""

from __future__ import annotations

import csv
import difflib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from peprof.errors import Fault, SuiteError
from peprof.suite.schema import DataConfig
from peprof.training.embedded import reviews
from peprof.training.sources import EMBEDDED_DATA

LOADERS = {".tsv": "csv", ".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
"""File ending -> the ``datasets`` builder that reads it, in the order they are looked for."""

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One split as it was found.

    Args:
        columns: name -> values, all of one length.
        class_names: of columns that hold classes and say what they are called, in order.
    """

    columns: Columns
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def is_embedded(config: DataConfig) -> bool:
    """Whether the data are made here."""
    return config.path is None and config.name == EMBEDDED_DATA


def read_tables(config: DataConfig, source: str) -> tuple[Table, Table]:
    """The splits to train on and to evaluate on.

    Raises:
        SuiteError: they can't be read, or one isn't there.
    """
    if is_embedded(config):
        return _embedded(config)
    wanted = (config.train_split, config.validation_split)
    where = config.path or config.name
    key = "data.path" if config.path is not None else "data.name"
    try:
        if config.path is not None:
            found = [_read_file(_split_file(Path(config.path), split, source)) for split in wanted]
        else:
            found = _from_hub(config, wanted, source)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = error.__cause__ or error
        fault = Fault(key=key, problem=f"'{where}' can't be read: {' '.join(str(cause).split())}")
        raise SuiteError(source, [fault]) from error
    return _table(found[0]), _table(found[1])


def _embedded(config: DataConfig) -> tuple[Table, Table]:
    made: list[Table] = []
    for split, rows in (
        ("train", config.train_rows or reviews.DEFAULT_ROWS["train"]),
        ("validation", config.validation_rows or reviews.DEFAULT_ROWS["validation"]),
    ):
        examples = reviews.generate(split, rows)  # type: ignore[arg-type]
        columns: Columns = {"sentence": [e.sentence for e in examples], "label": [e.label for e in examples]}
        made.append(Table(columns=columns))
    return made[0], made[1]


def _from_hub(config: DataConfig, wanted: Sequence[str], source: str) -> list[datasets.Dataset]:
    found = datasets.load_dataset(config.name, config.subset)
    missing = [split for split in wanted if split not in found]
    if missing:
        raise SuiteError(
            source,
            [
                Fault(
                    key="data.name",
                    problem=f"'{config.name}' has no split '{split}'",
                    expected=f"one of: {', '.join(found)}",
                    suggestion=next(iter(difflib.get_close_matches(split, list(found), n=1)), None),
                )
                for split in missing
            ],
        )
    return [found[split] for split in wanted]


def _table(found: datasets.Dataset) -> Table:
    names = {
        name: tuple(feature.names)
        for name, feature in found.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return Table(columns={name: found[name][:] for name in found.column_names}, class_names=names)


def _split_file(directory: Path, split: str, source: str) -> Path:
    for ending in LOADERS:
        if (directory / f"{split}{ending}").is_file():
            return directory / f"{split}{ending}"
    raise SuiteError(
        source,
        [
            Fault(
                key="data.path",
                problem=f"there is no file for the split '{split}' in {directory}",
                expected=" or ".join(f"{split}{ending}" for ending in LOADERS),
            )
        ],
    )


def _read_file(path: Path) -> datasets.Dataset:
    options: dict[str, Any] = {}
    if path.suffix in (".tsv", ".csv"):
        options["keep_default_na"] = False  # "null" and "NA" are words
    if path.suffix == ".tsv":
        options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}  # a quote mark is text there
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        # A cache of its own that goes with the block: the library's would keep a copy of every local file.
        with tempfile.TemporaryDirectory(prefix="peprof-") as cache:
            loaded = datasets.load_dataset(
                LOADERS[path.suffix],
                data_files={"rows": str(path)},
                split="rows",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
    except ValueError as error:
        if "corresponds to no data" in str(error):  # the library's words for a header without rows
            raise ValueError(f"there are no rows in {path.name}") from None
        raise
    assert isinstance(loaded, datasets.Dataset)
    return loaded
