"""What a training changes: taken from it, and put back into one that was built again from the same seed.

Frozen weights are not in it: building again makes them, and a digest shows whether it made the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from peprof.errors import PeprofError
from peprof.training.protocols import HasTrainingState
from peprof.training.step import ClassifierStep

_SAMPLES = 64
"""Numbers of each frozen tensor that the digest looks at: another checkpoint differs nearly everywhere."""


class StateMismatchError(PeprofError):
    """A state doesn't belong to this model and optimizer; they may be half restored and are of no use."""


class MovingState:
    """Takes and puts back all that decides how a training goes on, besides what the training has found.

    That is parameters that are trained, or were changed otherwise; all buffers; the optimizer's state and
    that of the step (schedule, loss scaling, steps done); what the method remembers; the random generators.

    Args:
        step: just built and not yet run: what changes is told from what was there at first.
        method: asked for what it remembers.
        device: whose random generator the training uses, besides the host's.
    """

    def __init__(self, step: ClassifierStep, method: object, device: torch.device) -> None:
        self._step = step
        self._method = method
        self._device = device
        # In-place operations count it up, so a changed parameter is known without a copy of it.
        self._versions = {name: p._version for name, p in step.model.named_parameters()}
        self._trained = {name for name, p in step.model.named_parameters() if p.requires_grad}
        self._frozen = frozen_digest(step.model)

    def taken(self) -> dict[str, Any]:
        """Everything as plain values and tensors on the CPU: ``torch.load(weights_only=True)`` reads it.

        To be written before the training goes on: what lies on the CPU already isn't copied.
        """
        model = self._step.model
        return {
            "frozen": self._frozen,
            "parameters": {name: _plain(p) for name, p in model.named_parameters() if self._moves(name, p)},
            "trained": [name for name, p in model.named_parameters() if p.requires_grad],
            "buffers": {name: _plain(buffer) for name, buffer in model.named_buffers()},
            "step": _plain(self._step.state_dict()),
            "method": _plain(self._remembered()),
            "random": _random_states(self._device),
        }

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Restores everything.

        Args:
            state: as ``taken`` made it, of a training with the same options and seed.

        Raises:
            StateMismatchError: it is of another model, or of another optimizer; build both again.
        """
        model = self._step.model
        if state["frozen"] != self._frozen:
            raise StateMismatchError("the frozen weights are others than then")
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        _check_same(state["parameters"], parameters, self._trained)
        _check_same(state["buffers"], buffers, set(buffers))
        with torch.no_grad():
            for own, kept in ((parameters, state["parameters"]), (buffers, state["buffers"])):
                for name, tensor in kept.items():
                    own[name].copy_(tensor)
        trained = set(state["trained"])
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trained)
        try:
            self._step.load_state_dict(state["step"])
        except (ValueError, KeyError) as error:
            raise StateMismatchError(f"the optimizer is another one than then: {error}") from error
        _restore_exactly(self._step.optimizer, state["step"]["optimizer"])
        if isinstance(self._method, HasTrainingState):
            self._method.load_training_state(model, state["method"])
        _set_random_states(state["random"], self._device)

    def _moves(self, name: str, parameter: nn.Parameter) -> bool:
        return (
            parameter.requires_grad or name in self._trained or parameter._version != self._versions.get(name)
        )

    def _remembered(self) -> dict[str, Any]:
        if isinstance(self._method, HasTrainingState):
            return self._method.training_state(self._step.model)
        return {}


def frozen_digest(model: nn.Module) -> str:
    """Tells models apart whose frozen parameters differ: names, shapes, dtypes, and some of each's values.

    Args:
        model: on one device, from which only these few values are read.
    """
    digest = hashlib.sha256()
    samples: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        flat = parameter.detach().reshape(-1)
        taken = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES]
        samples.append(taken.contiguous().view(torch.uint8))
    if samples:
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """The same value with its tensors on the CPU, each in a storage of its own size."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().to("cpu")
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _check_same(kept: Mapping[str, Any], own: Mapping[str, torch.Tensor], needed: set[str]) -> None:
    """Sees that there is a value for all that needs one, and that each fits.

    Raises:
        StateMismatchError: it isn't so.
    """
    missing = sorted(needed - kept.keys())
    unknown = sorted(kept.keys() - own.keys())
    if missing or unknown:
        raise StateMismatchError(f"'{(missing or unknown)[0]}' is only in one of the two")
    for name, tensor in kept.items():
        there = own[name]
        if (tensor.shape, tensor.dtype) != (there.shape, there.dtype):
            raise StateMismatchError(
                f"'{name}' was {tuple(tensor.shape)} {tensor.dtype} and is {tuple(there.shape)} {there.dtype}"
            )


def _restore_exactly(optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Gives an optimizer's state, which was loaded, the dtypes that it had.

    ``load_state_dict`` casts state to the parameter's dtype, which loses digits where an optimizer keeps
    float32 beside parameters of fewer bits.
    """
    places = [place for group in kept["param_groups"] for place in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, parameter in zip(places, parameters, strict=True):
        loaded = optimizer.state[parameter] if place in kept["state"] else {}
        for key, value in kept["state"].get(place, {}).items():
            if isinstance(value, torch.Tensor):
                loaded[key] = value.to(loaded[key].device, copy=True)


def _random_states(device: torch.device) -> dict[str, Any]:
    name, keys, place, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.tensor(keys.astype(np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    name, keys, *others = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *others))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
