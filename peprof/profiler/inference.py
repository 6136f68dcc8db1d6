"""The inference pass: what a model with an adapter costs when it is used, beside the plain backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peprof.devices import Device
from peprof.devices.base import ClockName
from peprof.devices.quantised import parts_of_quantised
from peprof.profiler.latency import garbage_collection_off
from peprof.profiler.step import tensors_in

MINIMUM_ROUNDS = 3
"""Done however long they take."""

FORWARD, PREFILL, GENERATE = "forward", "prefill", "generate"


@dataclass(frozen=True, kw_only=True)
class InferenceTimes:
    """Seconds of each round, in order.

    Args:
        forward_s: of one forward pass.
        prefill_s: from the prompt to its first new token; empty where nothing is generated.
        token_s: of each further token, the mean over those of a round; empty where nothing is generated.
    """

    forward_s: tuple[float, ...]
    prefill_s: tuple[float, ...] = ()
    token_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InferenceCost:
    """What one form of a model costs.

    Args:
        times: of the model.
        plain: of the plain backbone, measured in the same rounds, one after the other; ``None`` where there
            was none to compare with.
        model_bytes: parameters, with the scales of quantised ones, and buffers, each storage once.
        peak_bytes: these, and the most that a forward pass and its batch need beside them.
        cached: generates with a cache of keys and values; ``None`` where nothing is generated.
    """

    times: InferenceTimes
    plain: InferenceTimes | None
    model_bytes: int
    peak_bytes: int
    cached: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What using a model costs.

    Args:
        clock: what timed it.
        adapted: the model as it was trained.
        merged: with its adapter folded into the weights; ``None`` where the method can't.
        plain_peak_bytes: of the plain backbone; ``None`` where there was none.
        new_tokens: generated in each round; 0 where nothing was.
    """

    clock: ClockName
    adapted: InferenceCost
    merged: InferenceCost | None
    plain_peak_bytes: int | None
    new_tokens: int


