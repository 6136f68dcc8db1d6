"""What must be equal for two runs to stand in one table, and which tables that makes of many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from peprof.results.record import RunRecord
from peprof.suite.metrics import DEFAULT_METRICS
from peprof.suite.planning import RunSpec
from peprof.suite.schema import DataConfig, TrainConfig

# The data's name says nothing once its fingerprint is known: equal data may go by several names.
_NAME, _FINGERPRINT = "data", "data fingerprint"

#: All that there are; which of them a run knows depends on what it was asked and how far it got.
CONDITIONS = (
    "model", "weights", "dtype", "attention", _NAME, "batch size", "max length", "task", "optimizer",
    "gradient clipping", "device", "phases", "training", "schedule", "geometry", "attention kernel",
    _FINGERPRINT, "device name", "torch", "transformers", "bitsandbytes", "threads", "driver", "CUDA",
    "memory measured by",
)  # fmt: skip


def asked_conditions(spec: RunSpec) -> dict[str, str]:
    """The conditions that a spec alone decides: known of every run, however it ended.

    What a method may choose for itself (learning rate, weight decay, its options) is not among them, nor is
    what only decides how often something was measured.
    """
    model, data, train = spec.model, spec.data, spec.train
    asked = {
        "model": f"{model.name}@{model.revision}" if model.revision else model.name,
        "weights": model.weights,
        "dtype": _dtype(spec),
        "attention": model.attention,
        _NAME: _data_name(spec),
        "batch size": _batch_size(train),
        "max length": str(data.max_length),
        "task": _task(data),
        "optimizer": _optimizer(train),
        "gradient clipping": f"{train.max_grad_norm:g}" if train.max_grad_norm is not None else "off",
        "device": spec.device,
        "phases": " + ".join(phase for phase in ("short", "full") if phase in spec.phases),
    }
    if "full" in spec.phases:
        asked["training"] = _training(spec)
        asked["schedule"] = f"{train.schedule}, {train.warmup_fraction:g} warm-up"
    return asked


def _dtype(spec: RunSpec) -> str:
    cast, held = spec.train.autocast, spec.model.quantization
    parts = [
        spec.model.dtype,
        f"autocast to {cast}" if cast else None,
        f"weights in {held}" if held else None,
    ]
    return ", ".join(part for part in parts if part is not None)


def _batch_size(train: TrainConfig) -> str:
    parts = train.gradient_accumulation_steps
    return str(train.batch_size) if parts == 1 else f"{train.batch_size} in {parts} parts"


def _optimizer(train: TrainConfig) -> str:
    options = [f"{name}={value}" for name, value in sorted(train.optimizer_options.items())]
    return ", ".join([train.optimizer, *options])


def _data_name(spec: RunSpec) -> str:
    data = spec.data
    name = data.name or data.path or ""
    if data.subset:
        name += f"/{data.subset}"
    limits = [
        f"{rows} {split} rows"
        for rows, split in ((data.train_rows, "training"), (data.validation_rows, "validation"))
        if rows is not None
    ]
    return ", ".join([name, *limits])


def _task(data: DataConfig) -> str:
    """What is done with the data; for text-to-text with all that decides what is read and written."""
    parts: list[str] = [data.task]
    if data.task == "text-to-text":
        words = " / ".join(data.verbalizers)
        parts += [f'"{data.prefix}…" → {words}', f"{data.max_target_length} target tokens"]
    if data.judged_by[0] != DEFAULT_METRICS[data.task][0]:
        parts.append(f"judged by {data.judged_by[0]}")
    return ", ".join(parts)


def _training(spec: RunSpec) -> str:
    train = spec.train
    parts = ["1 epoch" if train.epochs == 1 else f"{train.epochs} epochs"]
    if train.max_steps is not None:
        parts.append(f"at most {train.max_steps} steps")
    if train.max_seconds is not None:
        parts.append(f"at most {train.max_seconds:g} s")
    if train.early_stopping_patience is not None:
        parts.append(f"stopped after {train.early_stopping_patience} evaluations without a better one")
    if train.keep == "best":
        parts.append("best checkpoint")
    if train.group_by_length:
        parts.append("like lengths together")
    return ", ".join(parts)


def found_conditions(record: RunRecord) -> dict[str, str]:
    """The conditions that a run itself reports; those it never got to are absent.

    The host's name is not among them: two machines with the same device may be compared.
    """
    found: dict[str, str] = {}
    if record.model:
        found["geometry"] = record.model.geometry
        found["attention kernel"] = record.model.attention
    if record.data:
        found[_FINGERPRINT] = record.data.fingerprint
    environment = record.environment
    if environment:
        found["device name"] = environment.device_name
        found["torch"] = environment.torch
        found["transformers"] = environment.transformers
        if environment.bitsandbytes and _needs_bitsandbytes(record.spec):
            found["bitsandbytes"] = environment.bitsandbytes
        if environment.device == "cpu":
            found["threads"] = str(environment.threads)
        if environment.driver:
            found["driver"] = environment.driver
        if environment.cuda:
            found["CUDA"] = environment.cuda
    if record.short and record.short.memory:
        found["memory measured by"] = record.short.memory.source
    return found


def _needs_bitsandbytes(spec: RunSpec) -> bool:
    return spec.model.quantization is not None or spec.train.optimizer.endswith("-8bit")


def conditions(record: RunRecord) -> dict[str, str]:
    """All known conditions of a run, by name; what must agree before two runs share a table."""
    return asked_conditions(record.spec) | found_conditions(record)


@dataclass(kw_only=True)
class _Table:
    """Runs that agree in all they know."""

    group: str | None
    known: dict[str, str]
    data_names: set[str] = field(default_factory=set)
    suites: Counter[str] = field(default_factory=Counter)
    records: list[RunRecord] = field(default_factory=list)

    def admits(self, group: str | None, known: dict[str, str]) -> bool:
        """Whether nothing that is known of a run contradicts what is known of the table."""
        if group is not None and group != self.group:
            return False
        if _FINGERPRINT not in known and known[_NAME] not in self.data_names:
            return False
        return all(self.known.get(key, value) == value for key, value in known.items() if key != _NAME)

    def add(self, record: RunRecord, known: dict[str, str]) -> None:
        self.known = known | self.known
        self.data_names.add(known[_NAME])
        self.suites[record.spec.suite] += 1
        self.records.append(record)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A condition that is known of two tables and not the same: why they are two."""

    condition: str
    here: str
    first: str


