"""What trackers are told, against figures worked out by hand."""

from __future__ import annotations

from peprof.results.record import (
    Evaluation,
    MemoryResult,
    PeakBreakdown,
    PhaseMemory,
    RunPeak,
    TrainingHistory,
)
from peprof.tracking.scalars import compared, hyperparameters, of_evaluation, of_short, of_steps, of_whole_run
from tests.results.factory import MIB, make_full, make_record, make_short, make_spec


def evaluation(step: int, train_time_s: float, energy_j: float | None, **metrics: float) -> Evaluation:
    return Evaluation(
        step=step, train_time_s=train_time_s, correct=None, total=8, loss=0.5, time_s=0.25,
        metrics=metrics, energy_j=energy_j,
    )  # fmt: skip


def test_each_step_has_its_figures_and_rates() -> None:
    history = TrainingHistory(
        loss=(0.7, 0.5),
        learning_rate=(1e-3, 2e-3),
        step_time_s=(0.5, 0.25),
        forward_s=(0.2, 0.1),
        backward_s=(0.25, 0.125),
        optimizer_s=(0.05, 0.025),
        gradient_norm=(3.0, 1.0),
        samples=(8, 4),
        real_tokens=(100, 30),
    )
    assert list(of_steps(history)) == [
        {
            "train/loss": 0.7,
            "train/learning_rate": 1e-3,
            "train/gradient_norm": 3.0,
            "time/step_s": 0.5,
            "time/forward_s": 0.2,
            "time/backward_s": 0.25,
            "time/optimizer_s": 0.05,
            "throughput/samples_per_s": 16.0,
            "throughput/real_tokens_per_s": 200.0,
        },
        {
            "train/loss": 0.5,
            "train/learning_rate": 2e-3,
            "train/gradient_norm": 1.0,
            "time/step_s": 0.25,
            "time/forward_s": 0.1,
            "time/backward_s": 0.125,
            "time/optimizer_s": 0.025,
            "throughput/samples_per_s": 16.0,
            "throughput/real_tokens_per_s": 120.0,
        },
    ]


def test_what_a_history_lacks_is_left_out() -> None:
    history = TrainingHistory(loss=(0.7,), learning_rate=(0.0,), step_time_s=(0.5,))
    assert list(of_steps(history)) == [{"train/loss": 0.7, "train/learning_rate": 0.0, "time/step_s": 0.5}]


def test_power_is_the_energy_since_the_evaluation_before() -> None:
    first, second = evaluation(5, 2.0, 300.0, f1=0.5), evaluation(10, 4.0, 800.0, f1=0.75, accuracy=0.5)
    assert of_evaluation(first, None)["power/train_w"] == 150.0
    assert of_evaluation(second, first) == {
        "evaluation/f1": 0.75,
        "evaluation/accuracy": 0.5,
        "evaluation/loss": 0.5,
        "evaluation/time_s": 0.25,
        "evaluation/train_time_s": 4.0,
        "energy/train_j": 800.0,
        "power/train_w": 250.0,
    }


def test_unknown_energy_is_left_out() -> None:
    assert set(of_evaluation(evaluation(5, 2.0, None), None)) == {
        "evaluation/loss", "evaluation/time_s", "evaluation/train_time_s",
    }  # fmt: skip


def test_the_short_phase_gives_medians_and_the_peak_divided() -> None:
    short = make_short(step_ms=(200, 100, 300)).model_copy(
        update={
            "memory": MemoryResult(
                source="cuda_allocator",
                start_bytes=10,
                peak_allocated_bytes=100,
                peak_reserved_bytes=128,
                phases=(
                    PhaseMemory(phase="forward", peak_bytes=90, end_bytes=90),
                    PhaseMemory(phase="backward", peak_bytes=100, end_bytes=20),
                ),
                device_bytes=500,
                device_bytes_of="process",
            ),
            "breakdown": PeakBreakdown(
                peak_bytes=100,
                peak_phase="backward",
                categories={"activations": 60, "parameters.trainable": 40},
                owners={"backbone": 80, "adapter": 20},
                saved_bytes=55,
                uncounted_bytes=0,
            ),
        }
    )
    assert of_short(short) == {
        "short/step_s": 0.2,
        "short/forward_s": 0.05,
        "short/backward_s": 0.1,
        "short/clip_s": 0.025,
        "short/optimizer_s": 0.025,
        "short/samples_per_s": 80.0,  # 16 examples
        "short/real_tokens_per_s": 2000.0,  # 400 tokens
        "memory/peak_allocated_bytes": 100,
        "memory/peak_reserved_bytes": 128,
        "memory/device_bytes": 500,
        "memory/phases/forward_peak_bytes": 90,
        "memory/phases/backward_peak_bytes": 100,
        "memory/activations_bytes": 60,
        "memory/parameters.trainable_bytes": 40,
        "memory/owners/backbone_bytes": 80,
        "memory/owners/adapter_bytes": 20,
        "memory/saved_bytes": 55,
    }


def test_a_short_phase_on_a_cpu_says_nothing_of_a_pool() -> None:
    names = set(of_short(make_short()))
    assert "memory/peak_allocated_bytes" in names
    assert not names & {"memory/peak_reserved_bytes", "memory/device_bytes"}


def test_runs_are_compared_by_result_memory_and_time() -> None:
    last = evaluation(300, 600.0, None, accuracy=0.875)
    full = make_full(train_time_s=600.0).model_copy(
        update={
            "evaluations": (last,),
            "peak": RunPeak(source="process_rss", peak_bytes=5000, start_bytes=4000),
        }
    )
    record = make_record(short=make_short(peak_mib=1), full=full, trainable=(1000, 22))
    assert compared(record) == {
        "compare/accuracy": 0.875,
        "compare/peak_allocated_bytes": MIB,
        "compare/step_s": 0.2,
        "compare/train_time_s": 600.0,
        "compare/trainable_parameters": 1022,
    }
    assert of_whole_run(record) == {"memory/run_peak_resident_bytes": 5000}
    assert "compare/accuracy" not in compared(record.model_copy(update={"status": "diverged"}))


def test_hyperparameters_are_flat_and_plain() -> None:
    spec = make_spec(
        "lora-r8", method="lora", options={"rank": 8, "targets": ("attention.query", "attention.value"),
        "bias": None, "init": {"scale": 0.5}}, learning_rate=1e-3, seed=2,
    )  # fmt: skip
    found = hyperparameters(spec)
    assert (
        found.items()
        >= {
            "label": "lora-r8",
            "method": "lora",
            "option.rank": 8,
            "option.targets": "attention.query, attention.value",
            "option.init.scale": 0.5,
            "learning_rate": 1e-3,
            "batch_size": 16,
            "epochs": 3,
            "seed": 2,
            "model": "distilbert/distilbert-base-uncased",
            "data": "stanfordnlp/sst2",
            "max_length": 64,
            "optimizer": "adamw",
            "gradient_checkpointing": False,
            "offline": False,
        }.items()
    )
    assert "option.bias" not in found and "max_steps" not in found and "seeds" not in found
