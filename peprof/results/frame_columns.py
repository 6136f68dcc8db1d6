"""The columns of a table with one row a run: names, types, units, meanings, and what seeds make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from peprof.suite.metrics import METRICS

Kind = Literal["text", "json", "link", "flag", "count", "bytes", "seconds", "share", "number", "time"]
OverSeeds = Literal["same", "joined", "median", "finished", "statistic", "dropped"]

_DTYPES: Mapping[Kind, str] = MappingProxyType(
    {
        "text": "string",
        "json": "string",
        "link": "string",
        "time": "string",
        "flag": "boolean",
        "count": "Int64",
        "bytes": "Int64",
        "seconds": "Float64",
        "share": "Float64",
        "number": "Float64",
    }
)


@dataclass(frozen=True, kw_only=True)
class FrameColumn:
    """One column.

    Args:
        name: with its unit.
        kind: what its values are; decides the type.
        meaning: for people, one line.
        over_seeds: what one row over several seeds has here: the value that all have (``same``; none where
            they differ), all different ones (``joined``), the ``median`` of those that are known, or of
            those that are known of ``finished`` runs, a ``statistic`` of its own, or nothing (``dropped``).
        main: shown where there is room for few columns only.
        unit: empty where the values are plain.
    """

    name: str
    kind: Kind
    meaning: str
    over_seeds: OverSeeds
    main: bool = False
    unit: str = ""

    @property
    def dtype(self) -> str:
        """As pandas calls it; all have a missing value of their own."""
        return _DTYPES[self.kind]


def _column(
    name: str, kind: Kind, meaning: str, over_seeds: OverSeeds = "same", *, main: bool = False, unit: str = ""
) -> FrameColumn:
    known = {"bytes": "bytes", "seconds": "s", "share": "between 0 and 1", "time": "ISO 8601, UTC"}
    return FrameColumn(
        name=name,
        kind=kind,
        meaning=meaning,
        over_seeds=over_seeds,
        main=main,
        unit=unit or known.get(kind, ""),
    )


def _bytes(name: str, meaning: str, *, main: bool = False) -> FrameColumn:
    return _column(name, "bytes", meaning, "median", main=main)


def _seconds(name: str, meaning: str, *, main: bool = False) -> FrameColumn:
    return _column(name, "seconds", meaning, "median", main=main)


def _measured_metrics() -> list[FrameColumn]:
    columns = []
    for metric in METRICS.values():
        kind: Kind = "share" if metric.share else "number"
        correlation = metric.name in ("matthews", "pearson", "spearman", "pearson_spearman")
        unit = "between -1 and 1" if correlation else ""
        words = metric.name.replace("_", " ")
        columns += [
            _column(metric.name, kind, f"{words} of the result", "statistic", unit=unit),
            _column(f"{metric.name}_low", kind, "lower end of its 95 % interval", "statistic", unit=unit),
            _column(f"{metric.name}_high", kind, "upper end of its 95 % interval", "statistic", unit=unit),
        ]
    return columns


PHASES = ("step", "forward", "backward", "clip", "optimizer")
"""Of a training step, the whole first."""

CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "parameters_frozen": ("parameters.frozen",),
        "parameters_trainable": ("parameters.trainable",),
        "gradients": ("gradients",),
        "optimizer_state": ("optimizer_state",),
        "activations": ("activations", "activations.recomputed"),
        "buffers": ("buffers",),
        "inputs": ("inputs",),
    }
)
"""Columns of the peak's breakdown -> its categories; besides there are temporaries, and all others."""


def _step_times() -> list[FrameColumn]:
    return [
        _seconds(
            f"{phase}_s{end}",
            f"{what} of a step's {phase} time" if phase != "step" else f"{what} of a whole step's time",
            main=phase == "step" and not end,
        )
        for phase in PHASES
        for end, what in (("", "median"), ("_q1", "first quartile"), ("_q3", "third quartile"))
    ]


