"""What a suite may say: frozen, strict types with units in their names.

These types are shared by everything that runs or reads a suite. They never import torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from peprof.suite.metrics import DEFAULT_METRICS, METRICS, Task

Phase = Literal["short", "full"]
Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["nf4", "nf4-single", "int8"]
OptimizerName = Literal[
    "adamw", "adam", "nadam", "radam", "adagrad", "adafactor", "rmsprop", "sgd", "adamw-8bit", "lion-8bit"
]
ScheduleName = Literal["linear", "cosine", "constant", "polynomial", "inverse_sqrt"]
# Labels become parts of directory names, which most file systems limit to 255 bytes.
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+@=,-]*$", max_length=120)]


def none_word(value: object) -> object:
    """``"none"`` -> ``None``: TOML has no null, and some limits have to be switched off by name."""
    return None if value == "none" else value


def frozen_value(value: Any) -> Any:
    """Lists become tuples, all the way down: equal before and after a trip through JSON."""
    if isinstance(value, list | tuple):
        return tuple(frozen_value(item) for item in value)
    if isinstance(value, dict):
        return {key: frozen_value(item) for key, item in value.items()}
    return value


# NumPy's generators take no more than 32 bits, torch's take all of these.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
OptionalCount = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(none_word)]
OptionalPositive = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(none_word)]
OptionalPercent = Annotated[Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(none_word)]


class Part(BaseModel):
    """A table of a suite: immutable, strict about types, unknown keys are faults."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Part):
    """``[model]``: the backbone.

    Args:
        name: hub id, local directory, or ``peprof/tiny`` (embedded).
        weights: ``pretrained``, or ``random``: the known geometry alone, nothing is downloaded.
        dtype: of parameters and activations.
        attention: the attention kernel, as transformers names it.
        revision: a hub revision.
        quantization: in what the backbone's linear layers hold their weights, by bitsandbytes: ``nf4`` (4
            bits as in QLoRA, whose scales are quantised as well), ``nf4-single`` (whose scales are not),
            ``int8`` (LLM.int8()), or ``none``. Output layer and head stay as they are; products are in
            ``dtype``, so ``train.autocast`` may not be asked for.
    """

    name: Annotated[str, Field(min_length=1)]
    weights: Literal["pretrained", "random"] = "pretrained"
    dtype: Dtype = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    revision: str | None = None
    quantization: Annotated[Quantization | None, BeforeValidator(none_word)] = None


TEXT_TO_TEXT_KEYS = ("prefix", "verbalizers", "max_target_length")
"""What ``[data]`` says of a text-to-text task alone."""


