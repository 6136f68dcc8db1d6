"""Records for tests, with explicit values: a DistilBERT on SST-2 on a CPU unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peprof.results.record import (
    DataFacts,
    Environment,
    Evaluation,
    Failure,
    FullResult,
    MemoryResult,
    ModelFacts,
    ParameterCounts,
    PhaseMemory,
    RunRecord,
    ShortResult,
    Status,
    StepTimes,
    TrainingHistory,
)
from peprof.suite.planning import RunSpec
from peprof.suite.schema import DataConfig, LimitsConfig, MethodConfig, ModelConfig, ShortConfig, TrainConfig

MIB = 1024 * 1024

ENVIRONMENT = Environment(
    peprof="0.1.0",
    python="3.12.4",
    torch="2.13.0",
    transformers="5.23.0",
    platform="Linux-6.8-x86_64",
    hostname="box",
    device="cpu",
    device_name="Xeon 8481C",
    device_uuid=None,
    driver=None,
    cuda=None,
    threads=2,
)
MODEL_FACTS = ModelFacts(
    architecture="DistilBertForSequenceClassification",
    geometry="6L-768d-12h-3072ff-30522v",
    attention="sdpa",
    tokenizer="hub",
    synthetic=False,
)
DATA_FACTS = DataFacts(
    train_rows=67349, validation_rows=872, num_labels=2, fingerprint="5f0c1d2e3a4b", synthetic=False
)
HISTORY = TrainingHistory(
    loss=(0.7, 0.5, 0.25), learning_rate=(1e-5, 5e-5, 0.0), step_time_s=(0.5, 0.25, 0.25)
)


def make_spec(
    label: str = "full",
    *,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    suite: str = "sst2",
    phases: tuple[Any, ...] = ("short", "full"),
    batch_size: int = 16,
    max_length: int = 64,
    device: str = "cpu",
    weights: Any = "pretrained",
    data: str = "stanfordnlp/sst2",
    epochs: int = 3,
    offline_reason: str | None = None,
    **short: Any,
) -> RunSpec:
    """A spec as planning makes it: the method's overrides are laid into ``train``."""
    return RunSpec(
        suite=suite,
        phases=phases,
        model=ModelConfig(name="distilbert/distilbert-base-uncased", weights=weights),
        data=DataConfig(name=data, max_length=max_length),
        train=TrainConfig(
            batch_size=batch_size, epochs=epochs, seeds=(0, 1, 2), learning_rate=learning_rate or 5e-5
        ),
        short=ShortConfig(**{"steps": 5, **short}),
        limits=LimitsConfig(),
        method=MethodConfig(
            name=method or label, label=label, options=dict(options or {}), learning_rate=learning_rate
        ),
        seed=seed,
        device=device,
        offline_reason=offline_reason,
    )


def make_times(step_ms: Sequence[float]) -> StepTimes:
    """Steps whose time goes by halves, quarters and eighths into forward, backward, clip and optimizer."""
    step_s = tuple(value / 1000 for value in step_ms)
    return StepTimes(
        clock="perf_counter",
        step_s=step_s,
        forward_s=tuple(value / 4 for value in step_s),
        backward_s=tuple(value / 2 for value in step_s),
        clip_s=tuple(value / 8 for value in step_s),
        optimizer_s=tuple(value / 8 for value in step_s),
    )


def make_short(
    *,
    peak_mib: float | None = 1024,
    step_ms: Sequence[float] | None = (200, 190, 210, 205, 195),
    batch_size: int = 16,
    max_length: int = 64,
    stopped_by: Any = "steps",
) -> ShortResult:
    memory = None
    if peak_mib is not None:
        peak = int(peak_mib * MIB)
        memory = MemoryResult(
            source="torch.profiler",
            start_bytes=256 * MIB,
            peak_allocated_bytes=peak,
            peak_reserved_bytes=None,
            phases=(PhaseMemory(phase="forward", peak_bytes=peak, end_bytes=peak),),
        )
    return ShortResult(
        warmup_steps=5,
        stopped_by=stopped_by,
        batch_size=batch_size,
        padded_tokens=batch_size * max_length,
        real_tokens=(400,) * len(step_ms or ()),
        times=make_times(step_ms) if step_ms is not None else None,
        memory=memory,
    )


def make_full(
    *,
    correct: int = 790,
    total: int = 872,
    train_time_s: float = 600.0,
    exact_matches: int | None = None,
    invalid: int | None = None,
) -> FullResult:
    first = Evaluation(step=10, train_time_s=1.0, correct=total // 2, total=total, loss=0.69, time_s=2.0)
    last = Evaluation(
        step=300, train_time_s=train_time_s, correct=correct, total=total, loss=0.3, time_s=2.0,
        exact_matches=exact_matches, invalid=invalid,
    )  # fmt: skip
    return FullResult(
        steps=300,
        epochs=3.0,
        train_time_s=train_time_s,
        evaluation_time_s=4.0,
        epoch_times_s=(train_time_s / 3,) * 3,
        evaluations=(first, last),
        checkpoint_bytes=256 * MIB,
        final_loss=0.2,
    )


def make_record(
    label: str = "full",
    *,
    spec: RunSpec | None = None,
    status: Status = "ok",
    failure: Failure | None = None,
    trainable: tuple[int, int] | None = (66_362_880, 592_130),
    short: ShortResult | None = None,
    full: FullResult | None = None,
    environment: Environment | None = ENVIRONMENT,
    model: ModelFacts | None = MODEL_FACTS,
    data: DataFacts | None = DATA_FACTS,
    warnings: tuple[str, ...] = (),
    started_at: str = "2026-01-02T03:04:05Z",
    **spec_values: Any,
) -> RunRecord:
    """A record with what is given and nothing else: ``short`` and ``full`` are absent unless given."""
    spec = spec or make_spec(label, **spec_values)
    return RunRecord(
        run_id=spec.run_id,
        spec=spec,
        status=status,
        failure=failure,
        parameters=ParameterCounts(
            backbone=66_362_880, head=592_130, trainable_backbone=trainable[0], trainable_head=trainable[1]
        )
        if trainable
        else None,
        short=short,
        full=full,
        data=data,
        model=model,
        environment=environment,
        started_at=started_at,
        finished_at="2026-01-02T03:14:05Z",
        setup_time_s=1.5,
        total_time_s=610.0,
        warnings=warnings,
    )


def make_dead_record(
    label: str,
    *,
    status: Status = "oom",
    phase: str = "short: warm-up",
    kind: str = "OutOfMemoryError",
    message: str = "out of memory",
    hint: str | None = None,
    requested_bytes: int | None = 2048 * MIB,
    **spec_values: Any,
) -> RunRecord:
    """What the parent writes for a child that found out nothing of where it ran."""
    return make_record(
        label,
        status=status,
        failure=Failure(phase=phase, kind=kind, message=message, hint=hint, requested_bytes=requested_bytes),
        trainable=None,
        environment=None,
        model=None,
        data=None,
        **spec_values,
    )
