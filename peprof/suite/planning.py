"""Suite -> runs: the matrix expanded, and a stable id for each run made from what decides its result."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from peprof.suite.schema import (
    METHOD_FIELDS,
    TEXT_TO_TEXT_KEYS,
    DataConfig,
    LimitsConfig,
    MethodConfig,
    ModelConfig,
    Part,
    Phase,
    ShortConfig,
    Suite,
    TrainConfig,
    method_address,
)

_Part = TypeVar("_Part", bound=Part)

_LONGEST_VALUE = 40  # characters of an option's value in a label


class RunSpec(Part):
    """Everything one run needs: one method, one seed, one point of the matrix.

    Args:
        suite: the suite's name.
        phases: what is done.
        train: with the method's overrides laid in; its ``seeds`` are those of the suite.
        method: with all its options, defaults included.
        seed: of this run.
        device: ``cpu`` or ``cuda``.
        offline_reason: why the suite's ``[offline]`` overlay was laid over it; ``None`` when it was not.
        content: digest of the data's rows and of a local model's files: a changed file is another run;
            ``None`` when planned without looking at them.
    """

    suite: str
    phases: tuple[Phase, ...]
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    short: ShortConfig
    limits: LimitsConfig
    method: MethodConfig
    seed: int
    device: str
    offline_reason: str | None = None
    content: str | None = None

    @property
    def run_id(self) -> str:
        """``LABEL-sSEED-HASH``: equal for equal work, different where anything that decides it differs.

        Left out of the hash: the suite's name, the limits, what of ``train`` changes no result, why it ran
        offline, and what the method overrides in ``train``, where it is laid in already.
        """
        decides = self.model_dump(mode="json", exclude={"suite", "limits", "offline_reason", "seed"})
        if self.content is None:
            decides.pop("content")
        for name in NOT_DECIDING:
            decides["train"].pop(name)
        for name in ("label", "learning_rate", "weight_decay"):
            decides["method"].pop(name)
        for part, names in _LATER_KEYS.items():
            config = getattr(self, part)
            for name in names:
                if getattr(config, name) == type(config).model_fields[name].get_default(
                    call_default_factory=True
                ):
                    decides[part].pop(name)
        if self.short.by_default:  # before there was a least time, the steps alone were the default
            decides["short"].pop("min_seconds")
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.method.label}-s{self.seed}-{digest}"


NOT_DECIDING = ("seeds", "target", "checkpoint_every_seconds", "save_adapter")
"""Keys of ``train`` that change no result: other runs' seeds, what is kept of a run, what is said of it."""

_LATER_KEYS: dict[str, tuple[str, ...]] = {
    "model": ("quantization",),
    "data": ("task", *TEXT_TO_TEXT_KEYS, "metrics"),
    "train": (
        "group_by_length", "optimizer_options", "gradient_accumulation_steps", "autocast", "max_seconds",
        "keep", "early_stopping_patience",
    ),
    "short": ("energy_seconds", "inference", "extra_warmup_steps", "min_seconds", "rounds", "estimate"),
    "method": ("gradient_checkpointing",),
}  # fmt: skip
"""Keys that came after the first results: with their defaults they leave the ids as they were."""


def plan(suite: Suite, *, device: str, offline_reason: str | None = None) -> tuple[RunSpec, ...]:
    """All runs of a suite, each once: by matrix point, then seed, then method.

    The methods come innermost, so that a whole leaderboard exists after the first seed. What a short phase
    measures doesn't depend on the seed: a suite of short phases alone is planned with its first seed.

    Args:
        suite: checked; its offline variant where that is to be run.
        device: ``cpu`` or ``cuda``.
        offline_reason: why the offline variant is run; ``None`` when it isn't.
    """
    seeds = suite.train.seeds if "full" in suite.phases else suite.train.seeds[:1]
    methods = expanded_methods(suite)
    runs: dict[str, RunSpec] = {}
    for point in _points(suite):
        for seed, method in itertools.product(seeds, methods):
            spec = RunSpec(
                suite=suite.name,
                phases=suite.phases,
                model=point["model"],
                data=point["data"],
                train=_with_overrides(point["train"], method),
                short=point["short"],
                limits=suite.limits,
                method=method,
                seed=seed,
                device=device,
                offline_reason=offline_reason,
            )
            runs.setdefault(spec.run_id, spec)
    return tuple(runs.values())


