"""Collected runs into a file, whose ending says in which format; as a whole or not at all."""

from __future__ import annotations

import errno
import io
from importlib.util import find_spec
from pathlib import Path

from peprof.errors import StoreError, UsageError
from peprof.reports.collection import CollectedTable, Collection, with_links_from
from peprof.results.atomic import replacing

ENDINGS = (".xlsx", ".csv", ".parquet", ".md", ".json")
FOR_PEOPLE = (".md",)
"""Endings of formats that have few columns unless told otherwise."""

_NEEDS = {".xlsx": ("openpyxl", "peprof[export]"), ".parquet": ("pyarrow", "pyarrow")}
_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, or name a file elsewhere.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or name a file elsewhere.",
    errno.EROFS: "This file system is mounted read-only: name a file elsewhere.",
}
_HINT = "Check who may write there and whether another program has the file open, or name a file elsewhere."


def check_export_file(path: Path) -> None:
    """Says before anything is read what would be wrong with the file in the end.

    Raises:
        UsageError: its ending is unknown, what writes such files isn't installed, its directory doesn't
            exist, or it is a directory itself.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"can't export to '{path}': its ending says nothing of a table",
            hint=f"The ending decides what is written: {', '.join(ENDINGS)}.",
        )
    if path.is_dir():
        raise UsageError(f"can't export to '{path}': it is a directory", hint="Name a file in it.")
    if not path.parent.is_dir():
        raise UsageError(
            f"can't export to '{path}': there is no directory '{path.parent}'",
            hint="Make it, or name a file elsewhere.",
        )
    module, package = _NEEDS.get(ending, (None, None))
    if module is not None and find_spec(module) is None:
        raise UsageError(
            f"{ending} files need the library {module}, which isn't installed",
            hint=f"Install it: pip install '{package}'; or export to .csv.",
        )


def write_collection(collection: Collection, path: Path) -> None:
    """Writes collected runs; a file that was there is replaced, or stays as it was when writing fails.

    Args:
        collection: what to write.
        path: ends with one of ``ENDINGS``.

    Raises:
        UsageError: see ``check_export_file``.
        StoreError: the file can't be written.
    """
    check_export_file(path)
    target = path.resolve()  # through a link, rather than in its place
    content = _content(collection, path.suffix.lower(), target.parent)
    try:
        with replacing(target) as file:
            file.write(content)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, _HINT)
        raise StoreError(f"can't write '{path}': {error.strerror or error}", hint=hint) from error


def _content(collection: Collection, ending: str, start: Path) -> bytes:
    if ending == ".xlsx":
        from peprof.reports.collection_sheets import as_spreadsheet

        return as_spreadsheet(collection, start)
    if ending == ".parquet":
        return _as_parquet(collection.table, start)
    from peprof.reports.collection_text import as_csv, as_json, as_markdown

    as_text = {".csv": as_csv, ".json": as_json, ".md": as_markdown}[ending]
    return as_text(collection, start).encode()


def _as_parquet(table: CollectedTable, start: Path) -> bytes:
    """The table with its types; links are seen from a directory."""
    import pandas as pd

    frame = pd.DataFrame(
        with_links_from(table, start), columns=[column.name for column in table.columns], dtype=object
    ).astype({column.name: column.dtype for column in table.columns})
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()
