"""A suite's file -> a checked suite, with what the command line lays over it.

Example:
    >>> loaded = load_suite("quickstart", overrides=["train.seeds=[0, 1]"], only=["lora"])  # doctest: +SKIP
    >>> loaded.suite.train.seeds  # doctest: +SKIP
    (0, 1)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from peprof.errors import Fault, SuiteError, UsageError
from peprof.suite.catalogue import KnownMethods, known_methods
from peprof.suite.checking import Checker, concerns, renamed
from peprof.suite.describing import nearest, one_of, show
from peprof.suite.metrics import METRICS
from peprof.suite.overriding import Override, Tree, lay_over, leaves, parse_override
from peprof.suite.planning import deciding_metrics, expanded_methods
from peprof.suite.schema import Phase, Suite, frozen_value, method_address

_DEEPEST = 16  # tables within tables; more is a mistake, and would exhaust the stack


@dataclass(frozen=True, kw_only=True)
class LoadedSuite:
    """A suite as it is to be run.

    Args:
        source: the file it was read from.
        text: the file's text, to be stored beside the results.
        suite: checked, with ``--set`` laid over it.
        offline: the same with the ``[offline]`` table laid over it, below ``--set``; ``None`` when the file
            has no such table, or when the phases asked for are not among its phases.
        set_keys: what ``--set`` laid over, as dotted keys.
    """

    source: str
    text: str
    suite: Suite
    offline: Suite | None
    set_keys: tuple[str, ...] = ()


def load_suite(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    phases: Sequence[str] = (),
    only_option: str = "--only",
) -> LoadedSuite:
    """Reads and checks a suite.

    Args:
        source: a TOML file, or the name of a suite that comes with peprof.
        overrides: ``key=value`` each, as after ``--set``; they win over the file and its ``[offline]`` table.
        only: labels or names of the methods to keep; empty keeps all.
        phases: phases to keep; empty keeps all.
        only_option: what the command calls ``only``, for messages.

    Raises:
        UsageError: there is no such file, or an argument addresses nothing.
        SuiteError: the suite has faults; all of them are in it.
    """
    path = _find_file(source)
    text, tree = _read(path)
    sets = [parse_override(item) for item in overrides]
    suite, offline = _check(str(path), tree, sets, roots=(Path.cwd(), path.resolve().parent))
    return LoadedSuite(
        source=str(path),
        text=text,
        suite=_restricted(suite, only, phases, only_option),
        offline=_restricted_offline(offline, only, phases),
        set_keys=tuple(dict.fromkeys(item.key for item in sets)),
    )


def suite_of_tables(tables: Tree, *, name: str, overrides: Sequence[str] = ()) -> LoadedSuite:
    """A suite that lies in no file.

    Args:
        tables: as TOML would give them.
        name: what stands for the file in messages.
        overrides: ``key=value`` each, as after ``--set``.

    Raises:
        UsageError: an override can't be read.
        SuiteError: the suite has faults; all of them are in it.
    """
    sets = [parse_override(item) for item in overrides]
    suite, _ = _check(name, tables, sets, roots=(Path.cwd(),))
    return LoadedSuite(source=name, text="", suite=suite, offline=None)


def shipped_suites() -> dict[str, Path]:
    """The suites that come with peprof, by name: from the wheel, or from the checkout."""
    package = Path(__file__).parents[1]
    folders = [package / "shipped_suites"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "suites")
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.toml"))}


def _find_file(source: str | Path) -> Path:
    path, shipped = Path(source), shipped_suites()
    try:
        if path.is_file():
            return path
        name = re.sub(r"\.toml$", "", re.sub(r"^(\./)?suites/", "", str(source)))
        if name in shipped:
            return shipped[name]
        if path.is_dir():
            raise UsageError(f"{source} is a directory, not a suite's file", hint=_suites_in(path))
        if path.exists():
            raise UsageError(f"{source} is not a regular file")
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(source)[:200]!r} can't be looked at: {error}") from error
    near = nearest(name, shipped)
    meant = f" Did you mean '{near}'?" if near else ""
    raise UsageError(
        f"there is no suite '{source}': no such file, and no suite of that name comes with peprof.{meant}",
        hint=f"Suites that come with peprof: {', '.join(sorted(shipped)) or 'none'}.",
    )


def _suites_in(directory: Path) -> str:
    files = sorted(str(path) for path in directory.glob("*.toml"))[:5]
    return f"Name a file, for example: {', '.join(files)}." if files else "Name a .toml file."


def _read(path: Path) -> tuple[str, Tree]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 text: byte 0x{content[error.start]:02x}"
        raise SuiteError(str(path), [Fault(key=f"line {line}", problem=problem)]) from error
    if not text.strip():
        hint = f"Start from one that comes with peprof: {', '.join(sorted(shipped_suites()))}."
        fault = Fault(key="file", problem="is empty", expected="a suite in TOML")
        raise SuiteError(str(path), [fault], hint=hint)
    return text, _parse(path, text)


def _parse(path: Path, text: str) -> Tree:
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        fault = Fault(key="file", problem="lists or tables are nested too deeply")
        raise SuiteError(str(path), [fault]) from error
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise SuiteError(str(path), [_toml_fault(text, str(error))]) from error
    if _deeper_than(tree, _DEEPEST):
        raise SuiteError(str(path), [Fault(key="file", problem="lists or tables are nested too deeply")])
    return tree


def _toml_fault(text: str, message: str) -> Fault:
    """Where TOML could not be read, with the line as it stands in the file."""
    lines = text.splitlines()
    place = re.search(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        return Fault(key="file", problem=f"is not TOML: {message}")
    line = int(place[1]) if place[1] else len(lines)
    column = int(place[2]) if place[2] else len(lines[-1]) + 1
    shown = lines[line - 1].strip() if line <= len(lines) else ""
    problem = f"is not TOML: {message[: place.start()]}"
    return Fault(key=f"line {line}, column {column}", problem=f"{problem}, in `{shown[:80]}`")


def _deeper_than(tree: Tree, limit: int) -> bool:
    level: list[Any] = [tree]
    for _ in range(limit):
        level = [child for item in level for child in _children(item)]
    return bool(level)


def _children(item: object) -> Iterator[Any]:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return (value for value in values if isinstance(value, dict | list))


def _check(
    source: str, tree: Tree, sets: Sequence[Override], *, roots: Sequence[Path]
) -> tuple[Suite, Suite | None]:
    methods = known_methods()
    overlay = tree.get("offline")
    suite, faults = _laid_and_checked(tree, sets, methods, roots)
    offline = None
    if overlay is not None and not isinstance(overlay, dict):
        faults.append(Fault(key="offline", problem=f"found {show(overlay)}", expected="a table [offline]"))
    elif overlay:
        layers = [Override(key=key, value=value, origin="offline") for key, value in leaves(overlay)]
        offline, more = _laid_and_checked(tree, [*layers, *sets], methods, roots)
        known = set(faults)
        faults += [
            fault if fault.key.startswith("offline.") else replace(fault, key=f"offline.{fault.key}")
            for fault in more
            if fault not in known
        ]
    if faults or suite is None:
        raise SuiteError(source, faults)
    if overlay:
        suite = suite.model_copy(update={"offline": frozen_value(overlay)})
    return suite, offline


def _laid_and_checked(
    tree: Tree, layers: Sequence[Override], methods: KnownMethods, roots: Sequence[Path]
) -> tuple[Suite | None, list[Fault]]:
    laid, faults, origins = lay_over(tree, layers)
    checker = Checker(methods=methods, roots=roots)
    suite = checker.check(laid)
    found = checker.faults if suite is None else [*checker.faults, *_target_faults(suite)]
    faults += [_named_by_origin(fault, origins) for fault in found]
    if suite is not None:
        faults += _label_clashes(suite)
    return suite, faults


def _target_faults(suite: Suite) -> list[Fault]:
    """A target that no training could ever reach, as 88 for an accuracy of 0.88."""
    target = suite.train.target
    if target is None:
        return []
    for metric in deciding_metrics(suite):
        impossible = METRICS[metric].impossible(target)
        if impossible is not None:
            why, expected = impossible
            return [Fault(key="train.target", problem=f"found {target:g}; {why}", expected=expected)]
    return []


def _named_by_origin(fault: Fault, origins: Mapping[str, Override]) -> Fault:
    """A fault of a value that was laid over the file names where it came from."""
    for key, override in origins.items():
        if concerns(fault, key):
            named = renamed(fault, key, override.named())
            section = override.key.rpartition(".")[0]
            unknown = fault.key == key and named.problem.startswith("unknown key")
            if unknown and named.suggestion and "." not in named.suggestion:
                named = replace(named, suggestion=f"{section}.{named.suggestion}")
            return named
    return fault


def _label_clashes(suite: Suite) -> list[Fault]:
    """Labels that the matrix makes may meet labels that are given."""
    seen: set[str] = set()
    faults = []
    for method in expanded_methods(suite):
        if method.label in seen:
            problem = f"the matrix makes a second method with the label '{method.label}'"
            faults.append(Fault(key="methods", problem=problem, expected="labels that differ"))
        seen.add(method.label)
    return faults


def _restricted(
    suite: Suite, only: Sequence[str], phases: Sequence[str], only_option: str = "--only"
) -> Suite:
    for word in only:
        if not any(word in (method.label, method.name) for method in suite.methods):
            labels = [method.label for method in suite.methods]
            near = nearest(word, labels)
            raise UsageError(
                f"{only_option} {word}: the suite has no such method."
                + (f" Did you mean '{near}'?" if near else ""),
                hint=f"Its methods: {', '.join(labels)}.",
            )
    known = get_args(Phase)
    for phase in phases:
        if phase not in known:
            near = nearest(phase, known)
            raise UsageError(
                f"--phase {phase}: there is no such phase; expected {one_of(known)}."
                + (f" Did you mean '{near}'?" if near else "")
            )
    kept_phases = tuple(phase for phase in suite.phases if phase in phases or not phases)
    if not kept_phases:
        asked, has = " --phase ".join(phases), ", ".join(suite.phases)
        raise UsageError(
            f"--phase {asked}: the suite has no such phase; it has {has}",
            hint='Add it to phases = ["short", "full"] in the suite, or --set \'phases=["short", "full"]\'.',
        )
    methods = tuple(
        method for method in suite.methods if not only or method.label in only or method.name in only
    )
    all_labels = [method.label for method in suite.methods]
    kept = {method.label for method in methods}
    matrix = {
        key: values
        for key, values in suite.matrix.items()
        if (address := method_address(key, all_labels)) is None or address[0] in kept
    }
    return suite.model_copy(update={"methods": methods, "phases": kept_phases, "matrix": matrix})


def _restricted_offline(suite: Suite | None, only: Sequence[str], phases: Sequence[str]) -> Suite | None:
    if suite is None or (phases and not set(phases) & set(suite.phases)):
        return None
    return _restricted(suite, only, phases)
