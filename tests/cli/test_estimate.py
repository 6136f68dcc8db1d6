"""``peprof estimate`` and ``peprof fit`` from the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from peprof.cli.estimate import estimate
from peprof.cli.fit import fit
from peprof.errors import PeprofError, RunFailedError, SuiteError, UsageError
from peprof.estimation import batches, estimating
from peprof.reports import batch_memory
from tests.estimation.small_models import write_configs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refused(command: Any, *arguments: object) -> PeprofError:
    result = call(command, *arguments)
    assert isinstance(result.exception, PeprofError), result.output
    assert result.exception.exit_code == 2
    return result.exception


def rows_of(models: Path, *arguments: object) -> list[dict[str, Any]]:
    shape = ("--batch", 2, "--length", 8)
    result = call(estimate, "--model", models / "bert", *shape, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_a_local_configuration_is_enough(models: Path) -> None:
    full, head = rows_of(models, "--method", "full", "--method", "head")
    # Embeddings, two layers, pooler and head of the configuration, written out.
    width, inner = 32, 64
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    backbone = (300 + 40 + 2) * width + 2 * width + 2 * layer + width * width + width
    parameters = backbone + 2 * width + 2
    assert full["trainable_parameters"] == parameters
    assert full["profile"]["start_bytes"] >= 3 * 4 * parameters  # with two states each
    assert full["peak_bytes"] == sum(
        full[f"{name}_bytes"]
        for name in ("parameters", "gradients", "optimizer", "activations", "temporaries", "other")
    )
    assert head["trainable_parameters"] == width * width + width + 2 * width + 2  # with the pooler
    assert head["peak_bytes"] < full["peak_bytes"]


@pytest.mark.slow
def test_every_built_in_method_is_estimated_unless_some_are_named(models: Path) -> None:
    rows = rows_of(models)
    assert {"full", "lora", "lst", "sparse", "prefix_tuning"} <= {row["method"] for row in rows}
    # The defaults are meant for larger models: those that don't fit say so.
    assert all((row["peak_bytes"] is None) == (row["problem"] is not None) for row in rows)
    assert sum(row["problem"] is None for row in rows) >= 20


def test_tables_for_people_and_machines(models: Path) -> None:
    shape = ("--model", models / "bert", "--method", "lora", "--batch", 2, "--length", 8)
    table = call(estimate, *shape).stdout
    assert "batch 2 · length 8 · float32 · classification" in table and "Exact: the bytes" in table
    rows = list(csv.DictReader(io.StringIO(call(estimate, *shape, "--format", "csv").stdout)))
    assert [row["method"] for row in rows] == ["lora"] and rows[0]["certainty"] == "exact"
    assert "| lora |" in call(estimate, *shape, "--format", "markdown").stdout
    shown = call(estimate, *shape, "--breakdown", "lora").stdout
    assert "At the peak, by category" in shown and "At the peak, by module" in shown


@pytest.mark.slow
def test_points_of_the_picture_are_single_estimates(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(batch_memory, "draw_batch_memory", lambda points, path, **words: given.update(points))
    monkeypatch.setattr(batches, "LARGEST_BATCH", 4)
    shape = ("--model", models / "bert", "--method", "full", "--method", "lora", "--length", 8)
    result = call(estimate, *shape, "--batch", 2, "--plot", "memory.svg", "--format", "json")
    assert result.exit_code == 0, result.output
    assert "Drawn: memory.svg" in result.stderr and "estimating full at batch 1 0/6" in result.stderr
    expected: dict[str, list[tuple[int, int]]] = {"full": [], "lora": []}
    for batch in (1, 2, 4):
        for row in json.loads(call(estimate, *shape, "--batch", batch, "--format", "json").stdout):
            expected[row["method"]].append((batch, row["peak_bytes"]))
    assert given == expected
    assert [row["batch_size"] for row in json.loads(result.stdout)] == [
        2,
        2,
    ]  # as named


def test_points_for_a_gpu_are_what_is_used_on_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        batch_memory, "draw_batch_memory", lambda points, path, **words: given.update(words, points=points)
    )
    monkeypatch.setattr(batches, "LARGEST_BATCH", 2)
    shape = (
        "--model",
        models / "bert",
        "--method",
        "lora",
        "--length",
        8,
        "--device",
        "T4",
        "--checkpointing",
    )
    result = call(estimate, *shape, "--batch", 2, "--plot", "memory.svg", "--format", "json")
    assert result.exit_code == 0, result.output
    [asked] = json.loads(result.stdout)
    [one] = json.loads(call(estimate, *shape, "--batch", 1, "--format", "json").stdout)
    assert asked["device_name"] == "T4" and asked["fits"] is True
    assert asked["device_bytes_assumed"] == asked["reserved_bytes_simulated"] + asked["context_bytes_assumed"]
    points = [(1, one["device_bytes_assumed"]), (2, asked["device_bytes_assumed"])]
    assert given["points"] == {"lora (checkpointed)": points}
    assert given["device"].name == "T4"
    assert given["subtitle"].endswith("used on T4 of 14.6 GiB: pool simulated, context assumed")


@pytest.mark.slow
def test_the_picture_names_model_methods_and_cards(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory.svg"
    shape = ("--model", models / "bert", "--method", "full", "--method", "lora", "--length", 8)
    assert call(estimate, *shape, "--plot", path).exit_code == 0
    words = path.read_text()
    for word in (
        "full",
        "lora",
        "8 GiB",
        "BertForSequenceClassification",
        "length 8 · float32",
        "tensors, cuda",
        "256",
    ):
        assert word in words
    assert "batch 8" not in words


def test_a_picture_is_refused_before_anything_is_estimated(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "estimate_run", lambda *_, **__: pytest.fail("estimated"))
    shape = ("--model", models / "bert", "--length", 8)
    assert ".svg, .png, .html" in str(refused(estimate, *shape, "--plot", "memory.txt").hint)
    assert "no directory" in refused(estimate, *shape, "--plot", tmp_path / "none" / "a.svg").message
    lengths = ("--set", "matrix.data.max_length=[8, 16]")
    assert "one model" in refused(estimate, *shape, *lengths, "--plot", tmp_path / "a.svg").message


def test_what_isnt_known_is_named(models: Path) -> None:
    unknown = refused(estimate, "--model", "roberta-lage", "--method", "full")
    assert "roberta-lage" in unknown.message and "Did you mean 'roberta-large'?" in unknown.message
    assert "gpu9" in refused(estimate, "--model", models / "bert", "--device", "gpu9").message
    assert isinstance(refused(estimate), UsageError)
    assert isinstance(refused(estimate, "quickstart", "--model", "bert-base"), UsageError)
    assert "--set train.batch_size" in str(refused(estimate, "quickstart", "--batch", 4).hint)
    assert isinstance(refused(estimate, "--model", models / "bert", "--method", "lorra"), SuiteError)
    assert isinstance(refused(estimate, "--model", models / "bert", "--length", 4000), SuiteError)
    shape = ("--model", models / "bert", "--length", 8, "--method", "lora")
    assert "'lora'" in refused(estimate, *shape, "--breakdown", "lra").message


def test_what_cant_be_told_without_data_is_a_row_that_says_so(models: Path) -> None:
    # T5's classifier looks for the ends of texts: how many there are, only data can tell.
    result = call(estimate, "--model", models / "t5", "--task", "classification", "--method", "full",
                  "--format", "json")  # fmt: skip
    assert isinstance(result.exception, RunFailedError), result.output  # as it is the only row
    [row] = json.loads(result.stdout)
    assert row["peak_bytes"] is None and "without data" in row["problem"]


def test_quantised_weights_are_named_and_said_to_be_by_formula(models: Path) -> None:
    asked = ("--model", models / "bert", "--batch", 2, "--length", 8, "--quantization", "nf4")
    asked = (*asked, "--method", "lora", "--method", "full")
    lora, full = json.loads(call(estimate, *asked, "--format", "json").stdout)
    assert (lora["quantization"], lora["certainty"], full["peak_bytes"]) == ("nf4", "by formula", None)
    assert "query.weight is held in 4 bits" in full["problem"]
    plain = rows_of(models, "--method", "lora")[0]
    assert plain["quantization"] is None and plain["certainty"] == "exact"
    assert lora["parameters_bytes"] < plain["parameters_bytes"]
    table = call(estimate, *asked).stdout
    assert "weights in nf4" in table and "by formula, from its source" in " ".join(table.split())
    fitted = json.loads(
        call(fit, *asked, "--memory", "1GiB", "--largest", "length", "--format", "json").stdout
    )
    assert (fitted[0]["quantization"], fitted[0]["certainty"]) == ("nf4", "by formula")
    table = call(fit, *asked, "--memory", "1GiB", "--largest", "length").stdout
    assert "by formula, from its source" in " ".join(table.split())
    assert "--quantization" in str(refused(estimate, "quickstart", "--quantization", "nf4"))


@pytest.mark.slow
def test_fit_says_what_fits_and_what_would_help(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shape = ("--model", models / "llama-lm", "--method", "lora", "--length", 32, "--largest", "batch")
    result = call(fit, *shape, "--memory", "4MB", "--format", "json")
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert row["need_bytes"] <= 4_000_000 < row["beyond_bytes"]
    checkpointed = row["remedies"]["gradient checkpointing"]
    assert checkpointed > row["largest"] and f"gradient checkpointing: {checkpointed}" in row["remedy"]
    [line] = csv.DictReader(io.StringIO(call(fit, *shape, "--memory", "4MB", "--format", "csv").stdout))
    assert f"gradient checkpointing: {checkpointed}" in line["remedies"]
    table = call(fit, *shape, "--memory", "4MB").stdout
    assert str(row["largest"]) in table and "gradient checkpointing" in table


def test_fit_wants_to_know_how_much_there_is(models: Path) -> None:
    assert "--memory" in str(refused(fit, "--model", models / "bert", "--method", "full").hint)
    assert "24GB" in str(refused(fit, "--model", models / "bert", "--memory", "lots").hint)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from peprof.cli import commands\n"
        "for name in ('estimate', 'fit'):\n"
        "    commands.main([name, '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "70 billion" in done.stdout
