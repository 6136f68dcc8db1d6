"""Directories that a suite names: found relative to where one is or to the suite's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peprof.errors import Fault
from peprof.suite.describing import nearest

DATA_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
EMBEDDED_PREFIX = "peprof/"


def find_directory(name: str, roots: Sequence[Path]) -> Path | None:
    """The first directory called so under the roots (absolute names stand for themselves)."""
    if "\0" in name:
        return None
    for root in roots:
        path = root / Path(name).expanduser() if name.startswith("~") else root / name
        try:
            if path.is_dir():
                return path.resolve()
        except OSError:  # a name too long, a folder that may not be entered
            continue
    return None


def data_directory(
    value: str, *, splits: Sequence[str], roots: Sequence[Path], key: str
) -> tuple[str, list[Fault]]:
    """Checks ``data.path``: a directory with one file of some rows' size for each split.

    Args:
        value: as the suite has it.
        splits: names of the splits that are needed.
        roots: where relative paths begin, in order.
        key: for the faults.

    Returns:
        The absolute path, so that a run's identity doesn't depend on where the command was typed; and faults.
    """
    suffixes = ", ".join(DATA_SUFFIXES)
    expected = f"a directory with {' and '.join(splits)} as {suffixes}"
    directory = find_directory(value, roots)
    if directory is None:
        looked = " and ".join(str(root) for root in dict.fromkeys(roots))
        kind = "is not a directory" if _is_file(value, roots) else "there is no such directory"
        where = "" if Path(value).is_absolute() else f" (looked in {looked})"
        return value, [Fault(key=key, problem=f"{kind}: {_quoted(value)}{where}", expected=expected)]
    try:
        present = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    except OSError as error:
        problem = f"{directory} can't be read: {error.strerror}"
        return value, [Fault(key=key, problem=problem, expected=expected)]
    faults = []
    for split in dict.fromkeys(splits):
        candidates = [f"{split}{suffix}" for suffix in DATA_SUFFIXES]
        files = [name for name in candidates if name in present]
        if not files:
            stems = {Path(name).stem for name in present if Path(name).suffix in DATA_SUFFIXES}
            faults.append(
                Fault(
                    key=key,
                    problem=f"no file for the split '{split}' in {directory}",
                    expected=f"{split} as {suffixes}",
                    suggestion=nearest(split, stems - set(splits)),
                )
            )
        faults += [
            Fault(key=key, problem=f"{directory / name} is empty (0 bytes)", expected="rows of data")
            for name in files
            if present[name] == 0
        ]
    return str(directory), faults


def model_directory(value: str, *, roots: Sequence[Path], key: str) -> tuple[str, list[Fault]]:
    """Checks ``model.name`` where it names a directory; a hub id is left as it is.

    Returns:
        The absolute path of the directory, or the hub id; and faults.
    """
    if value.startswith(EMBEDDED_PREFIX):
        return value, []
    directory = find_directory(value, roots)
    has_config = directory is not None and (directory / "config.json").is_file()
    if has_config:
        return str(directory), []
    if not value.startswith(("/", "./", "../", "~")):
        return value, []
    expected = "a directory with config.json, a hub id, or peprof/tiny"
    if directory is not None:
        kind = "there is no config.json in"
    elif _is_file(value, roots):
        kind = "this is a file, not a directory:"
    else:
        kind = "there is no such directory:"
    return value, [Fault(key=key, problem=f"{kind} {_quoted(value)}", expected=expected)]


def _is_file(value: str, roots: Sequence[Path]) -> bool:
    try:
        return "\0" not in value and any((root / value).is_file() for root in roots)
    except OSError:
        return False


def _quoted(value: str) -> str:
    text = value.replace("\0", "\\0").replace("\n", "\\n")
    return f'"{text[:197]}..."' if len(text) > 200 else f'"{text}"'
