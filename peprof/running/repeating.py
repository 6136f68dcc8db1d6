"""Whether a training can be repeated to the last bit on its device; tried before it begins."""

from __future__ import annotations

import torch

from peprof.devices import Device
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit
from peprof.training.step import ClassifierStep

_LONGEST_REASON = 200
UNREPEATABLE = "another run of the same seed can differ in its last bits, and then in more: {}"


def make_repeatable(step: ClassifierStep, train: EncodedSplit, spec: RunSpec, device: Device) -> str | None:
    """Has forward and backward take deterministic forms, attention's too, where all operators have one.

    An operator without one raises where nothing else may be used, so forward and backward of one batch are
    tried. Random numbers, parameters and counts are afterwards as they were.

    Args:
        step: that is to be trained with, on the device.
        train: its examples.
        spec: of the run.
        device: in whose ``deterministic`` this is called.

    Returns:
        Why it can't be repeated; ``None`` where it can, as far as the device knows a way.
    """
    [batch] = train.fixed_shape(spec.train.batch_size, 1, seed=spec.seed)
    on_gpu = device.torch_device.type == "cuda"
    try:
        with torch.random.fork_rng([device.torch_device] if on_gpu else []), device.repeatable():
            step.gradients(batch.to(device.torch_device))
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        return UNREPEATABLE.format(" ".join(str(error).split())[:_LONGEST_REASON])
    finally:
        step.optimizer.zero_grad(set_to_none=True)
    device.release_cached_memory()
    step.around = device.repeatable
    return None
