"""The backbone and its tokenizer: from the hub, a directory, embedded, or random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from peprof.errors import Fault, SuiteError
from peprof.events import Progress
from peprof.results.record import ModelFacts
from peprof.suite.metrics import Task
from peprof.suite.schema import ModelConfig
from peprof.training.configurations import as_fault, read_configuration
from peprof.training.embedded import tiny
from peprof.training.geometries import untie_output
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.quantising import quantise, quantise_on_meta
from peprof.training.sources import EMBEDDED_MODEL, WEIGHT_FILES, model_needs_hub
from peprof.training.tasks import auto_class, check_architecture, start_decoding, task_options


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
    task: Task = "classification",
    words: Sequence[str] = (),
) -> Backbone:
    """Loads or makes a model for a task: a sequence classifier, an encoder-decoder that writes, a decoder.

    Args:
        config: what is asked for.
        num_labels: outputs of the head, 1 for regression, 0 for a model that has none. A new head is
            initialised from torch's global generator: seed that.
        texts: gives the training texts, where a tokenizer must be made from them.
        source: the suite's file, for messages.
        progress: told about the pre-training of the embedded model.
        task: what the model is for.
        words: that are one token each, where a tokenizer must be made for a model that writes.

    Raises:
        SuiteError: the model can't be loaded, is of a kind that can't do the task, or its architecture has no
            such attention kernel.
    """
    dtype: torch.dtype = getattr(torch, config.dtype)
    _check_task(config, task, source)
    if config.weights == "pretrained" and config.name == EMBEDDED_MODEL:
        model, tokenizer = tiny.load_tiny(
            num_labels=num_labels, progress=progress, attention=config.attention, dtype=dtype
        )
        if config.quantization is not None:
            quantise(model, config.quantization)
        return Backbone(model=model, tokenizer=tokenizer, facts=_facts(model, "embedded", synthetic=True))
    with as_fault(config, source, task):
        if config.weights == "random":
            model = _random(config, num_labels=num_labels, dtype=dtype, task=task, source=source)
        else:
            model = auto_class(task).from_pretrained(
                config.name,
                revision=config.revision,
                attn_implementation=config.attention,
                dtype=dtype,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # a head for other classes is replaced by a new one
                **task_options(task, num_labels),
            )
        start_decoding(model)
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False  # nobody would read what it keeps of each layer
        if config.quantization is not None:
            quantise(model, config.quantization)
        tokenizer, origin = _tokenizer(config, model.config, texts, words)
    return Backbone(
        model=model, tokenizer=tokenizer, facts=_facts(model, origin, synthetic=config.weights == "random")
    )


def load_tokenizer(
    config: ModelConfig, *, texts: Callable[[], Iterable[str]], words: Sequence[str], source: str, task: Task
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """The tokenizer and the configuration that a backbone would have, without its weights.

    Raises:
        SuiteError: they can't be loaded.
    """
    geometry = read_configuration(config, source=source, task=task)
    with as_fault(config, source, task):
        return _tokenizer(config, geometry, texts, words)[0], geometry


def fetch_model(
    config: ModelConfig, *, source: str, say: Callable[[Progress], None], task: Task = "classification"
) -> None:
    """Downloads what isn't cached yet, once for all runs.

    Raises:
        SuiteError: it can't be loaded.
    """
    if not model_needs_hub(config):
        return
    say(Progress(phase=f"setup: downloading {config.name}"))
    _check_task(config, task, source)  # before gigabytes come
    with as_fault(config, source, task):
        if config.weights == "pretrained":  # loading is what fetches exactly the files that it needs
            AutoTokenizer.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
            auto_class(task).from_pretrained(config.name, revision=config.revision, trust_remote_code=False)


def check_model(
    config: ModelConfig,
    *,
    num_labels: int,
    max_length: int,
    source: str,
    fetched: bool = True,
    task: Task = "classification",
) -> PreTrainedModel | None:
    """Builds the model without memory for its weights (on ``meta``) and sees that all it needs is there.

    Args:
        config: what is asked for; a hub's model must have been fetched.
        num_labels: classes of the head.
        max_length: tokens of the longest example.
        source: the suite's file, for messages.
        fetched: whether a hub's model has been fetched; if not, and it isn't cached, there is nothing to see.
        task: what the model is for.

    Returns:
        The model on ``meta``, quantised where that is asked for, to try methods on; ``None`` when it has yet
        to be fetched.

    Raises:
        SuiteError: files are missing, the model is of a kind that can't do the task, the kernel isn't there,
            or examples have more tokens than positions.
    """
    if not fetched and model_needs_hub(config):
        return None
    _check_task(config, task, source)
    directory = Path(config.name)
    faults: list[Fault] = []
    if directory.is_dir() and config.weights == "pretrained":
        if not any((directory / name).is_file() for name in WEIGHT_FILES):
            expected = f"{' or '.join(WEIGHT_FILES)}; or weights = 'random'"
            problem = f"there are no weights in {directory}"
            faults.append(Fault(key="model.name", problem=problem, expected=expected))
        else:
            with as_fault(config, source, task):
                AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    with as_fault(config, source, task), torch.device("meta"):
        dtype: torch.dtype = getattr(torch, config.dtype)
        model = _random(config, num_labels=num_labels, dtype=dtype, task=task, source=source)
    if config.quantization is not None:
        quantise_on_meta(model, config.quantization)
    longest = positions(model.config)
    if longest is not None and max_length > longest:
        problem = f"{max_length} tokens are more than '{config.name}' has positions for"
        faults.append(Fault(key="data.max_length", problem=problem, expected=f"at most {longest}"))
    if faults:
        raise SuiteError(source, faults)
    return model


def positions(config: PretrainedConfig) -> int | None:
    """Tokens that learnt positions allow; ``None`` where positions are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or config.model_type == "t5":
        return None
    # RoBERTa counts positions from the padding's id on.
    return int(positions) - ((config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0)


def usual_task(config: ModelConfig, *, source: str) -> Task:
    """What a model of this kind is mostly fine-tuned for, for whoever names a model and no task.

    Raises:
        SuiteError: its configuration can't be loaded.
    """
    geometry = read_configuration(config, source=source, task="classification")
    tasks: tuple[Task, ...] = ("text-to-text", "language-modelling")
    for task in tasks:
        try:
            check_architecture(geometry, task, name=config.name, source=source)
        except SuiteError:
            continue
        return task
    return "classification"


def _check_task(config: ModelConfig, task: Task, source: str) -> None:
    geometry = read_configuration(config, source=source, task=task)
    check_architecture(geometry, task, name=config.name, source=source)


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


def _random(
    config: ModelConfig, *, num_labels: int, dtype: torch.dtype, task: Task, source: str
) -> PreTrainedModel:
    """Random weights, initialised as the architecture does before pre-training."""
    geometry = read_configuration(config, source=source, task=task)
    for name, value in task_options(task, num_labels).items():
        setattr(geometry, name, value)
    made = auto_class(task).from_config(
        geometry, attn_implementation=config.attention, dtype=dtype, trust_remote_code=False
    )
    assert isinstance(made, PreTrainedModel)
    untie_output(made)
    return made


def _tokenizer(
    config: ModelConfig,
    geometry: PretrainedConfig,
    texts: Callable[[], Iterable[str]],
    words: Sequence[str],
) -> tuple[PreTrainedTokenizerBase, str]:
    directory = Path(config.name)
    if config.weights == "random" and not (directory / "tokenizer_config.json").is_file():
        # Never asks the hub: random weights of a known geometry are promised to need no download.
        return make_tokenizer(texts(), geometry, words=words), "made from the data"
    tokenizer = AutoTokenizer.from_pretrained(config.name, revision=config.revision, trust_remote_code=False)
    return tokenizer, "directory" if directory.is_dir() else "hub"


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
