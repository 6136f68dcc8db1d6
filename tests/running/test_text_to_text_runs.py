"""A text-to-text suite from its file to its record, on the random weights of a small T5 in a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, T5Config

from peprof.errors import SuiteError
from peprof.results.frame import to_frame
from peprof.results.record import RunRecord
from peprof.running.runner import run_suite
from peprof.running.worker import run
from peprof.suite.loading import load_suite
from peprof.suite.planning import plan
from tests.running.helpers import Listener, write_suite

TASK = (
    "model.weights=random",
    "data.task=text-to-text",
    "data.prefix='sst2 sentence: '",
    'data.verbalizers=["negative", "positive"]',
)


def t5_directory(directory: Path) -> Path:
    T5Config(
        vocab_size=200, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    ).save_pretrained(directory)
    return directory


def record_of(path: Path, *overrides: str) -> RunRecord:
    (spec,) = plan(load_suite(path, overrides=overrides).suite, device="cpu")
    return run(spec, device_name="cpu", source="t.toml", attempt=1, say=lambda event: None).record


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ['name = "full"', 'name = "lora"\ngradient_checkpointing = true', 'name = "lst"']
)
def test_a_run_writes_words(tmp_path: Path, method: str) -> None:
    model = t5_directory(tmp_path / "m")
    record = record_of(write_suite(tmp_path, method), f"model.name={model}", *TASK)
    assert (record.status, record.failure) == ("ok", None)
    assert record.model is not None and record.model.architecture == "T5ForConditionalGeneration"
    assert record.model.tokenizer == "made from the data"
    assert record.parameters is not None and record.parameters.head == 0
    assert record.short is not None and record.short.memory is not None
    assert record.full is not None
    last = record.full.evaluations[-1]
    assert last.total == 16 and last.exact_matches is not None and last.invalid is not None
    assert 0 <= last.exact_matches + last.invalid <= 16
    assert list(last.metrics) == list(record.full.intervals) == ["accuracy", "exact_match"]
    assert last.metrics["exact_match"] == last.exact_matches / 16
    assert record.full.correct_bits is not None and len(record.full.correct_bits) == 4
    assert int(record.full.correct_bits, 16).bit_count() == last.correct
    assert RunRecord.model_validate_json(record.model_dump_json()) == record
    (row,) = to_frame([record]).to_dict("records")
    assert row["exact_match"] == last.exact_matches / 16 and row["invalid"] == last.invalid / 16
    assert row["task"] == "text-to-text"


def test_a_classification_counts_no_written_answers(tmp_path: Path) -> None:
    model = t5_directory(tmp_path / "m")
    record = record_of(
        write_suite(tmp_path, 'name = "full"', phases='"full"'), f"model.name={model}", "model.weights=random"
    )
    assert record.model is not None and record.model.architecture == "T5ForSequenceClassification"
    assert record.full is not None
    last = record.full.evaluations[-1]
    assert (last.exact_matches, last.invalid) == (None, None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ('data.verbalizers=["not good", "good"]',),
            ["data.verbalizers: 'not good' is 2 tokens of this model", "one token each"],
        ),
        (("data.verbalizers=['a', 'b', 'c']",), ["data.verbalizers: 3 words for 2 classes"]),
        (("model.name=peprof/tiny",), ["model.name: 'peprof/tiny' (bert) is no encoder-decoder"]),
        (("model.name=BERT",), ["(bert) is no encoder-decoder that writes text", "such as t5-base"]),
    ],
)
def test_what_cannot_be_written_is_a_fault_before_the_first_run(
    tmp_path: Path, overrides: tuple[str, ...], words: list[str]
) -> None:
    model = t5_directory(tmp_path / "m")
    BertConfig(vocab_size=64, hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path / "b")
    replaced = [change.replace("BERT", str(tmp_path / "b")) for change in overrides]
    loaded = load_suite(
        write_suite(tmp_path, 'name = "full"', phases='"short"'),
        overrides=(f"model.name={model}", *TASK, *replaced),
    )
    with pytest.raises(SuiteError) as error:
        run_suite(loaded, results=tmp_path / "r", device="cpu", observer=Listener())
    for word in words:
        assert word in error.value.message
    assert "1 fault" in error.value.message
