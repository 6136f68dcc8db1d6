"""What a table is made of: columns, and the cells that they give each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peprof.reports.formats import MISSING
from peprof.results.comparison import Leaderboard
from peprof.results.rows import Row

#: Marks the rows on the Pareto front, and values that weren't shown to differ from the best.
FRONT_MARK, NOISE_MARK = "◆", "≈"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of a table.

    Args:
        parts: what stands side by side; each part is aligned with those above and below it.
        best: the best value of the table.
        tone: ``bad`` and ``doubtful`` are for the status.
    """

    parts: tuple[str, ...]
    best: bool = False
    tone: str = "plain"

    @property
    def text(self) -> str:
        """The parts in one line."""
        return " ".join(part.strip() for part in self.parts if part)


#: Nothing was measured.
NOTHING = Cell(parts=(MISSING,), tone="missing")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Args:
        key: its name for ``--columns`` and ``--sort``.
        header: one or two lines.
        importance: the least important go first where a table is too wide; ``None`` is shown on demand only.
        cell: what people see.
        raw: what machines get: field names with units -> plain values.
        order: what rows are sorted by; ``None`` goes last.
        numeric: aligned to the right.
        wanted: whether a table shows it without being asked; all do unless given.
        header_of: what stands in place of the header in a table; the same in all unless given.
    """

    key: str
    header: tuple[str, ...]
    importance: int | None
    cell: Callable[[Row, Leaderboard], Cell]
    raw: Callable[[Row], dict[str, object]]
    order: Callable[[Row], float | str | None]
    numeric: bool = True
    wanted: Callable[[Leaderboard], bool] | None = None
    header_of: Callable[[Leaderboard], tuple[str, ...]] | None = None

    def heading(self, board: Leaderboard) -> tuple[str, ...]:
        """The header in this table."""
        return self.header_of(board) if self.header_of else self.header
