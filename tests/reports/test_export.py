# ruff: noqa: E501 - tables stand here as they are printed
import csv
import io
import json

from peprof.errors import StoreError
from peprof.reports.export import to_csv, to_json, to_markdown
from peprof.results.comparison import leaderboards
from tests.reports.boards import offline, whole
from tests.results.factory import MIB, make_dead_record, make_full, make_record, make_short


def test_markdown_of_a_whole_table():
    assert (
        to_markdown(whole())
        == """\
### distilbert/distilbert-base-uncased on stanfordnlp/sst2

batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · 3 epochs · Xeon 8481C, 2 threads · torch 2.13.0

| method | trainable body + head | accuracy % | peak memory | step time | samples per s | training time | status |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
| ◆ full | 66.4M + 592K | **90.7** ±2.1 | 1.00 GiB 1.00x | 210 ms 1.00x | 76.2 | 42.0 min | ok |
| ◆ lora | 147K + 592K | ≈90.0 ±2.2 | 700 MiB 0.68x | 170 ms 0.81x | 94.1 | 34.0 min | ok |
| ia3 | 27.6K + 592K | ≈89.3 ±2.2 | 930 MiB 0.91x | 165 ms 0.79x | 97.0 | 33.3 min | ok |
| ◆ lst | 1.80M + 592K | 85.0 ±2.5 | 380 MiB 0.37x | 120 ms 0.57x | 133 | 25.0 min | ok |
| ◆ head | 0 + 592K | 80.3 ±2.8 | **210 MiB** 0.21x | **60.0 ms** 0.29x | **267** | **13.3 min** | ok |
| bitfit | – | – | – | – | – | – | out of memory |

- ◆ Pareto front: no other row has both less memory and better accuracy.
- Accuracy is the mean of 3 seeds. ± is the 95 % Wilson interval at 872 validation rows.
- ≈ within noise of the best accuracy: the intervals overlap.
- Not shown to differ from the next better row either: lst from ia3, head from lst.
- Ratios (x) are to full fine-tuning.
- Step times are medians of 5 measured steps.
- bitfit, seeds 0, 1: out of memory in 'short: warm-up', asked for 2.00 GiB: out of memory → Take a smaller batch: --set train.batch_size=8
"""
    )


def test_markdown_of_two_tables_with_chosen_columns():
    assert (
        to_markdown(offline(), columns=["memory", "status"])
        == """\
### Table 1 of 2: distilbert/distilbert-base-uncased on stanfordnlp/sst2

batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · Xeon 8481C, 2 threads · torch 2.13.0

> **OFFLINE: huggingface.co can't be reached. The suite's [offline] settings were used instead.**

> **Random weights: memory and time are those of the real geometry, accuracy says nothing.**

| method | peak memory | status |
| --- | ---: | --- |
| head | **150 MiB** 0.17x | ok |
| lora | 600 MiB 0.67x | ok, 9 steps |
| full | 900 MiB 1.00x | ok, 7 steps |

- Synthetic: the data is generated; rankings need not hold on real data.
- Ratios (x) are to full fine-tuning.
- Step times are medians of 7 (full), 9 (lora) and 30 (head) measured steps; max_seconds cut some short.

### Table 2 of 2: distilbert/distilbert-base-uncased on stanfordnlp/sst2

batch 32 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · Xeon 8481C, 2 threads · torch 2.13.0

> **OFFLINE: huggingface.co can't be reached. The suite's [offline] settings were used instead.**

> **Random weights: memory and time are those of the real geometry, accuracy says nothing.**

> **Not comparable with table 1: batch size 32 (table 1: 16).**

| method | peak memory | status |
| --- | ---: | --- |
| head | **300 MiB** 0.17x | ok |
| lora | 1.17 GiB 0.67x | ok, 9 steps |
| full | 1.76 GiB 1.00x | ok, 7 steps |

- Synthetic: the data is generated; rankings need not hold on real data.
- Ratios (x) are to full fine-tuning.
- Step times are medians of 7 (full), 9 (lora) and 30 (head) measured steps; max_seconds cut some short.
"""
    )


def test_markdown_escapes_what_would_break_a_table():
    record = make_dead_record("lora", message="a | b\nc *d* `e` <f>", requested_bytes=None)
    text = to_markdown(leaderboards([record]))
    assert "- lora, seed 0: out of memory in 'short: warm-up': a \\| b c \\*d\\* \\`e\\` \\<f>\n" in text


def test_json_has_bytes_seconds_and_null_for_what_was_not_measured():
    records = [
        make_record("full", short=make_short(peak_mib=1024, step_ms=(200,) * 3), full=make_full()),
        make_record(
            "lora", options={"rank": 8}, short=make_short(peak_mib=512, step_ms=(100,) * 3), full=make_full()
        ),
        make_dead_record("ia3", requested_bytes=None, message="out of memory"),
    ]
    content = json.loads(to_json(leaderboards(records), problems=[StoreError("x/record.json: is empty")]))
    assert content["problems"] == ["x/record.json: is empty"]
    (board,) = content["leaderboards"]
    assert board["conditions"]["batch size"] == "16"
    lora, full, ia3 = board["rows"]
    assert (lora["label"], lora["options"], lora["seeds"]) == ("lora", {"rank": 8}, [0])
    assert lora["peak_allocated_bytes"] == 512 * MIB
    assert (lora["memory_ratio"], lora["step_ratio"], lora["step_s"]) == (0.5, 0.5, 0.1)
    assert (lora["accuracy"], full["accuracy"]) == (790 / 872, 790 / 872)
    assert (lora["on_pareto_front"], full["on_pareto_front"]) == (True, False)
    assert (ia3["accuracy"], ia3["peak_allocated_bytes"], ia3["step_s"]) == (None, None, None)
    assert (ia3["status"], ia3["failures"]) == (
        "oom",
        ["seed 0: out of memory in 'short: warm-up': out of memory"],
    )


def test_chosen_columns_of_json():
    (board, _) = json.loads(to_json(offline(), columns=["memory"]))["leaderboards"]
    assert board["rows"][0] == {
        "label": "head",
        "variant": None,
        "method": "head",
        "options": {},
        "peak_allocated_bytes": 150 * MIB,
        "memory_ratio": 150 / 900,
    }


def test_csv_keeps_tables_apart_and_leaves_what_is_missing_empty():
    rows = list(csv.DictReader(io.StringIO(to_csv([*whole(), *offline()]))))
    assert len(rows) == 12
    assert [row["table"] for row in rows] == ["1"] * 6 + ["2"] * 3 + ["3"] * 3
    assert [row["label"] for row in rows[:6]] == ["full", "lora", "ia3", "lst", "head", "bitfit"]
    assert (rows[1]["peak_allocated_bytes"], rows[1]["status"]) == (str(700 * MIB), "ok")
    assert (rows[5]["peak_allocated_bytes"], rows[5]["accuracy"], rows[5]["status"]) == ("", "", "oom")
    assert (rows[0]["batch_size"], rows[11]["batch_size"]) == ("16", "32")
    assert rows[11]["training"] == ""
    assert (rows[0]["seeds"], rows[0]["failures"]) == ("0; 1; 2", "")


def test_csv_with_chosen_columns():
    text = to_csv(offline()[:1], columns=["memory"])
    assert text.startswith(
        "table,group,label,variant,method,options,peak_allocated_bytes,memory_ratio,model,"
    )
    assert text.splitlines()[1].startswith("1,,head,,head,{},157286400,0.16666666666666666,distilbert/")
    assert to_csv([]) == "\n"
