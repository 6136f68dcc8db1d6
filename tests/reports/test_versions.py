# ruff: noqa: E501 - tables stand here as they are printed
"""Two versions side by side, as they are printed."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from peprof.reports.versions import Shown, headline
from peprof.reports.versions_export import to_csv, to_json, to_markdown
from peprof.reports.versions_table import print_versions
from peprof.results.gate import judge, parse_thresholds
from peprof.results.versions import compare_versions
from tests.results.factory import ENVIRONMENT, make_dead_record, make_full, make_record, make_short
from tests.results.trainings import answered

STEPS = [200, 196, 204, 198, 202, 199, 201, 197, 203]
NEWER = ENVIRONMENT.model_copy(update={"torch": "2.14.0"})


def of(label, factor, peak, right, **values):
    record = answered(label, right)
    short = make_short(step_ms=[factor * step for step in STEPS], peak_mib=peak)
    return record.model_copy(update={"short": short, **values})


RIGHT = [True] * 800 + [False] * 72


def compared(
    thresholds="step_time:5%,peak_allocated:2%,accuracy:1pt",
    *,
    ignore=("torch",),
    only_changed=False,
    **options,
):
    """Slower LoRA with less memory, full fine-tuning as before, one on another batch, one in new alone."""
    base = [
        of("full", 1, 1024, RIGHT),
        of("lora", 1, 512, RIGHT),
        make_record("ia3", batch_size=16, short=make_short(), environment=NEWER),
    ]
    new = [
        of("full", 1.001, 1024, RIGHT, environment=NEWER),
        of("lora", 1.08, 500, [False] * 20 + RIGHT[20:], environment=NEWER),
        make_record("ia3", batch_size=32, short=make_short(batch_size=32), environment=NEWER),
        make_record("bitfit", short=make_short(), environment=NEWER),
    ]
    return shown(base, new, thresholds, ignore=ignore, only_changed=only_changed)


def shown(base, new, thresholds="", *, ignore=(), only_changed=False):
    comparison = compare_versions(base, new, ignore=ignore)
    verdict = judge(comparison, parse_thresholds(thresholds) if thresholds else ())
    return Shown(
        base=Path("main"),
        new=Path("branch"),
        comparison=comparison,
        verdict=verdict,
        only_changed=only_changed,
    )


def printed(what, width=120, **options):
    file = io.StringIO()
    print_versions(Console(file=file, width=width, **options), what)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def test_a_terminal_shows_what_came_out_of_it_first():
    assert (
        printed(compared())
        == """\
 base main  new branch
 Regression: step_time of lora +8.00 % (limit step_time:5%); accuracy of lora −2.3 pt (limit accuracy:1pt).
 2 methods: 7 worse, 1 better, 8 same within noise, 2 noise unknown.

 method  metric                  base       new  difference         99 % interval   ratio  mark
 ───────────────────────────────────────────────────────────────────────────────────────────────────────────
 full    step_time             200 ms    200 ms     +200 µs  −5.72 ms to +6.30 ms  1.001x  same within noise
         forward_time         50.0 ms   50.0 ms    +50.0 µs  −1.43 ms to +1.58 ms  1.001x  same within noise
         backward_time         100 ms    100 ms     +100 µs  −2.86 ms to +3.15 ms  1.001x  same within noise
         clip_time            25.0 ms   25.0 ms    +25.0 µs    −715 µs to +788 µs  1.001x  same within noise
         optimizer_time       25.0 ms   25.0 ms    +25.0 µs    −715 µs to +788 µs  1.001x  same within noise
         samples_per_second      80.0      79.9       −0.08        −2.44 to +2.36  0.999x  same within noise
         peak_allocated      1.00 GiB  1.00 GiB           0                 exact  1.000x  same
         train_time          10.0 min  10.0 min           0                     –  1.000x  noise unknown
         accuracy              91.7 %    91.7 %      0.0 pt    −0.3 pt to +0.3 pt       –  same within noise
 lora    step_time             200 ms    216 ms    +16.0 ms  +9.61 ms to +22.6 ms  1.080x  worse
         forward_time         50.0 ms   54.0 ms    +4.00 ms  +2.40 ms to +5.65 ms  1.080x  worse
         backward_time         100 ms    108 ms    +8.00 ms  +4.81 ms to +11.3 ms  1.080x  worse
         clip_time            25.0 ms   27.0 ms    +2.00 ms  +1.20 ms to +2.82 ms  1.080x  worse
         optimizer_time       25.0 ms   27.0 ms    +2.00 ms  +1.20 ms to +2.82 ms  1.080x  worse
         samples_per_second      80.0      74.1       −5.93        −8.12 to −3.67  0.926x  worse
         peak_allocated       512 MiB   500 MiB   −12.0 MiB                 exact  0.977x  better
         train_time          10.0 min  10.0 min           0                     –  1.000x  noise unknown
         accuracy              91.7 %    89.4 %     −2.3 pt    −3.6 pt to −1.0 pt       –  worse

 Not comparable: ia3: batch size 32 (base: 16).
 Only in new: bitfit.
 Marks go by 99 % intervals: of 14 here, chance alone marks about 0.14 where nothing changed.
 One run of each: what differs from run to run is not in the intervals of times.
 Ignored: torch 2.14.0 (base: 2.13.0).
 Unavailable in both: peak_reserved, flops, inference_time, step_energy_per_sample, energy_per_sample.