def deciding_metrics(suite: Suite) -> tuple[str, ...]:
    """By what the suite's tables decide which method is best, each once."""
    return tuple(dict.fromkeys(point["data"].judged_by[0] for point in _points(suite)))


def expanded_methods(suite: Suite) -> tuple[MethodConfig, ...]:
    """The suite's methods, each multiplied by the matrix keys that address it.

    A variant's label says what it is: ``lora`` with ``methods.lora.rank = [4, 8]`` becomes ``lora@rank=4``
    and ``lora@rank=8``.
    """
    axes: dict[str, dict[str, tuple[Any, ...]]] = {}
    labels = [method.label for method in suite.methods]
    for key, values in suite.matrix.items():
        address = method_address(key, labels)
        if address is not None:
            axes.setdefault(address[0], {})[address[1]] = values
    return tuple(variant for method in suite.methods for variant in _variants(method, axes.get(method.label)))


def _variants(method: MethodConfig, axes: Mapping[str, tuple[Any, ...]] | None) -> Iterator[MethodConfig]:
    if not axes:
        yield method
        return
    named = [list(zip(_words(values), values, strict=True)) for values in axes.values()]
    for combination in itertools.product(*named):
        changes = {option: value for option, (_, value) in zip(axes, combination, strict=True)}
        suffix = ",".join(f"{option}={word}" for option, (word, _) in zip(axes, combination, strict=True))
        own = {name: changes.pop(name) for name in METHOD_FIELDS if name in changes}
        yield MethodConfig.model_validate(
            {
                **dict(method),
                **own,
                "options": {**method.options, **changes},
                "label": f"{method.label}@{suffix}",
            }
        )


def _words(values: Sequence[Any]) -> list[str]:
    """Each value in characters that a label may have; values that differ get words that differ."""
    words: list[str] = []
    meanings: dict[str, Any] = {}
    for index, value in enumerate(values):
        items = value if isinstance(value, tuple) else (value,)
        text = "+".join(str(item).lower() if isinstance(item, bool | None) else str(item) for item in items)
        word = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
        if len(word) > _LONGEST_VALUE or meanings.get(word, value) != value:
            word = f"{word[: _LONGEST_VALUE - 4]}-{index + 1}"
        meanings[word] = value
        words.append(word)
    return words


def _points(suite: Suite) -> Iterator[dict[str, Any]]:
    """The sections ``model``, ``data``, ``train`` and ``short`` at each point of the matrix."""
    axes = {key: values for key, values in suite.matrix.items() if not key.startswith("methods.")}
    for combination in itertools.product(*axes.values()):
        point: dict[str, Any] = {name: getattr(suite, name) for name in ("model", "data", "train", "short")}
        # Whole tables first: the other keys vary what is in them.
        for key, value in sorted(zip(axes, combination, strict=True), key=lambda item: item[0] != "data"):
            if key == "data":
                point["data"] = value
                continue
            section, _, name = key.partition(".")
            changes = {name: value}
            if key in ("data.name", "data.path"):  # the one replaces the other
                changes = {"name": None, "path": None, **changes}
            point[section] = _changed(point[section], changes)
        yield point


def _with_overrides(train: TrainConfig, method: MethodConfig) -> TrainConfig:
    own = {"learning_rate": method.learning_rate, "weight_decay": method.weight_decay}
    return _changed(train, {name: value for name, value in own.items() if value is not None})


def _changed(part: _Part, changes: Mapping[str, Any]) -> _Part:
    """A copy of a section with some values replaced, checked anew."""
    return type(part).model_validate({**dict(part), **changes})
