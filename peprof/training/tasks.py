"""What a task asks for: a model's kind, what a tokenizer must know, examples as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from peprof.errors import Fault, SuiteError
from peprof.suite.metrics import Task
from peprof.suite.schema import DataConfig
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split
from peprof.training.text_to_text import TextToTextSplit, make_targets

_AUTO_CLASSES: dict[Task, Any] = {
    "classification": AutoModelForSequenceClassification,
    "text-to-text": AutoModelForSeq2SeqLM,
}
WANTED_MODELS: dict[Task, str] = {
    "classification": "a model for sequence classification that transformers can load",
    "text-to-text": "an encoder-decoder for text generation that transformers can load, such as t5-base",
}
"""What a model must be for each task, in words."""


def auto_class(task: Task) -> Any:
    """The class of transformers that makes a task's models."""
    return _AUTO_CLASSES[task]


def task_options(task: Task) -> dict[str, Any]:
    """What a task lays over a model's configuration.

    A decoder that is trained reads no keys and values of earlier steps, so none are collected.
    """
    return {"use_cache": False} if task == "text-to-text" else {}


def check_architecture(geometry: PretrainedConfig, task: Task, *, name: str, source: str) -> None:
    """Sees that a model of this configuration can do the task.

    Args:
        geometry: the model's configuration.
        task: what it is to do.
        name: the model's, for the message.
        source: the suite's file, for messages.

    Raises:
        SuiteError: it can't.
    """
    both = bool(getattr(geometry, "is_encoder_decoder", False))
    if type(geometry) in auto_class(task)._model_mapping and (both or task == "classification"):
        return
    if task == "text-to-text":
        problem = f"'{name}' ({geometry.model_type}) is no encoder-decoder that writes text"
        expected = f"{WANTED_MODELS[task]}; or data.task = 'classification'"
    elif both and type(geometry) in auto_class("text-to-text")._model_mapping:
        problem = f"'{name}' ({geometry.model_type}) writes text and has no classifier"
        expected = "data.task = 'text-to-text', or a model for sequence classification"
    else:
        problem = f"'{name}' ({geometry.model_type}) has no classifier"
        expected = WANTED_MODELS[task]
    raise SuiteError(source, [Fault(key="model.name", problem=problem, expected=expected)])


def start_decoding(model: PreTrainedModel) -> None:
    """Lets a decoder that doesn't know what it starts from start from padding, as T5 does."""
    config: Any = model.config
    if (
        getattr(config, "is_encoder_decoder", False)
        and getattr(config, "decoder_start_token_id", None) is None
    ):
        config.decoder_start_token_id = config.pad_token_id


def tokenizer_texts(train: Split, data: DataConfig) -> Iterator[str]:
    """All texts that a tokenizer made from the data must know: those a model reads and those it writes."""
    for row in train.texts:
        yield from row
    if data.task == "text-to-text":
        yield data.prefix
        yield from data.verbalizers


def encode(
    split: Split,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    geometry: PretrainedConfig,
    *,
    source: str,
) -> EncodedSplit:
    """A split as token ids, with what the task makes of its classes.

    Args:
        split: the texts.
        data: the task, its prefix and words, and the longest lengths.
        tokenizer: the model's.
        geometry: the model's configuration.
        source: the suite's file, for messages.

    Raises:
        SuiteError: the words of a text-to-text task can't be told apart by this tokenizer.
    """
    if data.task == "classification":
        return EncodedSplit(split, tokenizer, data.max_length)
    targets = make_targets(data, tokenizer, geometry, source=source)
    return TextToTextSplit(split, tokenizer, data.max_length, prefix=data.prefix, targets=targets)
