"""Flat rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The keys of the first row as heads, then a line a row; lines end with a newline alone.

    Args:
        rows: of the same keys.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
