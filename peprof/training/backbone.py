"""The backbone and its tokenizer: from the hub, a directory, embedded, or random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from peprof.devices import as_out_of_memory
from peprof.errors import Fault, SuiteError
from peprof.events import Progress
from peprof.results.record import ModelFacts
from peprof.suite.schema import ModelConfig
from peprof.training.embedded import tiny
from peprof.training.geometries import geometry_name, known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.sources import EMBEDDED_MODEL, WEIGHT_FILES, model_needs_hub


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
    if config.weights == "pretrained" and config.name == EMBEDDED_MODEL:
        model, tokenizer = tiny.load_tiny(
            num_labels=num_labels, progress=progress, attention=config.attention, dtype=dtype
        )
        return Backbone(model=model, tokenizer=tokenizer, facts=_facts(model, "embedded", synthetic=True))
    with _as_fault(config, source):
        if config.weights == "random":
            model = _random(config, num_labels=num_labels, dtype=dtype)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                config.name,
                num_labels=num_labels,
                revision=config.revision,
                attn_implementation=config.attention,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # a head for other classes is replaced by a new one
            )
        tokenizer, origin = _tokenizer(config, model.config, texts)
    return Backbone(
        model=model, tokenizer=tokenizer, facts=_facts(model, origin, synthetic=config.weights == "random")
    )


def fetch_model(config: ModelConfig, *, source: str, say: Callable[[Progress], None]) -> None:
    """Downloads what isn't cached yet, once for all runs.

    Raises:
        SuiteError: it can't be loaded.
    """
    if not model_needs_hub(config):
        return
    say(Progress(phase=f"setup: downloading {config.name}"))
    with _as_fault(config, source):
        AutoConfig.from_pretrained(config.name, revision=config.revision)
        if config.weights == "pretrained":  # loading is what fetches exactly the files that it needs
            AutoTokenizer.from_pretrained(config.name, revision=config.revision)
            AutoModelForSequenceClassification.from_pretrained(config.name, revision=config.revision)


def check_model(
    config: ModelConfig, *, num_labels: int, max_length: int, source: str, fetched: bool = True
) -> PreTrainedModel | None:
    """Builds the model without memory for its weights (on ``meta``) and sees that all it needs is there.

    Args:
        config: what is asked for; a hub's model must have been fetched.
        num_labels: classes of the head.
        max_length: tokens of the longest example.
        source: the suite's file, for messages.
        fetched: whether a hub's model has been fetched; if not, and it isn't cached, there is nothing to see.

    Returns:
        The model on ``meta``, to try methods on; ``None`` when it has yet to be fetched.

    Raises:
        SuiteError: files are missing, the kernel isn't there, or examples have more tokens than positions.
    """
    if not fetched and model_needs_hub(config):
        return None
    directory = Path(config.name)
    faults: list[Fault] = []
    if directory.is_dir() and config.weights == "pretrained":
        if not any((directory / name).is_file() for name in WEIGHT_FILES):
            expected = f"{' or '.join(WEIGHT_FILES)}; or weights = 'random'"
            problem = f"there are no weights in {directory}"
            faults.append(Fault(key="model.name", problem=problem, expected=expected))
        else:
            with _as_fault(config, source):
                AutoTokenizer.from_pretrained(directory)
    with _as_fault(config, source), torch.device("meta"):
        model = _random(config, num_labels=num_labels, dtype=getattr(torch, config.dtype))
    longest = _positions(model.config)
    if longest is not None and max_length > longest:
        problem = f"{max_length} tokens are more than '{config.name}' has positions for"
        faults.append(Fault(key="data.max_length", problem=problem, expected=f"at most {longest}"))
    if faults:
        raise SuiteError(source, faults)
    return model


def _positions(config: PretrainedConfig) -> int | None:
    """Tokens that learnt positions allow; ``None`` where positions are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or config.model_type == "t5":
        return None
    # RoBERTa counts positions from the padding's id on.
    return int(positions) - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


@contextmanager
def _as_fault(config: ModelConfig, source: str) -> Iterator[None]:
    """Turns what the libraries say of a model into a fault of the suite."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        if as_out_of_memory(error) is not None:
            raise
        raise SuiteError(source, [_load_fault(config, error)]) from error


def _geometry(config: ModelConfig, *, num_labels: int) -> PretrainedConfig:
    if config.name == EMBEDDED_MODEL:
        return tiny.tiny_config(num_labels=num_labels)
    if config.weights == "random" and geometry_name(config.name) is not None:
        return known_config(config.name, num_labels=num_labels)
    found = AutoConfig.from_pretrained(config.name, revision=config.revision, num_labels=num_labels)
    assert isinstance(found, PretrainedConfig)
    return found


def model_digest(config: ModelConfig) -> str | None:
    """Tells a changed local model from the one before; ``None`` for others, whose name says what they are.

    Of each file its name, its size and its first and last MiB are looked at: whole weights would take long.
    """
    directory = Path(config.name)
    if not directory.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model"):
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(f"{path.name}:{size}:".encode() + file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _random(config: ModelConfig, *, num_labels: int, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights, initialised as the architecture does before pre-training."""
    geometry = _geometry(config, num_labels=num_labels)
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
    if any(word in cause for word in ("attn_implementation", "scaled_dot_product", "flash_attn", "Flash")):
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
