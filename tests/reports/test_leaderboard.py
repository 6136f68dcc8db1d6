# ruff: noqa: E501 - tables stand here as they are printed
import io
import re

import pytest
from rich.console import Console

from peprof.errors import UsageError
from peprof.reports.columns import COLUMNS, sort_rows
from peprof.reports.leaderboard import print_leaderboards
from peprof.results.comparison import leaderboards
from peprof.results.record import TimedRound
from tests.reports.boards import offline, whole
from tests.results.factory import (
    ENVIRONMENT,
    make_dead_record,
    make_full,
    make_record,
    make_short,
    make_times,
)


def shown(boards, width, **options):
    """What a terminal of this width shows, blanks at the ends of lines left out."""
    file = io.StringIO()
    print_leaderboards(Console(file=file, width=width), boards, **options)
    assert all(len(line) <= width for line in file.getvalue().splitlines())
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def test_a_wide_terminal_shows_all_columns():
    assert (
        shown(whole(), 140)
        == """\
 distilbert/distilbert-base-uncased on stanfordnlp/sst2
 batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · 3 epochs · Xeon 8481C, 2 threads · torch 2.13.0

              trainable    accuracy                                   samples  training
 method     body + head           %      peak memory       step time    per s      time  status
 ─────────────────────────────────────────────────────────────────────────────────────────────────────
 ◆ full    66.4M + 592K   90.7 ±2.1  1.00 GiB  1.00x   210 ms  1.00x     76.2  42.0 min  ok
 ◆ lora     147K + 592K  ≈90.0 ±2.2   700 MiB  0.68x   170 ms  0.81x     94.1  34.0 min  ok
   ia3     27.6K + 592K  ≈89.3 ±2.2   930 MiB  0.91x   165 ms  0.79x     97.0  33.3 min  ok
 ◆ lst     1.80M + 592K   85.0 ±2.5   380 MiB  0.37x   120 ms  0.57x      133  25.0 min  ok
 ◆ head        0 + 592K   80.3 ±2.8   210 MiB  0.21x  60.0 ms  0.29x      267  13.3 min  ok
   bitfit             –           –                –               –        –         –  out of memory

 ◆ Pareto front: no other row has both less memory and better accuracy.
 Accuracy is the mean of 3 seeds. ± is the 95 % Wilson interval at 872 validation rows.
 ≈ within noise of the best accuracy: the intervals overlap.
 Not shown to differ from the next better row either: lst from ia3, head from lst.
 Ratios (x) are to full fine-tuning.
 Step times are medians of 5 measured steps.
 bitfit, seeds 0, 1: out of memory in 'short: warm-up', asked for 2.00 GiB: out of memory → Take a smaller batch: --set train.batch_size=8
"""
    )


def test_a_narrow_terminal_leaves_out_what_matters_least_and_breaks_no_word():
    assert (
        shown(whole(), 80)
        == """\
 distilbert/distilbert-base-uncased on stanfordnlp/sst2
 batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · 3 epochs
 Xeon 8481C, 2 threads · torch 2.13.0

             accuracy                                   training
 method             %      peak memory       step time      time  status
 ──────────────────────────────────────────────────────────────────────────────
 ◆ full     90.7 ±2.1  1.00 GiB  1.00x   210 ms  1.00x  42.0 min  ok
 ◆ lora    ≈90.0 ±2.2   700 MiB  0.68x   170 ms  0.81x  34.0 min  ok
   ia3     ≈89.3 ±2.2   930 MiB  0.91x   165 ms  0.79x  33.3 min  ok
 ◆ lst      85.0 ±2.5   380 MiB  0.37x   120 ms  0.57x  25.0 min  ok
 ◆ head     80.3 ±2.8   210 MiB  0.21x  60.0 ms  0.29x  13.3 min  ok
   bitfit           –                –               –         –  out of memory

 ◆ Pareto front: no other row has both less memory and better accuracy.
 Accuracy is the mean of 3 seeds. ± is the 95 % Wilson interval at 872
 validation rows.
 ≈ within noise of the best accuracy: the intervals overlap.
 Not shown to differ from the next better row either: lst from ia3, head from
 lst.
 Ratios (x) are to full fine-tuning.
 Step times are medians of 5 measured steps.
 Too narrow for: trainable, samples. Widen the terminal, or choose with
 --columns.
 bitfit, seeds 0, 1: out of memory in 'short: warm-up', asked for 2.00 GiB: out
 of memory → Take a smaller batch: --set train.batch_size=8
"""
    )


