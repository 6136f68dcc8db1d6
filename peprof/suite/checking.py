"""A suite's raw tables -> a ``Suite``, or all their faults at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from peprof.errors import Fault
from peprof.suite.catalogue import RESERVED, KnownMethods, method_prefix
from peprof.suite.describing import dotted, faults_of, nearest, one_of, show
from peprof.suite.local_paths import data_directory, model_directory
from peprof.suite.overriding import (
    SECTION_KEYS,
    SECTIONS,
    Tree,
    labels_of,
    leaves,
)
from peprof.suite.planning import NOT_DECIDING
from peprof.suite.schema import (
    METHOD_FIELDS,
    TEXT_TO_TEXT_KEYS,
    MethodConfig,
    Part,
    PublishedConfig,
    Suite,
    SuiteHead,
    method_address,
)

_Part = TypeVar("_Part", bound=Part)
_MATRIX_SECTIONS = ("model", "data", "train", "short")
_TABLES = (*SECTIONS, "methods", "matrix", "offline")
_REQUIRED = {"model": "a table [model] with the backbone's name", "data": "a table [data] with name or path"}
# The least that makes a section whole, so that a single value of it can be checked alone.
_LEAST = {"model": {"name": "peprof/tiny"}, "data": {"name": "peprof/reviews"}}


@dataclass(kw_only=True)
class Checker:
    """Checks one suite's raw tables, collecting faults.

    Args:
        methods: the installed methods.
        roots: where relative paths begin, in order.
    """

    methods: KnownMethods
    roots: Sequence[Path]
    faults: list[Fault] = field(default_factory=list)

    def check(self, tree: Tree) -> Suite | None:
        """The suite without its overlay; ``None`` where there are faults (see ``faults``)."""
        head = self._head(tree)
        tables = self._data_tables(tree)
        sections = {name: self._section(name, tree) for name in SECTIONS if name != "data" or not tables}
        methods = self._methods(tree.get("methods"))
        published = self._published(tree.get("methods"))
        matrix = self._matrix(tree)
        sections.update({"data": matrix["data"][0]} if matrix.get("data") else {})
        if self.faults or head is None:
            return None
        parts = {name: part for name, part in sections.items() if part is not None}
        others = {"methods": tuple(methods), "matrix": matrix, "published": published}
        return Suite.model_validate({**dict(head), **parts, **others})

    def _head(self, tree: Tree) -> SuiteHead | None:
        elsewhere = {key.partition(".")[2]: key for key in SECTION_KEYS}
        for key, found in tree.items():
            if key not in _TABLES and key not in SuiteHead.model_fields:
                known = (*SuiteHead.model_fields, *_TABLES)
                kind = "table" if isinstance(found, dict) else "key"
                self.faults.append(
                    Fault(
                        key=dotted("", key),
                        problem=f"unknown {kind}",
                        expected=one_of(known),
                        suggestion=elsewhere.get(key) or nearest(key, known),
                    )
                )
        return self._part(SuiteHead, {key: tree[key] for key in SuiteHead.model_fields if key in tree}, "")

    def _section(self, name: str, tree: Tree) -> Part | None:
        table = tree.get(name)
        if table is None:
            if name in _REQUIRED:
                self.faults.append(Fault(key=name, problem="is missing", expected=_REQUIRED[name]))
            return None
        if not isinstance(table, dict):
            self.faults.append(Fault(key=name, problem=f"found {show(table)}", expected=f"a table [{name}]"))
            return None
        table = self._with_absolute_paths(name, table)
        return self._part(SECTIONS[name], table, name, elsewhere=_keys_of_other_sections(name))

    def _part(
        self, model: type[_Part], table: Mapping[str, Any], prefix: str, **words: Mapping[str, str]
    ) -> _Part | None:
        try:
            # Through JSON, where an array may become a tuple even under strict rules.
            return model.model_validate_json(json.dumps(dict(table), default=str))
        except ValidationError as error:
            self.faults += faults_of(error, model, table, prefix=prefix, **words)
            return None

    def _with_absolute_paths(self, section: str, table: Mapping[str, Any]) -> dict[str, Any]:
        table = dict(table)
        if section == "model" and isinstance(table.get("name"), str):
            table["name"], faults = model_directory(table["name"], roots=self.roots, key="model.name")
            self.faults += faults
        if section == "data" and isinstance(table.get("path"), str):
            splits = [table.get("train_split", "train"), table.get("validation_split", "validation")]
            names = [split for split in splits if isinstance(split, str)]
            if isinstance(table.get("subset"), str):
                table["path"] = str(Path(table["path"]) / table.pop("subset"))
            table["path"], faults = data_directory(
                table["path"], splits=names, roots=self.roots, key="data.path"
            )
            self.faults += faults
        return table

    def _methods(self, tables: object) -> list[MethodConfig]:
        expected = "at least one [[methods]] table with a name"
        if tables is None or tables == []:
            self.faults.append(
                Fault(
                    key="methods", problem="is missing" if tables is None else "is empty", expected=expected
                )
            )
            return []
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            brackets = " (with double brackets)" if isinstance(tables, dict) else ""
            self.faults.append(
                Fault(
                    key="methods", problem=f"found {show(tables)}", expected=f"[[methods]] tables{brackets}"
                )
            )
            return []
        configs = [self._method(index, table) for index, table in enumerate(tables)]
        first: dict[str, int] = {}
        for index, table in enumerate(tables):
            label = table.get("label", table.get("name"))
            if isinstance(label, str) and first.setdefault(label, index) != index:
                self.faults.append(
                    Fault(
                        key=method_prefix(index, label),
                        problem=f"a second method with the label '{label}', after methods[{first[label]}]",
                        expected=f'labels that differ: give one a label, like label = "{label}-2"',
                    )
                )
        return [config for config in configs if config is not None]

    def _method(self, index: int, table: Mapping[str, Any]) -> MethodConfig | None:
        prefix = method_prefix(index, table.get("label", table.get("name")))
        own = {key: value for key, value in table.items() if key in RESERVED and key != "published"}
        options = {key: value for key, value in table.items() if key not in RESERVED}
        name = own.get("name")
        if "name" in own and "label" not in own:
            # A label is part of file names.
            known = isinstance(name, str) and name in self.methods
            own["label"] = str(name).replace(":", "-") if known else "unnamed"
        elif "name" not in own:
            own.setdefault("label", "unnamed")
        entry = self.methods.get(name) if isinstance(name, str) else None
        if entry is not None:
            options, faults = entry.check(options, prefix=prefix)
            self.faults += faults
        elif isinstance(name, str):
            variant, names = self.methods.variant_called(name), self.methods.names_beside(name)
            self.faults.append(
                Fault(
                    key=f"{prefix}.name",
                    problem=f"there is no method '{name}'" + (f": {variant}" if variant else ""),
                    expected=one_of([variant.method] if variant else names),
                    suggestion=None if variant else nearest(name, names),
                )
            )
        return self._part(
            MethodConfig, {**own, "options": options}, prefix, texts={"name": one_of(self.methods)}
        )

    def _published(self, tables: object) -> dict[str, PublishedConfig]:
        """By label, what method tables say was found elsewhere; tables that are none are told of before."""
        found = {}
        for index, table in enumerate(tables if isinstance(tables, list) else ()):
            if not isinstance(table, dict) or "published" not in table:
                continue
            label = table.get("label", table.get("name"))
            key, said = f"{method_prefix(index, label)}.published", table["published"]
            if not isinstance(said, dict):
                expected = 'a table like {source = "arXiv:...", peak_gb = 17.6}'
                self.faults.append(Fault(key=key, problem=f"found {show(said)}", expected=expected))
                continue
            part = self._part(PublishedConfig, said, key)
            if part is not None:
                found[str(label).replace(":", "-")] = part
        return found

    def _matrix(self, tree: Tree) -> dict[str, tuple[Any, ...]]:
        table = tree.get("matrix", {})
        if not isinstance(table, dict):
            self.faults.append(
                Fault(key="matrix", problem=f"found {show(table)}", expected="a table [matrix]")
            )
            return {}
        axes = {}
        for key, values in leaves(table):
            right = isinstance(values, list) and values
            before = len(self.faults)
            if key == "data":
                axes[key] = self._data_axis(tree) if right else ()
            elif key.startswith("methods."):
                axes[key] = self._method_axis(key, values if right else [], tree)
            else:
                axes[key] = self._section_axis(key, values if right else [], tree)
            if not right and len(self.faults) == before:
                self.faults.append(
                    Fault(
                        key=f"matrix.{key}",
                        problem=f"found {show(values)}",
                        expected=f"a list of one or more {'tables' if key == 'data' else 'values'}",
                    )
                )
        if {"data.name", "data.path"} <= axes.keys():
            self.faults.append(
                Fault(
                    key="matrix.data.path",
                    problem="stands beside matrix.data.name",
                    expected="one of the two",
                )
            )
        return axes

    def _data_tables(self, tree: Tree) -> list[Any]:
        """What a matrix lays over ``[data]``; nothing where the two aren't tables."""
        matrix = tree.get("matrix")
        tables = matrix.get("data") if isinstance(matrix, dict) else None
        return tables if isinstance(tables, list) and isinstance(tree.get("data"), dict) else []

    def _data_axis(self, tree: Tree) -> tuple[Any, ...]:
        """Whole data sets, each said as what differs from ``[data]``: its columns, its task, its metrics."""
        found = []
        for index, table in enumerate(self._data_tables(tree)):
            place = f"matrix.data[{index}]"
            if not isinstance(table, dict):
                problem, expected = f"found {show(table)}", 'a table like {subset = "rte"}'
                self.faults.append(Fault(key=place, problem=problem, expected=expected))
                continue
            whole = {**tree["data"], **table}
            if ("name" in table) != ("path" in table):  # the one replaces the other
                whole.pop("path" if "name" in table else "name", None)
            checker = Checker(methods=self.methods, roots=self.roots)
            part = checker._section("data", {"data": whole})
            for fault in checker.faults:
                own = any(concerns(fault, f"data.{key}") for key in table)
                moved = renamed(fault, "data", place) if own else fault
                self.faults += [moved] if moved not in self.faults else []
            found.append(part)
        return tuple(found)

    def _section_axis(self, key: str, values: Sequence[Any], tree: Tree) -> tuple[Any, ...]:
        section, _, name = key.partition(".")
        allowed = [item for item in SECTION_KEYS if item.partition(".")[0] in _MATRIX_SECTIONS]
        for other in NOT_DECIDING:  # they make no other run
            allowed.remove(f"train.{other}")
        allowed.remove("data.task")  # another task is another suite: its texts, words and scores differ
        if key not in allowed:
            known_section = section in _MATRIX_SECTIONS and name
            words = [item for item in allowed if item.startswith(f"{section}.")] if known_section else []
            general = one_of([*(f"{item}.KEY" for item in _MATRIX_SECTIONS), "methods.LABEL.OPTION"])
            seeds = "all seeds in train.seeds itself" if key == "train.seeds" else None
            same_name = next((item for item in allowed if item.endswith(f".{name or key}")), None)
            self.faults.append(
                Fault(
                    key=f"matrix.{key}",
                    problem="can't be varied here" if seeds or key in SECTION_KEYS else "unknown key",
                    expected=seeds or (one_of(words) if words else general),
                    suggestion=None if seeds else same_name or nearest(key, allowed),
                )
            )
            return ()
        found = []
        for index, value in enumerate(values):
            table = {**_LEAST.get(section, {}), name: value}
            data = tree.get("data")
            said = data if section == "data" and isinstance(data, dict) else {}
            if key == "data.path":
                table = {"path": value, **{item: said[item] for item in said if item.endswith("_split")}}
            elif name in (*TEXT_TO_TEXT_KEYS, "metrics"):  # what they may be depends on the task
                task = {item: said[item] for item in ("task", *TEXT_TO_TEXT_KEYS) if item in said}
                table = {**table, **task, name: value}
            checker = Checker(methods=self.methods, roots=self.roots)
            part = checker._section(section, {section: table})
            self._adopt(checker.faults, key, f"matrix.{key}[{index}]")
            found.append(getattr(part, name) if part is not None else None)
        return tuple(found)

    def _method_axis(self, key: str, values: Sequence[Any], tree: Tree) -> tuple[Any, ...]:
        labels = labels_of(tree)
        address = method_address(key, labels)
        if address is None or address[1] in ("name", "label", "published"):
            word = key.removeprefix("methods.").partition(".")[0]
            self.faults.append(
                Fault(
                    key=f"matrix.{key}",
                    problem="addresses no method" if address is None else "can't be varied",
                    expected="methods.LABEL.OPTION" + (f" with LABEL {one_of(labels)}" if labels else ""),
                    suggestion=nearest(word, labels) if address is None else None,
                )
            )
            return ()
        label, option = address
        table = tree["methods"][labels[label]]
        found = []
        for index, value in enumerate(values):
            checker = Checker(methods=self.methods, roots=self.roots)
            config = checker._method(labels[label], {**table, option: value})
            prefix = f"{method_prefix(labels[label], table.get('label', table.get('name')))}.{option}"
            self._adopt(checker.faults, prefix, f"matrix.{key}[{index}]")
            if config is not None:
                found.append(
                    getattr(config, option) if option in METHOD_FIELDS else config.options.get(option)
                )
        return tuple(found)

    def _adopt(self, faults: Sequence[Fault], key: str, new_key: str) -> None:
        """Takes over the faults of one value, under the key where it stands in the matrix."""
        self.faults += [renamed(fault, key, new_key) for fault in faults if concerns(fault, key)]


def _keys_of_other_sections(section: str) -> dict[str, str]:
    return {key.partition(".")[2]: key for key in SECTION_KEYS if not key.startswith(f"{section}.")}


def concerns(fault: Fault, key: str) -> bool:
    """Whether a fault is about a key or something within its value."""
    return fault.key == key or fault.key.startswith((f"{key}[", f"{key}."))


def renamed(fault: Fault, key: str, new_key: str) -> Fault:
    """The fault with the beginning of its key replaced."""
    return Fault(
        key=new_key + fault.key.removeprefix(key),
        problem=fault.problem,
        expected=fault.expected,
        suggestion=fault.suggestion,
    )
