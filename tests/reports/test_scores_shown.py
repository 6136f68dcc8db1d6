# ruff: noqa: E501 - tables stand here as they are printed
"""What tables say of metrics over seeds, of tests, and of targets."""

import csv
import io
import json

import pytest
from rich.console import Console

from peprof.errors import UsageError
from peprof.reports.export import to_csv, to_json, to_markdown
from peprof.reports.leaderboard import print_leaderboards
from peprof.reports.progress import _result_line
from peprof.results.budgets import parse_budget
from peprof.results.comparison import leaderboards
from peprof.results.record import RunPeak
from tests.results.factory import make_dead_record
from tests.results.trainings import answered, judged, on_the_way


def shown(boards, width=140, **options):
    file = io.StringIO()
    print_leaderboards(Console(file=file, width=width), boards, **options)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def right(count, *, swapped=0, total=1000):
    """The first ``count`` examples are right, but for some before the end of these and as many behind it."""
    return [place < count - swapped or count <= place < count + swapped for place in range(total)]


def answers_known():
    """Two seeds of four methods, whose answers are known."""
    records = [
        answered(label, right(count, swapped=3 * seed + place), seed=seed)
        for place, (label, count) in enumerate([("full", 900), ("lora", 895), ("lst", 800), ("head", 798)])
        for seed in (0, 1)
    ]
    return [*records, make_dead_record("bitfit", requested_bytes=None)]


def test_rows_are_tested_in_pairs_and_against_the_reference():
    # The intervals and p-values are those of the analysis of variance done with numpy and scipy.
    assert (
        to_markdown(leaderboards(answers_known()), columns=["accuracy", "difference"])
        == """\
### distilbert/distilbert-base-uncased on stanfordnlp/sst2

batch 16 × 64 tokens · float32 · sdpa · 6L-768d-12h-3072ff-30522v · 3 epochs · Xeon 8481C, 2 threads · torch 2.13.0

| method | accuracy % | difference to full |
| --- | ---: | ---: |
| ◆ full | **90.0** ±2.0 | reference |
| lora | ≈89.5 ±2.1 | −0.5 [−1.1, +0.1] p 0.067 |
| lst | 80.0 ±2.6 | −10.0 [−11.8, −8.2] p \\<0.001 |
| head | 79.8 ±2.6 | −10.2 [−12.0, −8.4] p \\<0.001 |
| bitfit | – | – |

- ◆ Pareto front: no other row has both less memory and better accuracy.
- Accuracy is the mean of 2 seeds. ± is the 95 % interval over seeds and 1,000 validation rows.
- ≈ not shown to differ from the best accuracy: tested paired over the same seeds and examples, with Holm's correction over all 6 pairs of rows.
- Not shown to differ from the next better row either: head from lst.
- Differences are to full, over what both have in common; [ ] is each one's own 95 % interval, p is tested paired over the same seeds and examples, with Holm's correction over 3 rows.
- Step times are medians of 5 measured steps.
- bitfit, seed 0: out of memory in 'short: warm-up': out of memory
"""
    )


def test_another_reference_is_shown_without_being_asked_for_its_column():
    table = shown(leaderboards(answers_known(), reference="lst"))
    assert "difference to" in table
    assert "Ratios (x) are to lst." in table
    assert " Differences are to lst, over what both have in common" in table
    with pytest.raises(UsageError, match=r"no method 'last' to compare with. Did you mean 'lst'\?") as caught:
        leaderboards(answers_known(), reference="last")
    assert caught.value.hint == "Compare with one of: bitfit, full, head, lora, lst."


def test_two_rows_of_a_label_are_no_reference():
    records = [answered("full", right(900))]
    for rank in (4, 8):
        record = answered("lora", right(890 + rank))
        method = record.spec.method.model_copy(update={"options": {"rank": rank}})
        spec = record.spec.model_copy(update={"method": method})
        records.append(record.model_copy(update={"spec": spec, "run_id": spec.run_id}))
    with pytest.raises(UsageError, match="several rows are called 'lora'") as caught:
        leaderboards(records, reference="lora")
    assert "lora (rank=4)" in caught.value.hint
    (board,) = leaderboards(records, reference="lora (rank=4)")
    assert board.reference == "lora (rank=4)"


