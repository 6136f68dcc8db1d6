"""The backbone and its tokenizer: from the hub, a directory, embedded, or random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from peprof.errors import Fault, SuiteError
from peprof.events import Progress
from peprof.results.record import ModelFacts
from peprof.suite.schema import ModelConfig
from peprof.training.embedded import tiny
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.sources import EMBEDDED_MODEL, model_needs_hub


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A model that is ready for a method, its tokenizer, and what they really are."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: ModelFacts


def load_backbone(
    config: ModelConfig,
    *,
    num_labels: int,
    texts: Callable[[], Iterable[str]],
    source: str,
    progress: Callable[[Progress], None] | None = None,
) -> Backbone:
    """Loads or makes a sequence classifier.

    Args:
        config: what is asked for.
        num_labels: classes of the head. A new head is initialised from torch's global generator: seed that.
        texts: gives the training texts, where a tokenizer must be made from them.
        source: the suite's file, for messages.
        progress: told about the pre-training of the embedded model.

    Raises:
        SuiteError: the model can't be loaded, or its architecture has no such attention kernel.
    """
    dtype: torch.dtype = getattr(torch, config.dtype)
    try:
        if config.weights == "random":
            model = _random(config, num_labels=num_labels, dtype=dtype)
        elif config.name == EMBEDDED_MODEL:
            model, tokenizer = tiny.load_tiny(
                num_labels=num_labels, progress=progress, attention=config.attention, dtype=dtype
            )
            return Backbone(model=model, tokenizer=tokenizer, facts=_facts(model, "embedded", synthetic=True))
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                config.name,
                num_labels=num_labels,
                revision=config.revision,
                attn_implementation=config.attention,
                dtype=dtype,
            )
        tokenizer, origin = _tokenizer(config, model.config, texts)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise SuiteError(source, [_load_fault(config, error)]) from error
    return Backbone(
        model=model, tokenizer=tokenizer, facts=_facts(model, origin, synthetic=config.weights == "random")
    )


def fetch_model(config: ModelConfig, *, source: str, say: Callable[[Progress], None]) -> None:
    """Downloads what isn't cached yet, once for all runs, and sees that a local directory holds a model.

    Raises:
        SuiteError: it can't be loaded.
    """
    try:
        if Path(config.name).is_dir():
            AutoConfig.from_pretrained(config.name)
        elif model_needs_hub(config):
            say(Progress(phase=f"setup: downloading {config.name}"))
            AutoConfig.from_pretrained(config.name, revision=config.revision)
            if config.weights == "pretrained":  # loading is what fetches exactly the files that it needs
                AutoTokenizer.from_pretrained(config.name, revision=config.revision)
                AutoModelForSequenceClassification.from_pretrained(config.name, revision=config.revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise SuiteError(source, [_load_fault(config, error)]) from error


def _random(config: ModelConfig, *, num_labels: int, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights, initialised as the architecture does before pre-training."""
    if config.name == EMBEDDED_MODEL:
        geometry: PretrainedConfig = tiny.tiny_config(num_labels=num_labels)
    else:
        try:
            geometry = known_config(config.name, num_labels=num_labels)
        except KeyError:
            geometry = AutoConfig.from_pretrained(
                config.name, revision=config.revision, num_labels=num_labels
            )
    made = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
        geometry, attn_implementation=config.attention, dtype=dtype
    )
    assert isinstance(made, PreTrainedModel)
    return made


def _tokenizer(
    config: ModelConfig, geometry: PretrainedConfig, texts: Callable[[], Iterable[str]]
) -> tuple[PreTrainedTokenizerBase, str]:
    directory = Path(config.name)
    if config.weights == "random" and not (directory / "tokenizer_config.json").is_file():
        # Never asks the hub: random weights of a known geometry are promised to need no download.
        return make_tokenizer(texts(), geometry), "made from the data"
    tokenizer = AutoTokenizer.from_pretrained(config.name, revision=config.revision)
    return tokenizer, "directory" if directory.is_dir() else "hub"


def _load_fault(config: ModelConfig, error: Exception) -> Fault:
    cause = " ".join(str(error).split())[:400]
    if "attn_implementation" in cause or "attention" in cause.lower():
        return Fault(
            key="model.attention",
            problem=f"'{config.attention}' can't be used with '{config.name}': {cause}",
            expected="eager works everywhere",
        )
    return Fault(
        key="model.name",
        problem=f"'{config.name}' can't be loaded ({type(error).__name__}): {cause}",
        expected="a model for sequence classification that transformers can load",
    )


def _facts(model: PreTrainedModel, tokenizer: str, *, synthetic: bool) -> ModelFacts:
    return ModelFacts(
        architecture=type(model).__name__,
        geometry=describe_geometry(model.config),
        attention=str(model.config._attn_implementation),
        tokenizer=tokenizer,
        synthetic=synthetic,
    )


def describe_geometry(config: PretrainedConfig) -> str:
    """``6L-768d-12h-3072ff-30522v``: layers, width, attention heads, feed-forward width, vocabulary."""
    feedforward = next(
        (
            getattr(config, name)
            for name in ("intermediate_size", "hidden_dim", "d_ff")
            if hasattr(config, name)
        ),
        "?",
    )
    return (
        f"{config.num_hidden_layers}L-{config.hidden_size}d-{config.num_attention_heads}h"
        f"-{feedforward}ff-{config.vocab_size}v"
    )