def test_short_phases_run_offline_say_what_they_are_and_why_there_are_two_tables():
    assert (
        shown(offline(), 110)
        == """\
 Table 1 of 2: distilbert/distilbert-base-uncased on stanfordnlp/sst2
 batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · Xeon 8481C, 2 threads · torch 2.13.0
 OFFLINE: huggingface.co can't be reached. The suite's [offline] settings were used instead.
 Random weights: memory and time are those of the real geometry, accuracy says nothing.

            trainable  accuracy                                 samples  training
 method   body + head         %     peak memory      step time    per s      time  status
 ─────────────────────────────────────────────────────────────────────────────────────────────
 head    66.4M + 592K         –  150 MiB  0.17x  350 ms  0.29x     45.7         –  ok
 lora    66.4M + 592K         –  600 MiB  0.67x  950 ms  0.79x     16.8         –  ok, 9 steps
 full    66.4M + 592K         –  900 MiB  1.00x  1.20 s  1.00x     13.3         –  ok, 7 steps

 Accuracy is unavailable: the short phase doesn't train to the end.
 Synthetic: the data is generated; rankings need not hold on real data.
 Ratios (x) are to full fine-tuning.
 Step times are medians of 7 (full), 9 (lora) and 30 (head) measured steps; max_seconds cut some short.

 Table 2 of 2: distilbert/distilbert-base-uncased on stanfordnlp/sst2
 batch 32 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · Xeon 8481C, 2 threads · torch 2.13.0
 OFFLINE: huggingface.co can't be reached. The suite's [offline] settings were used instead.
 Random weights: memory and time are those of the real geometry, accuracy says nothing.
 Not comparable with table 1: batch size 32 (table 1: 16).

            trainable  accuracy                                  samples  training
 method   body + head         %      peak memory      step time    per s      time  status
 ──────────────────────────────────────────────────────────────────────────────────────────────
 head    66.4M + 592K         –   300 MiB  0.17x  350 ms  0.29x     91.4         –  ok
 lora    66.4M + 592K         –  1.17 GiB  0.67x  950 ms  0.79x     33.7         –  ok, 9 steps
 full    66.4M + 592K         –  1.76 GiB  1.00x  1.20 s  1.00x     26.7         –  ok, 7 steps

 Accuracy is unavailable: the short phase doesn't train to the end.
 Synthetic: the data is generated; rankings need not hold on real data.
 Ratios (x) are to full fine-tuning.
 Step times are medians of 7 (full), 9 (lora) and 30 (head) measured steps; max_seconds cut some short.
"""
    )


def test_chosen_columns_are_all_shown_in_blocks():
    table = shown(whole(), 49, columns=["forward", "tokens", "seeds", "steps"])
    assert (
        table[table.index(" method") : table.index(" Step times")]
        == """\
 method    forward        per s    seeds
 ───────────────────────────────────────
 ◆ full    52.5 ms        1,905  0, 1, 2
 ◆ lora    42.5 ms        2,353  0, 1, 2
   ia3     41.2 ms        2,424  0, 1, 2
 ◆ lst     30.0 ms        3,333  0, 1, 2
 ◆ head    15.0 ms        6,667  0, 1, 2
   bitfit        –            –     0, 1

           measured
 method       steps
 ──────────────────
 ◆ full           5
 ◆ lora           5
   ia3            5
 ◆ lst            5
 ◆ head           5
   bitfit         –

"""
    )


def codes(boards, width=140):
    file = io.StringIO()
    print_leaderboards(
        Console(file=file, width=width, force_terminal=True, color_system="standard", legacy_windows=False),
        boards,
    )
    return file.getvalue()


