"""A matrix of whole data sets, as GLUE has: laid over ``[data]``, narrowed and replaced from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from peprof.errors import SuiteError
from peprof.suite.loading import load_suite
from peprof.suite.planning import RunSpec, plan
from tests.suite.conftest import Write

SUITE = """
name = "several"
[model]
name = "peprof/tiny"
[data]
name = "somebody/several"
label = "gold"
[matrix]
data = [
  {{subset = "one", text = ["a"]}},
  {{subset = "two", text = ["b", "c"], task = "regression", max_length = 32}},
]
{more}
[[methods]]
name = "full"
"""


def specs(write_suite: Write, *overrides: str, more: str = "") -> tuple[RunSpec, ...]:
    loaded = load_suite(write_suite(SUITE.format(more=more)), overrides=overrides)
    return plan(loaded.suite, device="cpu")


def short(spec: RunSpec) -> tuple[object, ...]:
    data = spec.data
    return (data.subset, data.text, data.task, data.label, data.max_length, data.judged_by[0])


def test_each_table_is_laid_over_the_data(write_suite: Write) -> None:
    assert [short(spec) for spec in specs(write_suite)] == [
        ("one", ("a",), "classification", "gold", 128, "accuracy"),
        ("two", ("b", "c"), "regression", "gold", 32, "pearson_spearman"),
    ]


def test_another_axis_varies_what_the_tables_say(write_suite: Write) -> None:
    found = specs(write_suite, more='"data.train_rows" = [8, 16]\n"train.batch_size" = [4]')
    assert [(spec.data.subset, spec.data.train_rows) for spec in found] == [
        ("one", 8), ("one", 16), ("two", 8), ("two", 16),
    ]  # fmt: skip
    assert len({spec.run_id for spec in found}) == 4


def test_a_value_from_outside_picks_its_table(write_suite: Write) -> None:
    assert [short(spec)[:2] for spec in specs(write_suite, "data.subset=two")] == [("two", ("b", "c"))]


def test_a_value_that_no_table_has_goes_for_all(write_suite: Write) -> None:
    assert [spec.data.max_length for spec in specs(write_suite, "data.max_length=64")] == [64, 64]


def test_another_collection_has_other_tables(write_suite: Write) -> None:
    found = specs(write_suite, "data.name=peprof/reviews", "data.label=label")
    assert [short(spec)[:3] for spec in found] == [(None, ("sentence",), "classification")]


def test_a_directory_holds_one_for_each_subset(write_suite: Write, tmp_path: Path) -> None:
    for subset in ("one", "two"):
        (tmp_path / "copies" / subset).mkdir(parents=True)
        for split in ("train", "validation"):
            (tmp_path / "copies" / subset / f"{split}.tsv").write_text("a\tgold\nx\t0\n")
    found = specs(write_suite, f"data.path={tmp_path / 'copies'}")
    assert [spec.data.path for spec in found] == [str(tmp_path / "copies" / name) for name in ("one", "two")]
    assert {spec.data.name for spec in found} == {None} and {spec.data.subset for spec in found} == {None}
    overlay = SUITE.format(more="") + '[offline]\ndata.name = "peprof/reviews"\n'
    loaded = load_suite(write_suite(overlay), overrides=[f"data.path={tmp_path / 'copies'}"])
    assert loaded.offline is not None
    assert [spec.data.path for spec in plan(loaded.offline, device="cpu")] == [s.data.path for s in found]


@pytest.mark.parametrize(
    ("tables", "faults"),
    [
        ("3", ["matrix.data: found 3; expected a list of one or more tables"]),
        ("[]", ["matrix.data: found []; expected a list of one or more tables"]),
        ('["one"]', ['matrix.data[0]: found "one", a string; expected a table like {subset = "rte"}']),
        (
            '[{}, {metrics = ["accuracy"], task = "regression"}]',
            ['matrix.data[1].metrics: found ["accuracy"]; expected for regression each at most once of: '
             "pearson, spearman, pearson_spearman, mse"],
        ),
        ('[{max_length = 1}]', ["matrix.data[0].max_length: found 1; expected an integer >= 4"]),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_named(write_suite: Write, tables: str, faults: list[str]) -> None:
    with pytest.raises(SuiteError) as error:
        specs(write_suite, f"matrix.data={tables}")
    told = [str(fault).removeprefix("--set ") for fault in error.value.faults]
    assert len(told) == len(faults)
    assert all(one.startswith(start) for one, start in zip(told, faults, strict=True)), told


def test_what_all_tables_have_wrong_is_said_once(write_suite: Write) -> None:
    with pytest.raises(SuiteError) as error:
        specs(write_suite, "data.lable=x")
    assert len(error.value.faults) == 1
    assert "Did you mean 'data.label'?" in str(error.value.faults[0])
