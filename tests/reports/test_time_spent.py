"""Where the time went, as a terminal shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peprof.reports.time_spent import print_time_spent
from peprof.results.spent import TimeSpent

SPENT = TimeSpent(
    wall_s=1000.0,
    steps_s=930.0,
    waiting_s=0.5,
    evaluation_s=60.0,
    checkpoint_s=0.0,
    other_s=9.5,
    setup_s=1.5,
)


def printed(spent: TimeSpent, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_time_spent(Console(file=file, width=80), spent)
    file.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in file.read().splitlines())


def test_every_part_has_its_share_and_set_up_stands_apart() -> None:
    assert (
        printed(SPENT)
        == """
 Where the full phase's 16.7 min went
 part                     time   share
 ───────────────────────────────────────────────────────────────────
 training steps       15.5 min  93.0 %  ██████████████████████████
 evaluations          1.00 min   6.0 %  █▋
 checkpoints               0 s   0.0 %
 waiting for batches    500 ms   0.1 %  ▏
 other                  9.50 s   0.9 %  ▎
 Without evaluations, 98.9 % are training steps. Before it, 1.50 s of set-up.
"""
    )


def test_set_up_that_is_not_known_is_not_spoken_of() -> None:
    text = printed(TimeSpent(**{**vars(SPENT), "setup_s": None}), "ascii")
    assert text.isascii()
    assert text.endswith(" Without evaluations, 98.9 % are training steps.\n")


@pytest.mark.parametrize("width", [60, 200])
def test_the_table_keeps_its_form_in_any_width(width: int) -> None:
    file = io.StringIO()
    print_time_spent(Console(file=file, width=width), SPENT)
    assert " training steps       15.5 min  93.0 %  " in file.getvalue()
