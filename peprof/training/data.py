"""Data from a hub, files or the embedded generator, checked: texts and labels of two splits."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peprof.errors import Fault, SuiteError
from peprof.results.record import DataFacts
from peprof.suite.schema import DataConfig
from peprof.training.labels import Column, check_verbalizers, classes, numbers
from peprof.training.tables import Table, is_embedded, read_tables


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split in clear text.

    Args:
        texts: one tuple an example, with one text or two.
        labels: classes, whole numbers from 0 to n - 1; for regression any numbers; for language modelling
            none.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, rows: int | None) -> Split:
        """The first rows; ``None`` for all."""
        return self if rows is None else Split(texts=self.texts[:rows], labels=self.labels[:rows])


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """Both splits, checked."""

    train: Split
    validation: Split
    facts: DataFacts


def load_data(config: DataConfig, *, source: str) -> LoadedData:
    """Reads and checks a data set.

    Args:
        config: where it is, what is done with it and which columns count. Language modelling needs no
            labels, and leaves out rows without text, as some collections have between their paragraphs.
        source: the suite's file, for messages.

    Raises:
        SuiteError: it can't be read, a column is missing, a split is empty, a text is none, a label is no
            class or no number, a class has no verbalizer.
    """
    faults: list[Fault] = []
    tables = read_tables(config, source)
    names = (config.train_split, config.validation_split)
    texts = [_texts(table, config, split, faults) for table, split in zip(tables, names, strict=True)]
    if faults or not all(texts):
        raise SuiteError(source, faults)
    labels: list[tuple[float, ...]] = [(), ()]
    num_labels = 0
    class_names: tuple[str, ...] = ()
    columns = [
        Column(
            values=table.columns[config.label],
            split=split,
            place=_place(config, split),
            class_names=table.class_names.get(config.label, ()),
        )
        for table, split in zip(tables, names, strict=True)
        if config.task != "language-modelling"
    ]
    if config.task == "regression":
        labels = [numbers(column, faults) for column in columns]
        num_labels = 1
    elif columns:
        found = classes(columns[0], columns[1], faults)
        if found is not None:
            check_verbalizers(config, found.count, faults)
            labels = [found.train, found.validation]
            num_labels, class_names = found.count, found.names
    if faults:
        raise SuiteError(source, faults)
    train = Split(texts=texts[0], labels=labels[0]).first(config.train_rows)
    validation = Split(texts=texts[1], labels=labels[1]).first(config.validation_rows)
    facts = DataFacts(
        train_rows=len(train),
        validation_rows=len(validation),
        num_labels=num_labels,
        class_names=class_names,
        fingerprint=_fingerprint(train, validation),
        synthetic=is_embedded(config),
    )
    return LoadedData(train=train, validation=validation, facts=facts)


def _place(config: DataConfig, split: str) -> str:
    return f"{config.path or config.name}, split '{split}'"


def _texts(table: Table, config: DataConfig, split: str, faults: list[Fault]) -> tuple[tuple[str, ...], ...]:
    """A split's texts; faults where a column is missing, there are no rows, or a text is none."""
    columns, place = table.columns, _place(config, split)
    missing = list(_missing(columns, config, place))
    faults += missing
    if missing:
        return ()
    source = "data.path" if config.path else "data.name"
    if not len(columns[config.text[0]]):
        faults.append(Fault(key=source, problem=f"there are no rows in {place}"))
        return ()
    language = config.task == "language-modelling"
    for position, name in enumerate(config.text):
        # What is to be written has to be there: an empty completion teaches nothing but to say nothing.
        needed = language and position == 1
        row = next((row for row, text in enumerate(columns[name]) if not _is_text(text, needed=needed)), None)
        if row is not None:
            problem = f"row {row + 1} of {place}: column '{name}' holds {columns[name][row]!r}"
            faults.append(Fault(key="data.text", problem=problem, expected="text"))
            return ()
    found = tuple(zip(*(columns[name] for name in config.text), strict=True))
    if language and len(config.text) == 1:
        found = tuple(row for row in found if row[0].strip())
        if not found:
            problem = f"there is no text in column '{config.text[0]}' of {place}"
            faults.append(Fault(key="data.text", problem=problem, expected="text"))
    return found


def _missing(columns: Mapping[str, Any], config: DataConfig, place: str) -> list[Fault]:
    wanted = [("data.text", name) for name in config.text]
    if config.task != "language-modelling":
        wanted.append(("data.label", config.label))
    return [
        Fault(
            key=key,
            problem=f"there is no column '{name}' in {place}",
            expected=f"one of: {', '.join(columns)}",
            suggestion=next(iter(difflib.get_close_matches(name, list(columns), n=1)), None),
        )
        for key, name in wanted
        if name not in columns
    ]


def _is_text(value: Any, *, needed: bool) -> bool:
    return isinstance(value, str) and (bool(value.strip()) or not needed)


def _fingerprint(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        labels: list[tuple[str, ...]] = [(str(label),) for label in split.labels]
        labels = labels or [()] * len(split)  # for language modelling
        for texts, label in zip(split.texts, labels, strict=True):
            digest.update("\x1f".join((*texts, *label, "\x1e")).encode())
    return digest.hexdigest()[:16]