class DataConfig(Part):
    """``[data]``: what is trained on. Exactly one of ``name`` and ``path``.

    Args:
        name: hub id, or ``peprof/reviews`` (embedded).
        path: a directory with ``train`` and ``validation`` as .tsv, .csv, .jsonl or .parquet.
        subset: a hub data set's configuration name; with ``path``, a directory in that one.
        text: the column with the text, or the two columns of a sentence pair, or (language-modelling) of a
            prompt and its completion: only the completion is learned.
        label: the column with the class, or (regression) the number.
        max_length: tokens an example is cut to; the short phase pads every example to it.
        train_split: name of the split that is trained on.
        validation_split: name of the split that is evaluated on.
        train_rows: use the first rows only; ``None`` uses all.
        validation_rows: use the first rows only; ``None`` uses all.
        task: ``classification`` or ``regression`` by a head, ``text-to-text``: an encoder-decoder writes a
            class as a word, or ``language-modelling``: a decoder predicts each next token.
        prefix: (text-to-text) stands before each text, ``sst2 sentence: ``.
        verbalizers: (text-to-text) the word of each class, in order.
        max_target_length: (text-to-text) tokens that a written answer may have, its end included; the short
            phase pads every target to it.
        metrics: what answers are judged by, see ``peprof.suite.metrics``; the first decides which checkpoint,
            and which method, is best. The task's own unless given.
    """

    name: str | None = None
    path: str | None = None
    subset: str | None = None
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("sentence",)
    label: str = "label"
    max_length: Annotated[int, Field(ge=4, le=1_000_000)] = 128
    train_split: str = "train"
    validation_split: str = "validation"
    train_rows: OptionalCount = None
    validation_rows: OptionalCount = None
    # Each of these is checked against those before it, so the order counts.
    task: Task = "classification"
    prefix: str = ""
    verbalizers: Annotated[tuple[str, ...], Field(validate_default=True)] = ()
    max_target_length: Annotated[int, Field(ge=2, le=1_000_000)] = 4
    metrics: tuple[str, ...] = ()

    @field_validator("task")
    @classmethod
    def _one_text(cls, task: Task, info: ValidationInfo) -> Task:
        if task == "text-to-text" and len(info.data.get("text", ())) > 1:
            raise ValueError('"classification" for a pair of texts; text-to-text takes one column')
        return task

    @field_validator("verbalizers")
    @classmethod
    def _word_for_each_class(cls, verbalizers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        words = {word.strip() for word in verbalizers}
        wrong = len(words) < max(2, len(verbalizers)) or "" in words
        if info.data.get("task") == "text-to-text" and wrong:
            raise ValueError('one word for each class, all different, as in ["negative", "positive"]')
        return verbalizers

    @field_validator(*TEXT_TO_TEXT_KEYS)
    @classmethod
    def _of_text_to_text(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        default = cls.model_fields[info.field_name].default
        if info.data.get("task", "text-to-text") != "text-to-text" and value != default:
            raise ValueError('nothing here, or task = "text-to-text"')
        return value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        task = info.data.get("task")
        if not metrics:
            return metrics
        fitting = [name for name, metric in METRICS.items() if task in metric.tasks]
        if task is not None and (set(metrics) - set(fitting) or len(set(metrics)) < len(metrics)):
            raise ValueError(f"for {task} each at most once of: {', '.join(fitting)}")
        return metrics

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The metrics that answers are judged by; the first decides."""
        return self.metrics or DEFAULT_METRICS[self.task]

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.name is None) == (self.path is None):
            raise ValueError("give exactly one of 'name' and 'path'")
        return self


class TrainConfig(Part):
    """``[train]``: how a method is trained. A method's table may override the marked ones (*).

    Args:
        batch_size: examples a step.
        epochs: passes over the training split; may be overruled by ``max_steps``.
        max_steps: stop after so many steps; ``None`` for no such limit.
        learning_rate: (*) peak learning rate.
        weight_decay: (*) decoupled weight decay.
        optimizer: by name; ``adamw-8bit`` and ``lion-8bit`` are bitsandbytes', with states in 8 bits.
        optimizer_options: what else the optimizer takes, ``{betas = [0.9, 0.98]}``.
        schedule: of the learning rate after the warm-up.
        warmup_fraction: share of all steps in which the learning rate rises linearly.
        max_grad_norm: clip the gradient's norm to this; ``None`` doesn't clip.
        gradient_accumulation_steps: parts that a batch is cut into, one forward and backward each: the same
            training in less memory. Divides ``batch_size``.
        autocast: operations that bear it are done in this type, parameters keep theirs; ``None`` for none.
        seeds: one run each.
        evaluate_every_steps: evaluate so often; ``None`` evaluates at the end of each epoch.
        evaluation_batch_size: examples a forward pass in evaluation.
        group_by_length: examples of like length share a batch: less padding, the same examples an epoch.
        max_seconds: stop when training steps have taken so long; ``None`` for no such limit. Looked at every
            20 steps, or where these are slow once a second, so that no step waits for it.
        keep: which evaluation is the result: the ``last``, or the ``best`` by the first metric, whose weights
            are then put back.
        early_stopping_patience: stop after so many evaluations in a row without a better first metric;
            ``None`` never does.
        target: a value of the first metric; reports say when it was first reached.
        checkpoint_every_seconds: keep the state of a training so often, so that a killed one goes on from
            there; ``None`` never does.
        save_adapter: keep what a full phase has trained, in ``adapter/`` beside the record. No other run: one
            that is finished isn't repeated for it.
    """

    batch_size: Annotated[int, Field(ge=1)] = 32
    epochs: Annotated[int, Field(ge=1)] = 3
    max_steps: OptionalCount = None
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: OptimizerName = "adamw"
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleName = "linear"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.06
    max_grad_norm: OptionalPositive = 1.0
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    autocast: Annotated[Literal["bfloat16", "float16"] | None, BeforeValidator(none_word)] = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    evaluate_every_steps: OptionalCount = None
    evaluation_batch_size: Annotated[int, Field(ge=1)] = 64
    group_by_length: bool = False
    max_seconds: OptionalPositive = None
    keep: Literal["last", "best"] = "last"
    early_stopping_patience: OptionalCount = None
    target: float | None = None
    checkpoint_every_seconds: OptionalPositive = 120.0
    save_adapter: bool = False

    @field_validator("optimizer_options")
    @classmethod
    def _frozen_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: frozen_value(value) for key, value in options.items()}

    @field_validator("gradient_accumulation_steps")
    @classmethod
    def _divides_the_batch(cls, parts: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")
        if batch_size is not None and batch_size % parts:
            raise ValueError(f"a divisor of train.batch_size = {batch_size}")
        return parts


DEFAULT_STEPS, DEFAULT_SECONDS = 30, 3.0
"""Of the timing pass, both at least, where a suite says neither."""


class ShortConfig(Part):
    """``[short]``: the short phase, which measures memory and latency of single steps.

    Args:
        warmup_steps: steps before measuring, at least; cut short when they take a third of ``max_seconds``.
        extra_warmup_steps: so many more, at most, until steps take equally long.
        steps: measured steps.
        min_seconds: measure more steps until so much time has passed. Where neither this nor ``steps`` is
            given it is 3 s, where only ``steps`` is given there is no such time.
        max_seconds: stop the timing pass sooner, but never below 3 measured steps; ``None``: no limit.
        rounds: so often each method is timed, in turns with the others (A B C, A B C) and each time in a
            process of its own, so that a machine that drifts drifts for all of them. All of the above holds
            for each round. 1: once, in the run itself.
        energy_seconds: how long steps are run to count the device's joules; no time where it has no counter.
            ``None``: they aren't counted.
        inference: also measure what using the model costs, merged and not, beside the plain backbone, which
            is loaded for it once more.
        estimate: also compute a step's memory on tensors without data, as ``peprof estimate`` does, when
            nothing is left to be measured: reports show it beside what was measured, and beside the memory
            there was where that didn't do.
    """

    warmup_steps: Annotated[int, Field(ge=1)] = 5
    extra_warmup_steps: Annotated[int, Field(ge=0)] = 25
    steps: Annotated[int, Field(ge=3)] = DEFAULT_STEPS
    min_seconds: OptionalPositive = None
    max_seconds: OptionalPositive = 60.0
    rounds: Annotated[int, Field(ge=1)] = 1
    energy_seconds: OptionalPositive = 5.0
    inference: bool = False
    estimate: bool = False

    @model_validator(mode="before")
    @classmethod
    def _long_enough(cls, table: Any) -> Any:
        if isinstance(table, dict) and not {"steps", "min_seconds"} & table.keys():
            return {**table, "min_seconds": DEFAULT_SECONDS}
        return table

    @property
    def by_default(self) -> bool:
        """Whether it measures as long as where a suite says nothing of it."""
        return (self.steps, self.min_seconds) == (DEFAULT_STEPS, DEFAULT_SECONDS)


class LimitsConfig(Part):
    """``[limits]``: when a run is given up.

    Args:
        run_seconds: an attempt that takes longer is stopped and recorded as ``timeout``; the next one goes on
            from its last checkpoint. ``None``: no limit.
    """

    run_seconds: OptionalPositive = None


class MethodConfig(Part):
    """One ``[[methods]]`` table.

    Args:
        name: the entry point's name.
        label: what tables call it; unique in a suite; the name unless given.
        options: the method's own options, complete with defaults.
        learning_rate: overrides ``train.learning_rate``.
        weight_decay: overrides ``train.weight_decay``.
        gradient_checkpointing: layers run forward again in backward instead of keeping their activations.
    """

    name: str
    label: Label
    options: dict[str, Any] = Field(default_factory=dict)
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    gradient_checkpointing: bool = False

    @field_validator("options")
    @classmethod
    def _frozen_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: frozen_value(value) for key, value in options.items()}


class PublishedConfig(Part):
    """``published`` in a ``[[methods]]`` table: what is said elsewhere of the method, to stand beside.

    It decides nothing about a run, and no record holds it.

    Args:
        source: where it stands, for people: ``arXiv:2206.06522, table 1``.
        peak_gb: memory, in the source's own GB: whether these are 10^9 or 2^30 bytes few of them say.
        share_of_full: of full fine-tuning's memory; where it isn't given, ``peak_gb`` by that of ``full``.
        trainable_percent: of all parameters.
        accuracy_percent: of the source's data set.
        samples_per_second: in training.
    """

    source: Annotated[str, Field(min_length=1)]
    peak_gb: OptionalPositive = None
    share_of_full: OptionalPositive = None
    trainable_percent: OptionalPercent = None
    accuracy_percent: OptionalPercent = None
    samples_per_second: OptionalPositive = None


METHOD_FIELDS = ("learning_rate", "weight_decay", "gradient_checkpointing")
"""What a method's table may say besides its options; a matrix may vary these too."""


class SuiteHead(Part):
    """What a suite says outside its tables.

    Args:
        name: names the folder of its results.
        description: one line for people.
        phases: what is done with each method; kept once each, ``short`` first.
    """

    name: Label
    description: str = ""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = ("short", "full")

    @field_validator("phases")
    @classmethod
    def _in_order(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        order: tuple[Phase, ...] = ("short", "full")
        return tuple(phase for phase in order if phase in phases)


class Suite(SuiteHead):
    """A whole suite.

    Args:
        methods: at least one; labels are unique.
        matrix: dotted key -> values; every combination is run. ``data`` -> whole ``[data]`` tables.
        published: label -> what is said elsewhere of that method.
        offline: a nested table laid over the suite when the hub can't be reached and nothing is cached;
            ``None`` where there is none, or where it has been laid over.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    short: ShortConfig = ShortConfig()
    limits: LimitsConfig = LimitsConfig()
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)]
    matrix: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    published: dict[str, PublishedConfig] = Field(default_factory=dict)
    offline: dict[str, Any] | None = None

    @field_validator("matrix", "offline")
    @classmethod
    def _frozen_tables(cls, table: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if table is None else {key: frozen_value(value) for key, value in table.items()}

    @model_validator(mode="after")
    def _labels_differ(self) -> Suite:
        labels = [method.label for method in self.methods]
        if len(labels) != len(set(labels)):
            raise ValueError("two methods have one label")
        return self


def method_address(key: str, labels: Iterable[str]) -> tuple[str, str] | None:
    """``methods.LABEL.option`` -> label and option; ``None`` where no method has that label.

    >>> method_address("methods.lora-r8.rank", ["lora", "lora-r8"])
    ('lora-r8', 'rank')
    """
    rest = key.removeprefix("methods.") if key.startswith("methods.") else ""
    for label in sorted(labels, key=len, reverse=True):  # a label may contain dots
        if rest.startswith(f"{label}.") and len(rest) > len(label) + 1:
            return label, rest[len(label) + 1 :]
    return None