def test_best_values_are_bold_green_and_failures_red():
    text = codes(whole())
    assert set(re.findall(r"\x1b\[1;32m\s*(.+?)\x1b", text)) == {
        "90.7",
        "210 MiB",
        "60.0 ms",
        "267",
        "13.3 min",
    }
    assert re.search(r"\x1b\[31mout of memory\x1b", text)
    assert "\x1b[36m◆\x1b" in text


def test_the_offline_notice_is_loud():
    assert "\x1b[1;33mOFFLINE: huggingface.co can't be reached." in codes(offline())


def test_an_encoding_without_the_symbols_gets_plain_ones():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        print_leaderboards(Console(file=file, width=140), whole())
        file.flush()
        text = raw.getvalue().decode("ascii")
    assert " * lora     147K + 592K  ~90.0 +-2.2   700 MiB  0.68x   170 ms" in text
    assert "out of memory -> Take a smaller batch" in text


def test_a_long_name_is_folded_where_the_terminal_is_narrow():
    label = "lora@targets=attention.query+attention.value+feedforward.up,rank=64"
    table = shown(leaderboards([make_record(label, short=make_short(), full=make_full())]), 60)
    names = [line.split("  ")[0].strip() for line in table.splitlines()]
    assert label in "".join(names)


def test_rows_of_which_seeds_failed_say_how_many():
    records = [
        make_record("full", short=make_short(), full=make_full()),
        make_record("lora", seed=0, short=make_short(), full=make_full()),
        make_dead_record("lora", seed=1, status="timeout", phase="full: training", message="over 60 s"),
        make_dead_record("lora", seed=2, status="failed", phase="setup", message="disk [red]gone[/red]"),
    ]
    table = shown(leaderboards(records), 100)
    assert re.search(r"lora +.* 1 of 3 ok", table)
    assert " lora, seed 1: timed out in 'full: training', asked for 2.00 GiB: over 60 s\n" in table
    assert " lora, seed 2: failed in 'setup', asked for 2.00 GiB: disk [red]gone[/red]\n" in table


def test_without_full_fine_tuning_there_are_no_ratios():
    table = shown(leaderboards([make_record("lora", short=make_short(), full=make_full())]), 100)
    assert "No ratios: full fine-tuning was not measured here." in table
    assert "x  " not in table


def test_outliers_slow_first_steps_and_warnings_are_told():
    steps = (300, 100, 101, 99, 100, 102, 98)
    warning = "other processes used the device"
    records = [
        make_record(label, short=make_short(step_ms=steps), full=make_full(), warnings=(warning,))
        for label in ("full", "lora")
    ]
    table = shown(leaderboards(records), 100)
    assert " Outlying steps (modified z-score above 3.5): full 1, lora 1.\n" in table
    assert " The first measured step is slow, warm-up may be too short: full, lora.\n" in table
    assert f" full, lora: {warning}\n" in table


def noisy(slower=1.0, count=30):
    return tuple(slower * (100 + (step * 7) % 5) for step in range(count))


def test_how_far_the_widest_interval_reaches_and_whose_it_is():
    records = [
        make_record("full", short=make_short(step_ms=noisy())),
        make_record("lora", short=make_short(step_ms=(100, 110) * 5)),
    ]
    table = shown(leaderboards(records), 140)
    # Of ten values the second smallest and the second largest: 100 and 110 around 105.
    words = "10 (lora) and 30 (full) measured steps; 95 % intervals reach ±4.8 % (lora)."
    assert f" Step times are medians of {words}\n" in table
    (line,) = [
        line
        for line in shown(leaderboards(records), 140, columns=["step_interval", "step_p90"]).splitlines()
        if "lora" in line and "to" in line and "ms" in line
    ]
    assert line.split() == ["lora", "100", "ms", "to", "110", "ms", "110", "ms"]


def test_rounds_are_told_with_the_steps():
    rounds = tuple(
        TimedRound(steps=10, warmup_steps=5, steady=True, stopped_by="steps", started_at="") for _ in range(3)
    )
    steps = (*(100, 102) * 5, *(103, 105) * 5, *(100, 102) * 5)
    short = make_short(step_ms=steps).model_copy(update={"rounds": rounds})
    table = shown(leaderboards([make_record("lora", short=short)]), 140)
    # The rounds' medians are 101, 104, 101: their standard error is 1, Student's t 4.303, the median 102.
    words = "30 measured steps in 3 rounds, methods in turns; 95 % intervals reach ±4.2 %."
    assert f" Step times are medians of {words}\n" in table


