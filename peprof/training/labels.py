"""Columns of labels -> classes or numbers, or faults with the row where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from peprof.errors import Fault
from peprof.suite.schema import DataConfig


@dataclass(frozen=True, kw_only=True)
class Column:
    """The labels of one split.

    Args:
        values: as they were found; at least one.
        split: its name.
        place: where it is, for messages.
        class_names: in order, where the column says what its classes are called.
    """

    values: Sequence[Any]
    split: str
    place: str
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Both splits' classes, numbered from 0.

    Args:
        train, validation: one number an example.
        count: of classes.
        names: in order; empty where they have none.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    count: int
    names: tuple[str, ...]


def numbers(column: Column, faults: list[Fault]) -> tuple[float, ...]:
    """The labels of a regression; empty with a fault where one is no finite number."""
    row = next((row for row, value in enumerate(column.values) if not _is_number(value)), None)
    if row is not None:
        problem = f"row {row + 1} of {column.place}: label {column.values[row]!r} is no finite number"
        expected = "a number for each example, or data.task = 'classification'"
        faults.append(Fault(key="data.label", problem=problem, expected=expected))
        return ()
    return tuple(float(value) for value in column.values)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def classes(train: Column, validation: Column, faults: list[Fault]) -> Classes | None:
    """The labels of a classification; ``None`` with faults where they can't be understood.

    Labels may be whole numbers from 0, or words: these are numbered in their sorted order, those of the
    training split alone. A column that names its classes itself keeps their order.
    """
    before = len(faults)
    names: tuple[str, ...] = train.class_names
    columns = (train, validation)
    if any(isinstance(value, str) for column in columns for value in column.values):
        names = _names(columns, faults)
        if len(faults) > before:
            return None
        number = {name: index for index, name in enumerate(names)}
        found = [tuple(number.get(str(value), -1) for value in column.values) for column in columns]
    else:
        for column in columns:
            row = next((row for row, value in enumerate(column.values) if not _is_class(value)), None)
            if row is not None:
                problem = f"row {row + 1} of {column.place}: label {column.values[row]!r} is out of range"
                expected = "a class: a whole number from 0, or a word"
                faults.append(Fault(key="data.label", problem=problem, expected=expected))
        if len(faults) > before:
            return None
        found = [tuple(int(value) for value in column.values) for column in columns]
    count = _count(found[0], train, faults)
    if not count:
        return None
    strange = next((row for row, label in enumerate(found[1]) if not 0 <= label < count), None)
    if strange is not None:
        value = validation.values[strange]
        said = (
            f"label {value!r} occurs nowhere" if isinstance(value, str) else f"label {value} is out of range"
        )
        known = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else f"0 to {count - 1}"
        faults.append(
            Fault(
                key="data.label",
                problem=f"row {strange + 1} of split '{validation.split}': {said}",
                expected=f"{known}, as in split '{train.split}'",
            )
        )
        return None
    return Classes(train=found[0], validation=found[1], count=count, names=names[:count])


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _names(columns: Sequence[Column], faults: list[Fault]) -> tuple[str, ...]:
    """The training split's words, sorted."""
    for column in columns:
        wrong = (
            row
            for row, value in enumerate(column.values)
            if not ((isinstance(value, str) and value.strip()) or type(value) is int)
        )
        row = next(wrong, None)
        if row is not None:
            problem = f"row {row + 1} of {column.place}: label {column.values[row]!r} is no class"
            expected = "a word for each example, or a whole number from 0 for each"
            faults.append(Fault(key="data.label", problem=problem, expected=expected))
    train = columns[0]
    words = sorted({str(value) for value in train.values})
    if len(words) == len(train.values) > 2:
        problem = f"all {len(words)} rows of {train.place} have labels that differ"
        expected = "a column of classes, of which each occurs more than once"
        faults.append(Fault(key="data.label", problem=problem, expected=expected))
    return tuple(words)


def _count(labels: Sequence[int], train: Column, faults: list[Fault]) -> int:
    """The number of classes; 0 with a fault unless all of 0 ... n - 1 occur."""
    known = sorted(set(labels))
    gap = next((index for index, label in enumerate(known) if label != index), None)
    if gap is None and len(known) >= 2:
        return len(known)
    values = sorted({str(value) for value in train.values}) if gap is None else known
    seen = ", ".join(str(value) for value in values[:6]) + (", ..." if len(values) > 6 else "")
    faults.append(
        Fault(
            key="data.label",
            problem=f"the labels in split '{train.split}' are {seen}",
            expected="at least two classes, numbered 0, 1, 2 ... without gaps",
        )
    )
    return 0


def check_verbalizers(config: DataConfig, count: int, faults: list[Fault]) -> None:
    """Sees that a text-to-text task has a word for each class."""
    if config.task == "text-to-text" and len(config.verbalizers) != count:
        problem = f"{len(config.verbalizers)} words for {count} classes"
        faults.append(Fault(key="data.verbalizers", problem=problem, expected="one word for each class"))