"""
    )


def test_only_what_changed():
    assert (
        printed(compared(only_changed=True), width=90)
        == """\
 base main  new branch
 Regression: step_time of lora +8.00 % (limit step_time:5%); accuracy of lora −2.3 pt
 (limit accuracy:1pt).
 2 methods: 7 worse, 1 better, 8 same within noise, 2 noise unknown.

 method  metric                 base      new  difference   ratio  mark
 ────────────────────────────────────────────────────────────────────────
 lora    step_time            200 ms   216 ms    +16.0 ms  1.080x  worse
         forward_time        50.0 ms  54.0 ms    +4.00 ms  1.080x  worse
         backward_time        100 ms   108 ms    +8.00 ms  1.080x  worse
         clip_time           25.0 ms  27.0 ms    +2.00 ms  1.080x  worse
         optimizer_time      25.0 ms  27.0 ms    +2.00 ms  1.080x  worse
         samples_per_second     80.0     74.1       −5.93  0.926x  worse
         peak_allocated      512 MiB  500 MiB   −12.0 MiB  0.977x  better
         accuracy             91.7 %   89.4 %     −2.3 pt       –  worse

 Not comparable: ia3: batch size 32 (base: 16).
 Only in new: bitfit.
 Marks go by 99 % intervals: of 14 here, chance alone marks about 0.14 where nothing
 changed.
 One run of each: what differs from run to run is not in the intervals of times.
 Ignored: torch 2.14.0 (base: 2.13.0).
 Unavailable in both: peak_reserved, flops, inference_time, step_energy_per_sample,
 energy_per_sample.
 Too narrow for: interval. Widen the terminal.
"""
    )


def test_a_narrow_terminal_leaves_out_what_matters_least():
    narrow = printed(compared(), width=76)
    assert "Too narrow for: interval" in narrow and "ratio" in narrow
    assert max(map(len, narrow.splitlines())) <= 76


def test_a_terminal_without_the_letters_gets_others():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_versions(Console(file=file, width=120), compared())
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "-12.0 MiB" in text and "-5.72 ms to +6.30 ms" in text and " -------" in text


def test_markdown_is_made_for_a_pull_request():
    assert (
        to_markdown(compared(only_changed=True))
        == """\
**Regression: step_time of lora +8.00 % (limit step_time:5%); accuracy of lora −2.3 pt (limit accuracy:1pt).**

2 methods: 7 worse, 1 better, 8 same within noise, 2 noise unknown.

| method | metric | base | new | difference | 99 % interval | ratio | mark |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
| lora | step_time | 200 ms | 216 ms | +16.0 ms | +9.61 ms to +22.6 ms | 1.080x | **worse** |
| lora | forward_time | 50.0 ms | 54.0 ms | +4.00 ms | +2.40 ms to +5.65 ms | 1.080x | **worse** |
| lora | backward_time | 100 ms | 108 ms | +8.00 ms | +4.81 ms to +11.3 ms | 1.080x | **worse** |
| lora | clip_time | 25.0 ms | 27.0 ms | +2.00 ms | +1.20 ms to +2.82 ms | 1.080x | **worse** |
| lora | optimizer_time | 25.0 ms | 27.0 ms | +2.00 ms | +1.20 ms to +2.82 ms | 1.080x | **worse** |
| lora | samples_per_second | 80.0 | 74.1 | −5.93 | −8.12 to −3.67 | 0.926x | **worse** |
| lora | peak_allocated | 512 MiB | 500 MiB | −12.0 MiB | exact | 0.977x | **better** |
| lora | accuracy | 91.7 % | 89.4 % | −2.3 pt | −3.6 pt to −1.0 pt | – | **worse** |

- Not comparable: ia3: batch size 32 (base: 16).
- Only in new: bitfit.

<details><summary>What was compared, and how sure it is</summary>

- Base: main, new: branch.
- In both: model distilbert/distilbert-base-uncased, weights pretrained, dtype float32, attention sdpa, data stanfordnlp/sst2, batch size 16, max length 64, task classification, optimizer adamw, gradient clipping 1, device cpu, phases short + full, training 3 epochs, schedule linear, 0.06 warm-up, geometry 6L-768d-12h-3072ff-30522v, attention kernel sdpa, data fingerprint 5f0c1d2e3a4b, device name Xeon 8481C, transformers 5.23.0, threads 2, memory measured by torch.profiler.
- Marks go by 99 % intervals: of 14 here, chance alone marks about 0.14 where nothing changed.
- One run of each: what differs from run to run is not in the intervals of times.
- Ignored: torch 2.14.0 (base: 2.13.0).
- Unavailable in both: peak_reserved, flops, inference_time, step_energy_per_sample, energy_per_sample.

