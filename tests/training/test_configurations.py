"""What libraries raise of a wrong configuration, and code that comes with a model, as faults of a suite."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from peprof.errors import SuiteError
from peprof.suite.schema import ModelConfig
from peprof.training.backbone import check_model, usual_task
from peprof.training.configurations import as_fault

BERT = {
    "model_type": "bert", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
    "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 40,
}  # fmt: skip
MAP = {"AutoConfig": "configuration_mine.Mine", "AutoModelForSequenceClassification": "modeling_mine.Mine"}


def written(directory: Path, **values: Any) -> ModelConfig:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**BERT, **values}))
    return ModelConfig(name=str(directory), weights="random")


def problem_of(config: ModelConfig) -> str:
    with pytest.raises(SuiteError) as caught:
        check_model(config, num_labels=2, max_length=8, source="s.toml")
    assert {fault.key for fault in caught.value.faults} == {"model.name"}
    return caught.value.message


def test_a_right_configuration_makes_a_model(tmp_path: Path) -> None:
    assert check_model(written(tmp_path), num_labels=2, max_length=8, source="s.toml") is not None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": "big"}, ["config.json: hidden_size", '"big", a string', "a whole number from 1"]),
        ({"num_attention_heads": 0}, ["config.json: num_attention_heads is 0"]),
        ({"num_hidden_layers": -2, "vocab_size": True}, ["num_hidden_layers is -2", "vocab_size is true"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000", "to 10,000"]),
        ({"layer_norm_eps": "x"}, ["StrictDataclassFieldValidationError", "layer_norm_eps", "'x'"]),
        ({"num_attention_heads": 5}, ["not a multiple"]),
        ({"pad_token_id": 900}, ["AssertionError", "num_embeddings"]),
        ({"hidden_act": "nosuch"}, ["KeyError", "nosuch"]),
        ({"model_type": "nosuch"}, ["knows no architecture", '"nosuch"', "transformers"]),
        ({"model_type": None}, ["doesn't say what it is of", '"model_type": "bert"']),
        ({"model_type": "mine", "auto_map": MAP}, ["code of its own (auto_map)", "doesn't run such code"]),
    ],
)
def test_a_wrong_configuration_is_a_fault(tmp_path: Path, values: dict[str, Any], words: list[str]) -> None:
    said = problem_of(written(tmp_path, **values))
    for word in words:
        assert word in said


def test_several_wrong_sizes_are_told_together(tmp_path: Path) -> None:
    assert "2 faults" in problem_of(written(tmp_path, hidden_size=0, vocab_size="many"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{nope", "is not JSON"), ("[1]", "holds [1]"), ("[" * 5000, "is not JSON"), ("\udcff", "is not JSON")],
)
def test_a_file_that_is_no_table_is_a_fault(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert words in problem_of(ModelConfig(name=str(tmp_path), weights="random"))


def test_a_directory_without_a_configuration_says_so(tmp_path: Path) -> None:
    assert f"there is no config.json in {tmp_path}" in problem_of(ModelConfig(name=str(tmp_path)))


def test_nobody_is_asked_whether_code_of_a_models_own_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers would ask on the terminal, and import the code after a yes."""
    asked = written(tmp_path, model_type="mine", auto_map=MAP)
    (tmp_path / "configuration_mine.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    problem_of(asked)
    with pytest.raises(SuiteError, match="code of its own"):
        usual_task(asked, source="s.toml")
    assert "[y/N]" not in capsys.readouterr().out
    assert not (tmp_path / "was-run").exists()


def test_code_beside_an_architecture_that_transformers_has_is_ignored(tmp_path: Path) -> None:
    config = written(tmp_path, auto_map=MAP)
    made = check_model(config, num_labels=2, max_length=8, source="s.toml")
    assert type(made).__module__.startswith("transformers.models.bert")


def test_a_librarys_refusal_of_code_is_told_in_our_words() -> None:
    own_words = pytest.raises(SuiteError, match=r"'owner/mine': this model brings code of its own")
    with own_words, as_fault(ModelConfig(name="owner/mine"), "s.toml", "classification"):
        raise ValueError("... Please pass the argument `trust_remote_code=True` to allow it")


def test_a_long_message_ends_at_a_word() -> None:
    with pytest.raises(SuiteError) as caught, as_fault(ModelConfig(name="m"), "s.toml", "classification"):
        raise TypeError("word " * 200)
    assert "word ...; expected" in caught.value.message


def test_a_lack_of_memory_is_no_fault_of_a_configuration() -> None:
    with pytest.raises(MemoryError), as_fault(ModelConfig(name="m"), "s.toml", "classification"):
        raise MemoryError