FRAME_COLUMNS: Mapping[str, FrameColumn] = MappingProxyType(
    {
        column.name: column
        for column in (
            _column("conditions", "text", "group of rows that may be compared: A, B ...", main=True),
            _column("differs", "text", "in what its conditions differ from those of group A", main=True),
            _column("suite", "text", "name of the suite", "joined"),
            _column("label", "text", "what the suite calls the method", main=True),
            _column("method", "text", "name of the method"),
            _column("settings", "text", "the method's options, for people", main=True),
            _column("options", "json", "the method's options as JSON"),
            _column("seed", "count", "seed of the run", "dropped", main=True),
            _column("status", "text", "ok, oom, failed, timeout or diverged", "statistic", main=True),
            _column("failure_phase", "text", "what the run was doing when it failed", "joined"),
            _column("failure_kind", "text", "type of the error", "joined"),
            _column("failure_message", "text", "why it failed", "joined"),
            _column("warnings", "text", "what a reader should know of these numbers", "joined"),
            _column("run_id", "text", "label, seed and a hash of all that decides the result", "dropped"),
            _column("suite_file", "link", "the suite that the run came from", "statistic", main=True),
            _column("tensorboard", "link", "the run's TensorBoard log directory", "dropped", main=True),
            _column("record_file", "link", "the run's whole record", "dropped", main=True),
            _column("run_directory", "link", "where all files of the run lie", "dropped"),
            _column("metric", "text", "name of the metric that decides", main=True),
            _column("metric_value", "number", "the deciding metric of the result", "statistic", main=True),
            _column("metric_low", "number", "lower end of its 95 % interval", "statistic", main=True),
            _column("metric_high", "number", "upper end of its 95 % interval", "statistic", main=True),
            *_measured_metrics(),
            _column("invalid", "share", "written answers that are no class's word", "median"),
            _column("validation_total", "count", "examples evaluated", "median"),
            _column("trainable_backbone", "count", "trained ones outside the head", "median", main=True),
            _column("trainable_head", "count", "trained ones in the head", "median"),
            _column("backbone", "count", "parameters outside the head, before the method", "median"),
            _column("head", "count", "parameters in the head, before the method", "median"),
            _column("trainable_share", "share", "trained parameters by all before the method", "median"),
            _bytes("peak_allocated_bytes", "highest live memory in a training step", main=True),
            _bytes("peak_reserved_bytes", "highest memory held from the device in a training step"),
            _bytes("device_bytes", "used on the device after the step, as its management library tells"),
            _column("device_bytes_of", "text", "whose device_bytes are: of the process or of the device"),
            _bytes("start_bytes", "live memory before the step"),
            _column("memory_source", "text", "what counted the step's memory"),
            _column("peak_phase", "text", "phase of the step in which the ledger's peak lies", "joined"),
            _bytes("ledger_peak_bytes", "the step's peak as the ledger counts it; the next add up to it"),
            *(
                _bytes(f"{name}_bytes", f"at the ledger's peak: {name.replace('_', ' ')}")
                for name in (*CATEGORIES, "temporaries", "other")
            ),
            _column("memory_by_category", "json", "the ledger's peak by all categories", "dropped"),
            _bytes("saved_for_backward_bytes", "activations kept for backward when it begins"),
            _bytes("predicted_peak_bytes", "highest bytes of tensors in a step, computed without running it"),
            _column("predicted_peak_phase", "text", "phase of the step in which that lies", "joined"),
            _bytes("predicted_peak_held_against_bytes", "what that is held against: measured in like manner"),
            _column(
                "predicted_peak_error",
                "number",
                "what was predicted by what was measured, less 1: above 0 too much",
                "median",
            ),
            _bytes("predicted_reserved_bytes", "what the allocator was simulated to hold of the device"),
            _column("predicted_reserved_error", "number", "the same of peak_reserved_bytes", "median"),
            _bytes("predicted_device_bytes", "with the device's context, which is assumed"),
            _bytes("memory_there_bytes", "for tensors when the run began: on a GPU what was free"),
            _column("prediction_assumptions", "text", "on which the predicted figures stand", "joined"),
            _column("prediction_problem", "text", "why nothing was predicted", "joined"),
            _column("step_energy_j", "number", "joules of a step in the short phase", "median", unit="J"),
            _column("step_joules_per_sample", "number", "of a step's examples each", "median", unit="J"),
            _column(
                "run_peak_bytes",
                "bytes",
                "highest memory of the whole full phase, evaluations included",
                "finished",
            ),
            _column("run_start_bytes", "bytes", "the same before its first step", "finished"),
            _column(
                "run_peak_reserved_bytes",
                "bytes",
                "highest memory held from the device in the full phase",
                "finished",
            ),
            _column("run_peak_source", "text", "what counted the full phase's memory"),
            *_step_times(),
            _seconds("step_s_low", "lower end of the 95 % interval of a whole step's median time"),
            _seconds("step_s_high", "upper end of that interval"),
            _seconds("step_p90_s", "nine of ten steps are no slower"),
            _seconds("step_p99_s", "99 of 100 steps are no slower; from 100 steps on"),
            _column("clock", "text", "what measured the steps' times"),
            _seconds("pass_step_s", "wall time of the timing pass by its steps"),
            _seconds("wall_step_s", "median wall time of a step that was waited for; on a GPU"),
            _seconds("host_step_s", "median of the host's time for a step, not waiting; on a GPU"),
            _seconds("enqueue_step_s", "median time to queue a step, the queue being empty; on a GPU"),
            _column("launch_bound", "flag", "the host limits the device; on a GPU"),
            _column("throttled", "flag", "clocks were held down while energy was measured; on a GPU"),
            _column("unsteady", "flag", "steps drifted or differed widely"),
            _column("warmup_steps", "count", "before the timing pass", "median"),
            _column("warmed_up", "flag", "the last of these took equally long"),
            _column("rounds", "count", "in which the steps were timed, in turns with other methods"),
            _column("samples_per_s", "number", "batch size by the median step", "median", unit="1/s"),
            _column("real_tokens_per_s", "number", "tokens without padding", "median", unit="1/s"),
            _column("measured_steps", "count", "steps in the timing pass", "median"),
            _column("train_steps", "count", "training steps done in the full phase", "finished"),
            _column("epochs_done", "number", "passes over the training split, in fractions", "finished"),
            _column("stopped_by", "text", "what ended the full phase", "joined"),
            _column("result_step", "count", "training steps before the result's evaluation", "finished"),
            _column("target", "number", "value of the deciding metric that was to be reached"),
            _column("target_step", "count", "training steps until it was seen to be reached", "statistic"),
            _column(
                "target_time_s", "seconds", "training seconds until it was seen to be reached", "statistic"
            ),
            _column("target_energy_j", "number", "joules of training until then", "statistic", unit="J"),
            _column("train_time_s", "seconds", "sum of the training steps", "finished", main=True),
            _column("evaluation_time_s", "seconds", "sum of the evaluations", "finished"),
            _column("waiting_time_s", "seconds", "waiting for batches in the full phase", "finished"),
            _column("checkpoint_time_s", "seconds", "keeping checkpoints in the full phase", "finished"),
            _column("other_time_s", "seconds", "the rest of the full phase's wall time", "finished"),
            _column("wall_time_s", "seconds", "the full phase from its first batch to its end", "finished"),
            _column("train_time_share", "share", "of the full phase's wall time: training steps", "finished"),
            _column("epoch_time_s", "seconds", "median training time of a finished epoch", "finished"),
            _seconds("setup_time_s", "from the process's start to a ready model and data"),
            _column("total_time_s", "seconds", "from start to end of the run and its rounds", "finished"),
            _column("energy_j", "number", "joules of the device in training steps", "finished", unit="J"),
            _column("joules_per_sample", "number", "of training", "finished", unit="J"),
            _column("mean_power_w", "number", "energy by training time", "finished", unit="W"),
            _column("final_loss", "number", "mean training loss of the last (up to) 50 steps", "finished"),
            _column("checkpoint_bytes", "bytes", "on disk, of what the method has to save", "finished"),
            _column("resumes", "count", "times that the full phase went on from a checkpoint", "finished"),
            _column("attempt", "count", "1 for the first try of the run", "dropped"),
            _column("phases", "text", "what was done: short, full"),
            _column("model", "text", "hub id, directory or geometry"),
            _column("weights", "text", "pretrained or random"),
            _column("dtype", "text", "of the parameters"),
            _column("quantization", "text", "in what linear layers hold their weights"),
            _column("autocast", "text", "type of the operations that bear it"),
            _column("attention", "text", "attention kernel"),
            _column("architecture", "text", "the model's class"),
            _column("geometry", "text", "layers, width, heads ..."),
            _column("synthetic_weights", "flag", "random, or pre-trained on generated text"),
            _column("data", "text", "hub id or directory"),
            _column("subset", "text", "of the data"),
            _column("task", "text", "what is done with the data"),
            _column("train_rows", "count", "training examples used"),
            _column("validation_rows", "count", "validation examples used"),
            _column("data_fingerprint", "text", "hash of texts and labels"),
            _column("synthetic_data", "flag", "made by peprof, not collected"),
            _column("max_length", "count", "of the inputs", unit="tokens"),
            _column("batch_size", "count", "examples a step"),
            _column("gradient_accumulation_steps", "count", "parts that a batch is cut into"),
            _column("gradient_checkpointing", "flag", "layers run forward again in backward"),
            _column("epochs", "count", "asked for"),
            _column("max_steps", "count", "limit asked for"),
            _column("max_seconds", "number", "limit asked for", unit="s"),
            _column("learning_rate", "number", "its peak"),
            _column("weight_decay", "number", "decoupled"),
            _column("optimizer", "text", "by name"),
            _column("schedule", "text", "of the learning rate"),
            _column("warmup_fraction", "share", "share of the steps in which the learning rate rises"),
            _column("max_grad_norm", "number", "to which gradients are clipped"),
            _column("device", "text", "cpu or cuda"),
            _column("device_name", "text", "as its vendor names it", main=True),
            _column("device_uuid", "text", "of a GPU", "joined"),
            _column("driver", "text", "version"),
            _column("cuda", "text", "version"),
            _column("threads", "count", "torch's, within an operation"),
            _column("torch", "text", "version"),
            _column("transformers", "text", "version"),
            _column("bitsandbytes", "text", "version; nothing where it isn't installed"),
            _column("peprof", "text", "version", "joined"),
            _column("python", "text", "version", "joined"),
            _column("platform", "text", "operating system", "joined"),
            _column("hostname", "text", "where it ran", "joined"),
            _column("git_commit", "text", "of the working directory's repository", "joined"),
            _column("git_dirty", "flag", "files that git keeps were changed since that commit"),
            _column("started_at", "time", "when the run began", "dropped"),
            _column("finished_at", "time", "when it ended", "dropped"),
            _column("offline_reason", "text", "why the suite's offline settings were used", "joined"),
            _column("format_version", "count", "of the record"),
        )
    }
)
"""By name, in their order."""

COLUMNS: dict[str, str] = {name: column.dtype for name, column in FRAME_COLUMNS.items()}
"""Types by column: whole numbers with gaps would otherwise become floats, a column without values objects."""
