"""What a task asks for: a model's kind, what a tokenizer must know, examples as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from peprof.errors import Fault, SuiteError
from peprof.suite.metrics import Task
from peprof.suite.schema import DataConfig
from peprof.training.batches import EncodedSplit, RegressionSplit
from peprof.training.data import Split
from peprof.training.language_modelling import LanguageModellingSplit
from peprof.training.text_to_text import TextToTextSplit, make_targets

_AUTO_CLASSES: dict[Task, Any] = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "text-to-text": AutoModelForSeq2SeqLM,
    "language-modelling": AutoModelForCausalLM,
}
WANTED_MODELS: dict[Task, str] = {
    "classification": "a model for sequence classification that transformers can load",
    "regression": "a model for sequence classification that transformers can load",
    "text-to-text": "an encoder-decoder for text generation that transformers can load, such as t5-base",
    "language-modelling": "a decoder that transformers can load, such as Llama-3.2-1B",
}
"""What a model must be for each task, in words."""

_OPTIONS: dict[Task, dict[str, Any]] = {
    # What a checkpoint was fine-tuned for before says nothing of what it is to do now.
    "classification": {"problem_type": "single_label_classification"},
    "regression": {"problem_type": "regression"},
    # A decoder that is trained reads no keys and values of earlier steps, so none are collected.
    "text-to-text": {"use_cache": False},
    "language-modelling": {"use_cache": False},
}


def auto_class(task: Task) -> Any:
    """The class of transformers that makes a task's models."""
    return _AUTO_CLASSES[task]


def task_options(task: Task, num_labels: int = 0) -> dict[str, Any]:
    """What a task lays over a model's configuration.

    Args:
        task: what the model is for.
        num_labels: outputs of its head; 0 for a model that has none.
    """
    return {**_OPTIONS[task], **({"num_labels": num_labels} if num_labels else {})}


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
    known = type(geometry) in auto_class(task)._model_mapping
    classifies = task in ("classification", "regression")
    model = f"'{name}' ({geometry.model_type})"
    expected = WANTED_MODELS[task]
    if task == "language-modelling":
        if known and not both and not _looks_ahead(geometry):
            return
        problem = f"{model} is no decoder that predicts each next token"
        expected += "; or data.task = 'classification'" if not both else "; or data.task = 'text-to-text'"
    elif known and (both or classifies):
        return
    elif task == "text-to-text":
        problem = f"{model} is no encoder-decoder that writes text"
        expected += "; or data.task = 'classification'"
    elif both and type(geometry) in auto_class("text-to-text")._model_mapping:
        problem = f"{model} writes text and has no classifier"
        expected = "data.task = 'text-to-text', or a model for sequence classification"
    else:
        problem = f"{model} has no classifier"
    raise SuiteError(source, [Fault(key="model.name", problem=problem, expected=expected)])


def _looks_ahead(geometry: PretrainedConfig) -> bool:
    """Whether a token sees those after it, as in BERT: predicting them would be copying."""
    masked = type(geometry) in AutoModelForMaskedLM._model_mapping
    return masked and not getattr(geometry, "is_decoder", False)


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
        SuiteError: the words of a text-to-text task can't be told apart by this tokenizer, or for language
            modelling it has no end.
    """
    length, judged_by = data.max_length, data.judged_by
    if data.task == "classification":
        return EncodedSplit(split, tokenizer, length, judged_by=judged_by)
    if data.task == "regression":
        dtype = geometry.dtype if isinstance(geometry.dtype, torch.dtype) else torch.float32
        return RegressionSplit(split, tokenizer, length, judged_by=judged_by, dtype=dtype)
    if data.task == "language-modelling":
        return LanguageModellingSplit(split, tokenizer, length, judged_by=judged_by, source=source)
    targets = make_targets(data, tokenizer, geometry, source=source)
    return TextToTextSplit(split, tokenizer, length, prefix=data.prefix, targets=targets, judged_by=judged_by)