def test_a_table_without_the_reference_says_so():
    records = [answered("lora", right(900)), answered("full", right(900)).model_copy()]
    spec = records[1].spec.model_copy(
        update={"train": records[1].spec.train.model_copy(update={"batch_size": 64})}
    )
    records[1] = records[1].model_copy(update={"spec": spec, "run_id": spec.run_id})
    table = shown(leaderboards(records), columns=["difference"])
    assert " No differences: full fine-tuning was not measured here.\n" in table


def test_one_seed_is_said_to_be_one():
    table = " ".join(shown(leaderboards(answers_known()[::2]), columns=["accuracy", "difference"]).split())
    assert "± is the 95 % Wilson interval at 1,000 validation rows." in table
    assert (
        "tested by McNemar's exact test on the same examples (one seed: another might decide otherwise)"
        in table
    )


def test_seeds_that_are_missing_are_counted():
    records = [record for record in answers_known() if record.run_id[:7] != "lora-s1"]
    table = " ".join(shown(leaderboards(records)).split())
    assert "Accuracy is the mean of 1 (lora) and 2 (the others) seeds." in table
    assert (
        "± is the 95 % interval over seeds and 1,000 validation rows; of lora the 95 % Wilson interval"
        in table
    )


REGRESSION = {"task": "regression"}


def regressions(seeds=(0, 1)):
    return [
        judged(
            label,
            {
                "pearson_spearman": value - seed / 100,
                "pearson": value + 0.01 - seed / 100,
                "spearman": value - 0.01,
            },
            data=REGRESSION,
            seed=seed,
            intervals={"pearson_spearman": (value - 0.02, value + 0.018)},
        )
        for label, value in (("full", 0.88), ("lora", 0.87), ("odd", -0.05))
        for seed in seeds
    ]


def test_regression_is_shown_times_a_hundred_and_not_tested_with_two_seeds():
    table = shown(leaderboards(regressions()), columns=["metric", "pearson", "accuracy", "difference"])
    words = " ".join(table.split())
    assert "full 87.5 ±2.7 88.5 – reference" in words
    assert "lora ≈86.5 ±2.7 87.5 – −1.0 not tested" in words
    assert "odd −5.5 ±2.7 −4.5 – −93.0 not tested" in words
    assert (
        "Pearson spearman is the mean of 2 seeds. ± is the 95 % interval over seeds and 1,500 validation rows."
        in words
    )
    assert "Not tested: lora, odd: not enough seeds: 2 seeds in common, at least 3 are needed." in words


def test_regression_of_three_seeds_is_tested_over_these():
    table = " ".join(shown(leaderboards(regressions((0, 1, 2))), columns=["difference"]).split())
    assert (
        "p is tested by a paired t test over seeds (the same examples: others might decide otherwise)"
        in table
    )


def perplexities():
    return [
        judged(label, {"perplexity": value}, data={"task": "language-modelling"}, intervals=ends)
        for label, value, ends in (
            ("full", 12.0, {"perplexity": (11.0, 13.0)}),
            ("lora", 13.1, {"perplexity": (12.0, 14.5)}),
            ("head", 1234.0, {}),
        )
    ]


def test_less_perplexity_is_better_and_the_usual_columns_show_it():
    table = shown(leaderboards(perplexities()))
    assert [line.split()[:4] for line in table.splitlines() if "592K" in line] == [
        ["◆", "full", "66.4M", "+"],
        ["lora", "66.4M", "+", "592K"],
        ["head", "66.4M", "+", "592K"],
    ]
    assert "   perplexity  " in table and "accuracy" not in table
    assert "12.0 ±1.00" in table and "≈13.1 ±1.40" in table and "≈1,234  " in table
    assert " ◆ Pareto front: no other row has both less memory and less perplexity.\n" in table
    assert " ± is the 95 % interval from resampling 1,500 validation rows; of head there is none.\n" in table
    assert " ≈ within noise of the best perplexity: the intervals overlap, or there is none.\n" in table
    assert " Without an interval nothing tells rows from others: head.\n" in table


def test_tables_of_different_tasks_show_each_its_own_metric():
    table = shown(leaderboards([*perplexities(), *regressions()]))
    assert "Not comparable with table 1: task regression (table 1: language-modelling)." in table
    first, second = table.split("Table 2 of 2")
    assert "perplexity" in first and "pearson spearman" in second