def measure_inference(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    device: Device,
    *,
    merge: Callable[[nn.Module], nn.Module] | None = None,
    plain: nn.Module | None = None,
    warmup_rounds: int = 2,
    rounds: int = 10,
    max_seconds: float | None = None,
    new_tokens: int = 0,
) -> Inference:
    """Measures forward passes in evaluation mode and without autograd, and generation where it is asked for.

    The plain backbone takes its turn in each round, so that a machine that drifts does so for both. With
    ``merge`` all is done once more; the plain backbone is measured anew beside what was merged.

    Example::

        from peprof import measure_inference, open_device

        found = measure_inference(model, [{"input_ids": ids}], open_device("cpu"), plain=backbone)
        print(found.adapted.times.forward_s, found.adapted.plain.forward_s)

    Args:
        model: on the device; put back into the mode that it was in.
        batches: the model's keyword arguments, on the device, used in turn; should all have one shape.
        device: where it runs.
        merge: folds the adapter into the weights, in place, and returns the model: ``model`` is not what it
            was afterwards.
        plain: the backbone without adapter, on the device.
        warmup_rounds: unmeasured ones before.
        rounds: measured ones.
        max_seconds: no further round begins when this has passed, for each form of the model; at least three
            are measured all the same. ``None``: no limit.
        new_tokens: how many tokens ``model.generate`` writes, greedily, with a cache where the model's
            configuration allows one; 0 for none, otherwise at least 2.

    Raises:
        ValueError: there is no batch, or a count is too small.
    """
    if not batches:
        raise ValueError("batches is empty; at least one batch is needed")
    if warmup_rounds < 0 or rounds < 1:
        raise ValueError(
            f"warmup_rounds must be at least 0 and rounds at least 1, not {warmup_rounds} and {rounds}"
        )
    if new_tokens < 0 or new_tokens == 1:
        raise ValueError(
            f"new_tokens must be 0, or at least 2 to tell the first from others, not {new_tokens}"
        )
    passes = _Passes(
        batches=batches,
        device=device,
        warmup_rounds=warmup_rounds,
        rounds=rounds,
        max_seconds=max_seconds,
        new_tokens=new_tokens,
    )
    with torch.no_grad(), _evaluating(model, *(() if plain is None else (plain,))):
        adapted = passes.cost(model, plain)
        merged = None
        if merge is not None:
            model = merge(model)
            with _evaluating(model):
                merged = passes.cost(model, plain)
        return Inference(
            clock=device.clock().name,
            adapted=adapted,
            merged=merged,
            plain_peak_bytes=passes.peak_bytes(plain) if plain is not None else None,
            new_tokens=new_tokens,
        )


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """In it, models are in evaluation mode; each module is put back into its own mode."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """Runs models over batches; see ``measure_inference`` for what it is made of."""

    batches: Sequence[Mapping[str, Any]]
    device: Device
    warmup_rounds: int
    rounds: int
    max_seconds: float | None
    new_tokens: int

    def cost(self, model: nn.Module, plain: nn.Module | None) -> InferenceCost:
        times = self._interleaved([model] if plain is None else [model, plain])
        return InferenceCost(
            times=times[0],
            plain=times[1] if plain is not None else None,
            model_bytes=_model_bytes(model),
            peak_bytes=self.peak_bytes(model),
            cached=_may_cache(model) if self.new_tokens else None,
        )

    def peak_bytes(self, model: nn.Module) -> int:
        """The model, and what a forward pass with its batch adds: whatever else lies on the device."""
        batch = self.batches[-1]
        inputs = tensors_in(batch)
        with garbage_collection_off(), torch.inference_mode():
            meter_context = self.device.memory_meter([*model.parameters(), *model.buffers(), *inputs])
            with meter_context as meter:
                meter.mark(FORWARD)
                model(**batch)
                meter.mark(None)
        found = meter.result()
        batch_bytes = sum(tensor.untyped_storage().nbytes() for tensor in inputs)
        return _model_bytes(model) + batch_bytes + found.peak_bytes - found.start_bytes

    def _interleaved(self, models: Sequence[nn.Module]) -> list[InferenceTimes]:
        begin = time.perf_counter()
        with garbage_collection_off(), torch.inference_mode():
            for index in range(self.warmup_rounds):
                for model in models:
                    self._round(model, index, lambda phase: None)
            self.device.synchronize()
            clock = self.device.clock()
            done = 0
            while done < self.rounds and not (
                done >= MINIMUM_ROUNDS
                and self.max_seconds is not None
                and time.perf_counter() - begin > self.max_seconds
            ):
                for model in models:
                    self._round(model, self.warmup_rounds + done, clock.mark)
                    self.device.synchronize()  # or a later model would wait for an earlier one's work
                done += 1
            steps = clock.drain()
        return [
            self._times([step.phases_s for step in steps[turn :: len(models)]]) for turn in range(len(models))
        ]

    def _round(self, model: nn.Module, index: int, mark: Callable[[str | None], None]) -> None:
        batch = self.batches[index % len(self.batches)]
        mark(FORWARD)
        model(**batch)
        if self.new_tokens:
            mark(PREFILL)
            self._generate(model, batch, 1)
            mark(GENERATE)
            self._generate(model, batch, self.new_tokens)
        mark(None)

    def _generate(self, model: Any, batch: Mapping[str, Any], count: int) -> None:
        # What ends a text early is kept from doing so: all are to write equally much.
        given = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
        given.pop("labels", None)
        model.generate(
            **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1,
            use_cache=_may_cache(model),
        )  # fmt: skip

    def _times(self, phases: Sequence[Mapping[str, float]]) -> InferenceTimes:
        forward = tuple(seconds[FORWARD] for seconds in phases)
        if not self.new_tokens:
            return InferenceTimes(forward_s=forward)
        further = self.new_tokens - 1
        return InferenceTimes(
            forward_s=forward,
            prefill_s=tuple(seconds[PREFILL] for seconds in phases),
            token_s=tuple((seconds[GENERATE] - seconds[PREFILL]) / further for seconds in phases),
        )


def _may_cache(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "use_cache", True))


def _model_bytes(model: nn.Module) -> int:
    beside = (part for _, part in parts_of_quantised(model))
    storages = {
        tensor.untyped_storage().data_ptr() or id(tensor): tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers(), *beside)
    }
    return sum(storages.values())