</details>
"""
    )


def test_nothing_in_a_name_is_taken_for_markup():
    what = replace(shown([RECORD], [RECORD]), base=Path("a|b*c"))
    assert "- Base: a\\|b\\*c, new: branch." in to_markdown(what)


def test_json_has_all_values_with_their_units():
    found = json.loads(to_json(compared()))
    assert (found["exit_code"], found["confidence"], found["ignored"]) == (1, 0.99, ["torch"])
    assert found["regressions"] == [
        {"method": "lora", "metric": "step_time", "threshold": "step_time:5%"},
        {"method": "lora", "metric": "accuracy", "threshold": "accuracy:1pt"},
    ]
    methods = {method["method"]: method for method in found["methods"]}
    assert methods["ia3"]["differences"] == [{"condition": "batch size", "base": "16", "new": "32"}]
    assert methods["bitfit"]["base_runs"] is None and not methods["bitfit"]["comparable"]
    lora = {metric["metric"]: metric for metric in methods["lora"]["metrics"]}
    assert lora["peak_allocated"] == {
        "metric": "peak_allocated", "unit": "B", "higher_is_better": False,
        "base": 512 * 2**20, "new": 500 * 2**20, "difference": -12 * 2**20, "difference_interval": None,
        "ratio": 500 / 512, "ratio_interval": None, "mark": "better", "judged_by": "exact",
    }  # fmt: skip
    assert lora["step_time"]["ratio"] == pytest.approx(1.08)
    assert lora["step_time"]["ratio_interval"][0] < 1.08 < lora["step_time"]["ratio_interval"][1]


def test_json_is_valid_where_an_interval_has_no_end():
    """Two runs against one, as different as can be: all that is known is that nothing is."""
    runs = [
        make_record("lora", seed=seed, short=make_short(step_ms=[ms] * 5))
        for seed, ms in enumerate((1, 1e300))
    ]
    text = to_json(shown(runs[:1], runs))
    assert "Infinity" not in text and "NaN" not in text
    metrics = {one["metric"]: one for one in json.loads(text)["methods"][0]["metrics"]}
    assert metrics["step_time"]["ratio_interval"][1] is None and metrics["step_time"]["mark"] == "same"
    assert metrics["samples_per_second"]["ratio_interval"][1] is None
    assert "inf" in printed(shown(runs[:1], runs))


def test_csv_has_a_line_a_metric():
    rows = list(csv.DictReader(io.StringIO(to_csv(compared()))))
    by_name = {(row["method"], row["metric"]): row for row in rows}
    assert by_name["lora", "accuracy"]["mark"] == "worse"
    assert float(by_name["lora", "accuracy"]["difference"]) == pytest.approx(-20 / 872)
    assert by_name["lora", "peak_allocated"]["ratio_low"] == ""
    why = by_name["ia3", "step_time"]["not_comparable_because"]
    assert why == "batch size 32 (base: 16)" and by_name["ia3", "step_time"]["mark"] == "not comparable"


RECORD = make_record("lora", short=make_short(), full=make_full())


@pytest.mark.parametrize(
    ("base", "new", "thresholds", "words"),
    [
        (
            [RECORD],
            [RECORD],
            "",
            "Compared: 1 method: 0 worse, 0 better, 8 same within noise, 1 noise unknown.",
        ),
        (
            [RECORD],
            [RECORD],
            "step_time:5%,accuracy:1pt",
            "Passed: nothing is worse by step_time:5%, accuracy:1pt or more.",
        ),
        (
            [RECORD],
            [make_dead_record("lora", status="failed")],
            "",
            "Failed: 1 run of lora, in the new version.",
        ),
        (
            [RECORD],
            [make_record("ia3", short=make_short())],
            "",
            "Not comparable: no method was measured in both versions under the same conditions.",
        ),
        (
            [RECORD],
            [RECORD],
            "peak_reserved:1%,train_time:5%",
            "Not comparable: train_time of lora: nothing tells how noisy it is; peak_reserved was measured in no method of both versions.",
        ),
        (
            [RECORD],
            [RECORD.model_copy(update={"short": make_short(peak_mib=None)})],
            "peak_allocated:1%",
            "Not comparable: peak_allocated of lora: missing in new.",
        ),
        (
            [RECORD, make_record("ia3", short=make_short())],
            [RECORD],
            "step_time:5%",
            "Not comparable: ia3 missing in new.",
        ),
    ],
)
def test_the_first_line_says_what_came_out_of_it(base, new, thresholds, words):
    assert headline(shown(base, new, thresholds)) == words


def test_why_a_run_failed_is_said():
    text = printed(shown([RECORD], [make_dead_record("lora", hint="Take a smaller batch.")]), width=140)
    assert (
        "lora, seed 0: out of memory in 'short: warm-up', asked for 2.00 GiB: out of memory → Take a smaller batch."
        in text
    )
