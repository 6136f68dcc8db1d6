"""Work and use of a model, as a terminal shows them."""

from __future__ import annotations

import io

from rich.console import Console

from peprof.reports.formats import human_large
from peprof.reports.work_table import print_inference, print_work
from peprof.results.work_figures import inference_figures, work_figures
from tests.results.test_work_figures import USED, WORK, short


def printed(show: object, figures: object, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(Console(file=file, width=90), figures)  # type: ignore[operator]
    file.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in file.read().splitlines())


def test_work_by_phase_with_its_peak_and_what_is_not_counted() -> None:
    text = printed(print_work, work_figures(short(work=WORK)))
    assert (
        text
        == """
 What a training step has to do
 phase      operations   bytes     time  per s  of peak
 ──────────────────────────────────────────────────────
 forward        10.0 G   400 B  50.0 ms  200 G   20.0 %
 backward       30.0 G   500 B   100 ms  300 G   30.0 %
 optimizer           0   100 B  25.0 ms      –        –
 step           40.0 G  1000 B   200 ms  200 G   20.0 %
 Peak: 1 TFLOP/s: of a test.
 Not counted, as no formula is known: aten._linalg_svd.
"""
    )


def test_without_a_peak_there_is_no_column_for_its_share() -> None:
    work = WORK.model_copy(update={"peak_flops_per_s": None, "peak_words": "none is known", "uncounted": ()})
    text = printed(print_work, work_figures(short(work=work)), "ascii")
    assert "of peak" not in text and text.endswith(" Peak: none is known.\n") and text.isascii()


def test_use_beside_the_plain_backbone() -> None:
    text = printed(print_inference, inference_figures(USED))
    assert (
        text
        == """
 What using the model costs
 model    forward  of plain      peak  first token  per token  of plain
 ──────────────────────────────────────────────────────────────────────
 plain    10.0 ms         –  1.37 KiB      80.0 ms    4.00 ms         –
 adapted  20.0 ms     2.00x  1.46 KiB       100 ms    5.00 ms     1.25x
 merged   11.0 ms     1.10x  1.37 KiB      80.0 ms    4.00 ms     1.00x
 It generates without a cache of keys and values.
"""
    )


def test_large_numbers_have_three_digits_and_a_prefix() -> None:
    values = (0, 999, 1000, 999_700_000, 1.2e9, 5e14, 2.5e15, 3e18)
    found = [human_large(value) for value in values]
    assert found == ["0", "999", "1.00 k", "1.00 G", "1.20 G", "500 T", "2.50 P", "3,000 P"]