def test_unsteady_cold_and_launch_bound_steps_are_told():
    drifting = make_short(step_ms=[100 + 2 * step for step in range(30)])
    spread = make_short(step_ms=(90, 100, 110) * 10)
    cold = make_short(step_ms=noisy()).model_copy(update={"steady": False})
    calm = make_short(step_ms=noisy()).model_copy(update={"steady": True})
    few = make_times((95, 96))
    times = make_times(noisy()).model_copy(
        update={"clock": "cuda_events", "host": few, "enqueue": make_times((99, 101)), "wall": few}
    )
    bound = make_short(step_ms=noisy()).model_copy(update={"times": times})
    kinds = {"full": calm, "lora": drifting, "ia3": spread, "lst": cold, "head": bound}
    table = shown(leaderboards([make_record(label, short=short) for label, short in kinds.items()]), 200)
    # From 109 in the first third to 149 in the last; quartiles 114.5 and 143.5 around 129.
    words = "ia3 (quartiles 20.0 % apart), lora (+36.7 % from the first third to the last, quartiles 22.5 % apart)"
    assert f" Step times are unsteady: {words}.\n" in table
    assert " Steps didn't take equally long yet when warm-up ended: lst.\n" in table
    assert " Launch-bound: the host takes as long to queue a step as the device to do it: head." in table
    assert "full" not in table[table.index("unsteady") :]


def test_a_trained_suite_without_any_accuracy_says_why():
    table = shown(leaderboards([make_record("full", status="diverged", short=make_short())]), 100)
    assert " Accuracy is unavailable: no training was finished.\n" in table


def test_values_that_were_not_measured_are_no_zeros():
    table = shown(leaderboards([make_dead_record("lora", requested_bytes=None)]), 140)
    (row,) = [line for line in table.splitlines() if line.startswith(" lora ")]
    assert row.split("  ")[0].strip() == "lora"
    assert row.split()[1:7] == ["–"] * 6
    assert "0" not in row


def test_the_threads_of_a_gpu_are_not_shown():
    gpu = ENVIRONMENT.model_copy(update={"device": "cuda", "device_name": "NVIDIA H100"})
    table = shown(
        leaderboards([make_record("full", device="cuda", environment=gpu, short=make_short())]), 140
    )
    assert "· NVIDIA H100 · torch 2.13.0" in table


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("memory", ["head", "lst", "lora", "ia3", "full", "bitfit"]),
        ("-memory", ["full", "ia3", "lora", "lst", "head", "bitfit"]),
        ("step", ["head", "lst", "ia3", "lora", "full", "bitfit"]),
        ("-samples", ["head", "lst", "ia3", "lora", "full", "bitfit"]),
        ("trainable", ["head", "ia3", "lora", "lst", "full", "bitfit"]),
        ("accuracy", ["head", "lst", "ia3", "lora", "full", "bitfit"]),
        ("method", ["full", "head", "ia3", "lora", "lst", "bitfit"]),
        ("TRAIN-TIME", ["head", "lst", "ia3", "lora", "full", "bitfit"]),
    ],
)
def test_sorting(key, order):
    (board,) = whole()
    assert [row.name for row in sort_rows(board, key).rows] == order


@pytest.mark.parametrize("key", COLUMNS)
def test_every_column_sorts_shows_and_exports(key):
    (board,) = whole()
    assert {row.name for row in sort_rows(board, key).rows} == {row.name for row in board.rows}
    for row in board.rows:
        assert COLUMNS[key].cell(row, board).text
        assert COLUMNS[key].raw(row)


def test_an_unknown_column_is_refused_with_a_guess():
    (board,) = whole()
    for call in (
        lambda: sort_rows(board, "-memori"),
        lambda: print_leaderboards(Console(file=io.StringIO()), [board], columns=["memori"]),
    ):
        with pytest.raises(UsageError, match=r"no column 'memori'. Did you mean 'memory'\?") as caught:
            call()
        assert caught.value.hint.startswith("Columns: method, trainable, accuracy, metric")
