"""Tables for consoles of any width, of cells made by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peprof.reports.narrow import print_that_fits, that_fit, too_narrow_words

HEADS = ("method", "largest batch", "bound by")
ROWS = (("adapter (checkpointed)", "12", "activations; the model's positions"), ("full", "1048576", "–"))


def printed(
    width: int, *, dropped_first: tuple[str, ...] = (), ascii_only: bool = False
) -> tuple[str, list[str]]:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if ascii_only else "utf-8")
    console = Console(file=file, width=width)
    left_out = print_that_fits(
        console,
        HEADS,
        ROWS,
        numbers=("largest batch",),
        folded=("method", "bound by"),
        dropped_first=dropped_first,
    )
    file.flush()
    said = file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in said.splitlines()), left_out


@pytest.mark.parametrize(
    ("room", "places", "left_out"),
    [
        (34, [0, 1, 2], []),
        (33, [0, 2], ["b"]),
        (22, [0, 2], ["b"]),
        (21, [0], ["b", "c"]),
        (1, [0], ["b", "c"]),
    ],
)
def test_columns_yield_in_their_order_until_the_rest_fits(
    room: int, places: list[int], left_out: list[str]
) -> None:
    """Three of ten characters need 34, with two blanks between them."""
    assert that_fit(("a", "b", "c"), (10, 10, 10), room, ("absent", "b", "c")) == (places, left_out)


def test_what_was_left_out_is_named_with_what_to_do() -> None:
    assert too_narrow_words(["in", "other"]) == "Too narrow for: in, other. Widen the terminal."
    assert too_narrow_words(["in"], ", or use --format csv").endswith("the terminal, or use --format csv.")


def test_a_head_of_words_stands_above_narrow_cells_word_by_word() -> None:
    assert printed(80) == (
        """\
                         largest
 method                    batch  bound by
 ───────────────────────────────────────────────────────────────────
 adapter (checkpointed)       12  activations; the model's positions
 full                    1048576  –""",
        [],
    )


def test_words_go_below_each_other_before_a_column_yields_and_have_its_room_then() -> None:
    text = """\
                 largest
 method            batch  bound by
 ───────────────────────────────────────
 adapter              12  activations;
 (checkpointed)           the model's
                          positions
 full            1048576  –"""
    assert printed(40, dropped_first=("bound by",)) == (text, [])
    without = """\
                         largest
 method                    batch
 ───────────────────────────────
 adapter (checkpointed)       12
 full                    1048576"""
    assert printed(39, dropped_first=("bound by",)) == (without, ["bound by"])


def test_a_console_of_plain_letters_has_plain_ones_of_the_same_width() -> None:
    text, _ = printed(80, ascii_only=True)
    assert text.splitlines()[-1].split() == ["full", "1048576", "-"] and text.isascii()
