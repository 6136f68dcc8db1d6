"""The short phase's inference pass: what using the model costs, as a part of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from peprof.devices import Device, as_out_of_memory
from peprof.events import Progress
from peprof.profiler.inference import measure_inference
from peprof.results.record import InferenceResult
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import Batch

NEW_TOKENS = 16
"""Generated in each round by a model that generates."""

NO_ROOM_WARNING = (
    "what using the model costs isn't known: there was no memory left for the plain backbone beside it ({})"
)


@dataclass(frozen=True, kw_only=True)
class InUse:
    """What the pass needs of a run.

    Args:
        method: whose ``merge`` is asked for, if it has one.
        make_plain: makes the plain backbone, on the device.
    """

    method: Any
    make_plain: Callable[[], nn.Module]


def run_inference_pass(
    spec: RunSpec,
    model: nn.Module,
    in_use: InUse,
    batch: Batch,
    device: Device,
    say: Say,
    warn: Callable[[str], None],
) -> InferenceResult | None:
    """Measures the model and the plain backbone. The last thing that is done with a model: it gets merged.

    Args:
        spec: the run.
        model: trained for some steps.
        in_use: what else there must be.
        batch: on the device.
        device: where it runs.
        say: told that it begins.
        warn: told why nothing could be found.

    Returns:
        ``None`` where memory didn't suffice for both.
    """
    say(Progress(phase="short: inference", step=0, total=1))
    generates = spec.data.task in ("text-to-text", "language-modelling")
    # Nothing can be folded into weights of 4 or 8 bits as it is.
    merge = getattr(in_use.method, "merge", None) if spec.model.quantization is None else None
    try:
        found = measure_inference(
            model,
            [_inputs(spec, model, batch)],
            device,
            merge=partial(merge) if merge is not None else None,
            plain=in_use.make_plain(),
            warmup_rounds=spec.short.warmup_steps,
            rounds=spec.short.steps,
            max_seconds=spec.short.max_seconds,
            new_tokens=NEW_TOKENS if generates else 0,
        )
    except (RuntimeError, MemoryError) as error:
        if as_out_of_memory(error) is None:
            raise
        warn(NO_ROOM_WARNING.format(str(error).splitlines()[0]))
        return None
    return InferenceResult.model_validate(asdict(found))


def _inputs(spec: RunSpec, model: Any, batch: Batch) -> dict[str, Tensor]:
    """Without labels, so that no loss is computed; what they make a decoder read takes their place."""
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "labels"}
    if spec.data.task == "text-to-text":
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch.inputs["labels"])
    return inputs