@dataclass(frozen=True, kw_only=True)
class ComparableRuns:
    """Runs that may stand in one table.

    Args:
        group: the value of what the user groups by; ``None`` when nothing was asked for.
        conditions: what they have in common, by name.
        records: in the order they came in.
    """

    group: str | None
    conditions: dict[str, str]
    records: tuple[RunRecord, ...]


def split(
    records: Sequence[RunRecord], group_of: Callable[[RunRecord], str | None] | None = None
) -> list[ComparableRuns]:
    """Puts each run where nothing it knows contradicts the others, runs that know most first.

    A run that died before it could look around knows only what it was asked for. It joins the table that it
    doesn't contradict: of several that of its own suite, then the largest.

    Args:
        records: any.
        group_of: a further value that must be equal within a table; ``None`` where a run doesn't know it.
    """
    known_of = [(record, conditions(record)) for record in records]
    position = {id(record): place for place, (record, _) in enumerate(known_of)}
    tables: list[_Table] = []
    # Most runs know the same as one before them: that look-up spares comparing each with each table.
    table_by_key: dict[tuple[object, ...], _Table] = {}
    for record, known in sorted(known_of, key=lambda pair: -len(pair[1])):
        group = group_of(record) if group_of else None
        key = (group, *known.items())
        table = table_by_key.get(key)
        if table is None or (len(tables) > 1 and not _is_complete(known)):
            fitting = [candidate for candidate in tables if candidate.admits(group, known)]
            suite = record.spec.suite
            table = max(fitting, key=lambda t: (t.suites[suite] > 0, len(t.records)), default=None)
        if table is None:
            table = _Table(group=group, known=dict(known))
            tables.append(table)
        table_by_key[key] = table
        table.add(record, known)
    for table in tables:
        table.records.sort(key=lambda record: position[id(record)])
    return [
        ComparableRuns(group=table.group, conditions=table.known, records=tuple(table.records))
        for table in tables
    ]


def _is_complete(known: dict[str, str]) -> bool:
    return _FINGERPRINT in known and "device name" in known and "geometry" in known


def in_order(tables: Iterable[ComparableRuns]) -> list[ComparableRuns]:
    """Tables by the conditions that tell them apart; the first is what others are held against."""
    known = list(tables)
    varying = _varying([table.conditions for table in known])
    return sorted(
        known, key=lambda table: _natural([table.group, *(table.conditions.get(key) for key in varying)])
    )


def _varying(conditions: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for table in conditions for key in table)
    return [key for key in keys if len({table.get(key) for table in conditions}) > 1]


def _natural(values: Iterable[str | None]) -> list[tuple[bool, float, str]]:
    """Orders numbers as numbers, what is unknown last."""
    return [
        (value is None, float(value) if value and value.isdecimal() else 0.0, value or "") for value in values
    ]


def differences(here: Mapping[str, str], first: Mapping[str, str]) -> tuple[Difference, ...]:
    """Why a table isn't the first one: the contradictions between what is known of both.

    The data's names and fingerprints say the same: one of them is enough.
    """
    needless = "data" if here.get("data fingerprint") == first.get("data fingerprint") else None
    if here["data"] != first["data"] and needless is None:
        needless = "data fingerprint"
    return tuple(
        Difference(condition=key, here=value, first=first[key])
        for key, value in here.items()
        if key != needless and first.get(key, value) != value
    )
