"""Values laid over a suite's file: ``--set key=value`` and the ``[offline]`` table.

Both address a value by a dotted key: ``train.batch_size``, ``phases``, ``methods.LABEL.option``,
``matrix.train.batch_size``. What is laid over replaces what stood in its way: ``data.path`` removes
``data.name`` (and the other way round), and a key that is set has no matrix of values any more. Of a matrix
of data tables those stay that have the value, ``data.subset=rte``; if none has, all stay, without the key.
Another ``data.name`` is another collection: the tables say nothing of it.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peprof.errors import Fault, UsageError
from peprof.suite.catalogue import method_prefix
from peprof.suite.describing import nearest, one_of
from peprof.suite.schema import (
    DataConfig,
    LimitsConfig,
    ModelConfig,
    Part,
    ShortConfig,
    SuiteHead,
    TrainConfig,
    method_address,
)

SECTIONS: dict[str, type[Part]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "short": ShortConfig,
    "limits": LimitsConfig,
}
SECTION_KEYS = tuple(
    f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields
)
# What makes no sense any more once a key is set: another source's name, subset or revision.
_REPLACES = {
    "data.name": ("data.path", "data.subset"),
    "data.path": ("data.name", "data.subset"),
    "model.name": ("model.revision",),
}

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Override:
    """One value to lay over a suite.

    Args:
        key: dotted.
        value: as TOML has it.
        origin: ``--set`` or ``offline``.
    """

    key: str
    value: Any
    origin: str

    def named(self, key: str | None = None) -> str:
        """The key as faults call it."""
        return f"{self.origin} {key or self.key}" if self.origin == "--set" else f"offline.{key or self.key}"


def parse_override(text: str) -> Override:
    """``key=value``, the value as TOML where it is TOML, else the bare string.

    >>> parse_override("train.seeds=[0, 1]").value
    [0, 1]
    >>> parse_override("data.path=../reviews").value
    '../reviews'

    Raises:
        UsageError: there is no ``=`` or no key, or the text is not Unicode.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    hint = "For example: --set train.batch_size=16"
    if not equals or not key:
        raise UsageError(f"--set {text!r}: expected key=value", hint=hint)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"--set {key.encode(errors='replace').decode()}: not valid UTF-8") from error
    return Override(key=key.replace('"', ""), value=_value(value), origin="--set")


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if list(table) == ["value"] else text


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested table as dotted keys: TOML's ``a.b = 1`` and ``"a.b" = 1`` come out alike."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def labels_of(tree: Mapping[str, Any]) -> dict[str, int]:
    """Labels of the method tables that can be told -> their index."""
    tables = tree.get("methods")
    found: dict[str, int] = {}
    for index, table in enumerate(tables if isinstance(tables, list) else ()):
        label = table.get("label", table.get("name")) if isinstance(table, dict) else None
        if isinstance(label, str):
            found.setdefault(label, index)
    return found


def lay_over(tree: Tree, overrides: Sequence[Override]) -> tuple[Tree, list[Fault], dict[str, Override]]:
    """Lays values over a suite's raw tables; later ones win.

    Returns:
        The new tables; faults of keys that address nothing; and the key under which each value is checked
        -> where it came from.
    """
    tree = copy.deepcopy(tree)
    faults: list[Fault] = []
    origins: dict[str, Override] = {}
    given = {(override.origin, override.key) for override in overrides}
    for place, override in enumerate(overrides):
        later = {other.key for other in overrides[place + 1 :] if other.origin != override.origin}
        if override.key == "data.name" and "data.path" in later:
            continue  # or it would take tables away that may be meant for the path
        for replaced in _REPLACES.get(override.key, ()):
            if (override.origin, replaced) not in given:
                _remove(tree, replaced)
        fault = _lay(tree, override, origins)
        if fault:
            faults.append(fault)
    return tree, faults, origins


def _lay(tree: Tree, override: Override, origins: dict[str, Override]) -> Fault | None:
    key = override.key
    section, _, name = key.partition(".")
    if key in SuiteHead.model_fields and (override.origin == "--set" or key == "phases"):
        tree[key] = override.value
        origins[key] = override
    elif section in SECTIONS and name and "." not in name:
        table = tree.setdefault(section, {})
        if isinstance(table, dict):  # else the file's own fault is reported
            table[name] = override.value
            origins[key] = override
        _remove_axis(tree, key)
        if section == "data":
            _narrow_tables(tree, name, override.value)
    elif section == "matrix" and name and override.origin == "--set":
        _remove_axis(tree, name)
        if isinstance(tree.setdefault("matrix", {}), dict):
            tree["matrix"][name] = override.value
            origins[key] = override
    elif section == "methods":
        return _lay_method(tree, override, origins)
    else:
        return _unknown(override)
    return None


def _lay_method(tree: Tree, override: Override, origins: dict[str, Override]) -> Fault | None:
    labels = labels_of(tree)
    address = method_address(override.key, labels)
    if address is None:
        word = override.key.removeprefix("methods.").partition(".")[0]
        return Fault(
            key=override.named(),
            problem="addresses no method",
            expected=f"methods.LABEL.OPTION with LABEL {one_of(labels)}" if labels else None,
            suggestion=nearest(word, labels),
        )
    label, option = address
    if option in ("name", "label"):
        return Fault(key=override.named(), problem=f"a method's {option} can't be set from outside")
    index = labels[label]
    tree["methods"][index][option] = override.value
    origins[f"{method_prefix(index, label)}.{option}"] = override
    _remove_axis(tree, override.key)
    return None


def _unknown(override: Override) -> Fault:
    heads = tuple(SuiteHead.model_fields) if override.origin == "--set" else ("phases",)
    known = (*heads, *SECTION_KEYS)
    last = override.key.rpartition(".")[2]
    same_name = [key for key in SECTION_KEYS if key.endswith(f".{last}")]
    section = override.key.partition(".")[0]
    if section in (*SECTIONS, *heads):
        expected = f"{section}.KEY, or {section}" if section in heads else f"{section}.KEY"
    else:
        extra = "methods.LABEL.OPTION" + (", matrix.KEY" if override.origin == "--set" else "")
        expected = one_of([*heads, *(f"{name}.KEY" for name in SECTIONS), extra])
    return Fault(
        key=override.named(),
        problem="unknown key",
        expected=expected,
        suggestion=same_name[0] if same_name else nearest(override.key, known),
    )


def _remove(tree: Tree, key: str) -> None:
    section, _, name = key.partition(".")
    if isinstance(tree.get(section), dict):
        tree[section].pop(name, None)
    _remove_axis(tree, key)


def _remove_axis(tree: Tree, key: str) -> None:
    matrix = tree.get("matrix")
    if isinstance(matrix, dict):
        tree["matrix"] = {axis: values for axis, values in leaves(matrix) if axis != key}


def _narrow_tables(tree: Tree, name: str, value: Any) -> None:
    """Lays a key of ``[data]`` over a matrix of such tables."""
    matrix = tree.get("matrix")
    tables = matrix.get("data") if isinstance(matrix, dict) else None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return  # none, or not as it should be: that fault is reported
    assert isinstance(matrix, dict)
    same = [table for table in tables if name in table and table[name] == value]
    if same:
        matrix["data"] = same
    elif name == "name":
        del matrix["data"]
    else:
        matrix["data"] = [{key: table[key] for key in table if key != name} for table in tables]
