"""Data from a hub, files or the embedded generator, checked: texts and classes of two splits."""

from __future__ import annotations

import csv
import difflib
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from peprof.errors import Fault, SuiteError
from peprof.results.record import DataFacts
from peprof.suite.schema import DataConfig
from peprof.training.embedded import reviews
from peprof.training.sources import EMBEDDED_DATA

LOADERS = {".tsv": "csv", ".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
"""File ending -> the ``datasets`` builder that reads it, in the order they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split in clear text.

    Args:
        texts: one tuple an example, with one text or two.
        labels: classes, 0 to n - 1.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]

    def first(self, rows: int | None) -> Split:
        """The first rows; ``None`` for all."""
        return self if rows is None else Split(texts=self.texts[:rows], labels=self.labels[:rows])


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """Both splits, checked."""

    train: Split
    validation: Split
    facts: DataFacts


def load_data(config: DataConfig, *, source: str) -> ClassificationData:
    """Reads and checks a data set.

    Args:
        config: where it is and which columns count.
        source: the suite's file, for messages.

    Raises:
        SuiteError: it can't be read, a column is missing, a split is empty, a label is out of range, a class
            has no verbalizer.
    """
    synthetic = config.path is None and config.name == EMBEDDED_DATA
    splits = _embedded(config) if synthetic else _tables(config, source)
    faults: list[Fault] = []
    train = _checked(splits[0], config, config.train_split, faults)
    validation = _checked(splits[1], config, config.validation_split, faults)
    num_labels = 0
    if train is not None and validation is not None:
        num_labels = _check_labels(train, validation, config, faults)
        if num_labels and config.task == "text-to-text" and len(config.verbalizers) != num_labels:
            problem = f"{len(config.verbalizers)} words for {num_labels} classes"
            faults.append(Fault(key="data.verbalizers", problem=problem, expected="one word for each class"))
    if faults or train is None or validation is None:
        raise SuiteError(source, faults)
    train, validation = train.first(config.train_rows), validation.first(config.validation_rows)
    facts = DataFacts(
        train_rows=len(train.labels),
        validation_rows=len(validation.labels),
        num_labels=num_labels,
        fingerprint=_fingerprint(train, validation),
        synthetic=synthetic,
    )
    return ClassificationData(train=train, validation=validation, facts=facts)


Columns = dict[str, Sequence[Any]]


def _embedded(config: DataConfig) -> tuple[Columns, Columns]:
    made: list[Columns] = []
    for split, rows in (
        ("train", config.train_rows or reviews.DEFAULT_ROWS["train"]),
        ("validation", config.validation_rows or reviews.DEFAULT_ROWS["validation"]),
    ):
        examples = reviews.generate(split, rows)  # type: ignore[arg-type]
        made.append({"sentence": [e.sentence for e in examples], "label": [e.label for e in examples]})
    return made[0], made[1]


def _tables(config: DataConfig, source: str) -> tuple[Columns, Columns]:
    wanted = (config.train_split, config.validation_split)
    where = config.path or config.name
    key = "data.path" if config.path is not None else "data.name"
    try:
        if config.path is not None:
            tables = [_read_file(_split_file(Path(config.path), split, source)) for split in wanted]
        else:
            found = datasets.load_dataset(config.name, config.subset)
            missing = [split for split in wanted if split not in found]
            if missing:
                raise SuiteError(
                    source,
                    [
                        Fault(
                            key=key,
                            problem=f"'{where}' has no split '{split}'",
                            expected=f"one of: {', '.join(found)}",
                            suggestion=next(iter(difflib.get_close_matches(split, list(found), n=1)), None),
                        )
                        for split in missing
                    ],
                )
            tables = [found[split] for split in wanted]
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = error.__cause__ or error
        fault = Fault(key=key, problem=f"'{where}' can't be read: {' '.join(str(cause).split())}")
        raise SuiteError(source, [fault]) from error
    return tuple({name: table[name][:] for name in table.column_names} for table in tables)  # type: ignore[return-value]


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


def _checked(columns: Columns, config: DataConfig, split: str, faults: list[Fault]) -> Split | None:
    """Columns -> a split, or faults: a missing column, no rows, a text or label of a wrong kind."""
    place = f"{config.path or config.name}, split '{split}'"
    found = False
    for key, names in (("data.text", config.text), ("data.label", (config.label,))):
        for name in names:
            if name not in columns:
                found = True
                faults.append(
                    Fault(
                        key=key,
                        problem=f"there is no column '{name}' in {place}",
                        expected=f"one of: {', '.join(columns)}",
                        suggestion=next(iter(difflib.get_close_matches(name, list(columns), n=1)), None),
                    )
                )
    if found:
        return None
    labels = columns[config.label]
    if not len(labels):
        faults.append(
            Fault(key="data.path" if config.path else "data.name", problem=f"there are no rows in {place}")
        )
        return None
    for name in config.text:
        row = next((row for row, text in enumerate(columns[name]) if not isinstance(text, str)), None)
        if row is not None:
            value = columns[name][row]
            faults.append(
                Fault(
                    key="data.text",
                    problem=f"row {row + 1} of {place}: column '{name}' holds {value!r}",
                    expected="text",
                )
            )
            return None
    row = next((row for row, label in enumerate(labels) if not _is_class(label)), None)
    if row is not None:
        faults.append(
            Fault(
                key="data.label",
                problem=f"row {row + 1} of {place}: label {labels[row]!r} is out of range",
                expected="a class as a whole number from 0",
            )
        )
        return None
    texts = tuple(zip(*(columns[name] for name in config.text), strict=True))
    return Split(texts=texts, labels=tuple(int(label) for label in labels))


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and label >= 0


def _check_labels(train: Split, validation: Split, config: DataConfig, faults: list[Fault]) -> int:
    """The number of classes; a fault unless training has 0 ... n - 1 and validation has no other."""
    classes = sorted(set(train.labels))
    gap = next((index for index, label in enumerate(classes) if label != index), None)
    if gap is not None or len(classes) < 2:
        seen = ", ".join(str(label) for label in classes[:6]) + (", ..." if len(classes) > 6 else "")
        faults.append(
            Fault(
                key="data.label",
                problem=f"the labels in split '{config.train_split}' are {seen}",
                expected="at least two classes, numbered 0, 1, 2 ... without gaps",
            )
        )
        return 0
    strange = sorted(set(validation.labels) - set(classes))
    if strange:
        row = validation.labels.index(strange[0]) + 1
        faults.append(
            Fault(
                key="data.label",
                problem=f"row {row} of split '{config.validation_split}': label {strange[0]} is out of range",
                expected=f"0 to {len(classes) - 1}, as in split '{config.train_split}'",
            )
        )
    return len(classes)


def _fingerprint(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for texts, label in zip(split.texts, split.labels, strict=True):
            digest.update("\x1f".join((*texts, str(label), "\x1e")).encode())
    return digest.hexdigest()[:16]