def test_machines_get_every_metric_and_the_test():
    (board,) = json.loads(to_json(leaderboards(answers_known())))["leaderboards"]
    assert (board["metric"], board["reference"], board["pairs_tested"], board["tests"]) == (
        "accuracy", "full", 6, ["crossed"],
    )  # fmt: skip
    lora = board["rows"][1]
    assert (lora["metric"], lora["metric_value"], lora["accuracy"]) == ("accuracy", 0.895, 0.895)
    assert lora["metric_low"] == lora["accuracy_low"] < 0.895 < lora["accuracy_high"]
    assert lora["metric_by_seed"] == {"0": 0.895, "1": 0.895}
    assert lora["metric_interval_covers"] == "seeds and examples"
    assert (lora["difference_test"], lora["difference_seeds"]) == ("crossed", 2)
    assert lora["difference"] == pytest.approx(-0.005)
    assert lora["difference_low"] < -0.005 < lora["difference_high"]
    assert lora["difference_p"] <= lora["difference_p_holm"]
    assert lora["within_noise_of_best"] and lora["within_noise_of_next_better"] == "full"
    (row, *_) = csv.DictReader(io.StringIO(to_csv(leaderboards(regressions()))))
    assert (row["metric"], row["accuracy"], row["pearson"]) == ("pearson_spearman", "", "0.885")


def targets(**options):
    peak = RunPeak(source="process_rss", peak_bytes=3 * 1024**3, start_bytes=1)
    records = [
        on_the_way(label, [800, best + 5 * seed, last], seed=seed, seconds_a_step=pace, watts=60, peak=peak)
        for label, best, last, pace in (
            ("full", 880, 900, 0.5),
            ("lora", 876, 878, 0.3),
            ("head", 800, 810, 0.1),
        )
        for seed in (0, 1, 2)
    ]
    return leaderboards(records, **options)


def test_a_target_shows_what_it_took():
    columns = ["time_to_target", "steps_to_target", "energy_to_target", "energy", "sample_energy", "run_peak"]
    table = shown(targets(target=0.88), columns=columns)
    words = " ".join(table.split())
    assert "full 1.67 min 200 6.00 kJ 9.00 kJ 267 mJ 3.00 GiB" in words
    assert "lora 1.00 min 2 of 3 200 2 of 3 3.60 kJ 2 of 3 5.40 kJ 160 mJ 3.00 GiB" in words
    assert "head not reached not reached not reached 1.80 kJ 53.5 mJ 3.00 GiB" in words
    assert (
        "Target: accuracy 88.0, at the first evaluation that was as good; of training steps alone; medians"
        in words
    )
    assert (
        "A whole run's peak is its process's resident memory, with the interpreter and all libraries."
        in words
    )


def test_a_target_is_shown_without_asking_and_none_is_said_to_be_none():
    assert "time to" in shown(targets(target=0.88))
    assert "time to" not in shown(targets())
    words = " ".join(shown(targets(), columns=["steps_to_target"]).split())
    assert "There is no target: set train.target in the suite, or give --target." in words


def test_a_budget_shows_what_was_reached_within_it():
    boards = targets(budget=parse_budget("70s"))
    assert "| accuracy % within 70 s |" in to_markdown(boards)
    words = " ".join(shown(boards).split())
    assert "Within 70 s of training steps alone: the best evaluation of each seed, their mean" in words
    assert "accuracy % within" not in to_markdown(targets())
    none = " ".join(shown(targets(), columns=["within"]).split())
    assert "There is no budget: give --within 60s, 500steps or 2kJ." in none
    rows = json.loads(to_json(targets(budget=parse_budget("70s"))))["leaderboards"][0]["rows"]
    assert {(row["within_axis"], row["within_amount"]) for row in rows} == {("seconds", 70.0)}


def test_a_method_that_nobody_had_looked_at_by_then_has_no_figure():
    table = shown(targets(budget=parse_budget("1s")), columns=["within"])
    assert table.count("no evaluation") == 3
    assert "where a seed had none by then, nothing is known" in " ".join(table.split())


def test_machines_get_when_the_target_was_reached():
    rows = json.loads(to_json(targets(target=0.88)))["leaderboards"][0]["rows"]
    found = [(row["target_reached_seeds"], row["target_seeds"], row["time_to_target_s"]) for row in rows]
    assert found == [(3, 3, 100.0), (2, 3, 60.0), (0, 3, None)]
    assert rows[1]["energy_to_target_j"] == 3600 and rows[1]["steps_to_target"] == 200


def test_the_line_of_a_finished_run_has_what_decides():
    assert "perplexity 12.0," in _result_line("full", perplexities()[0]).plain
    assert "pearson spearman 88.0," in _result_line("full", regressions()[0]).plain
    assert "accuracy 90.0 %," in _result_line("full", answers_known()[0]).plain
