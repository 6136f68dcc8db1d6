"""Saves what a method has trained, with the options that made it, and puts it onto a backbone again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from peprof.errors import StoreError, UsageError
from peprof.suite.catalogue import known_methods
from peprof.training.protocols import AppliesWhatWasSaved
from peprof.training.trained_state import state_to_save

TENSORS_FILE = "adapter.safetensors"
OPTIONS_FILE = "adapter.json"
FORMAT_VERSION = 1


def save_adapter(model: nn.Module, method: Any, directory: Path | str) -> None:
    """Writes ``adapter.safetensors`` and ``adapter.json``; the backbone isn't in them.

    Args:
        model: as the method's ``apply`` returned it, trained.
        method: the method, one of those that ``peprof methods`` lists.
        directory: made if it isn't there.

    Raises:
        UsageError: the method isn't installed under a name.
        StoreError: the files can't be written.
    """
    target = Path(directory)
    options = {"format_version": FORMAT_VERSION, "method": name_of(method), "options": _options(method)}
    # A tensor that is a view, or lies on a GPU, is written as what it shows.
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in state_to_save(model, method).items()
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / TENSORS_FILE)
        (target / OPTIONS_FILE).write_text(json.dumps(options, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"can't write an adapter into '{target}': {error}") from error


def load_adapter(model: PreTrainedModel, directory: Path | str) -> nn.Module:
    """Applies the method that a saved adapter came from, and gives it the saved values.

    Args:
        model: the backbone that it was trained on; changed in place.
        directory: as ``save_adapter`` wrote it.

    Returns:
        What the method's ``apply`` makes of the model.

    Raises:
        UsageError: the directory holds no adapter, its method isn't installed, or it doesn't fit the model.
        StoreError: a file is damaged.
    """
    source = Path(directory)
    method = saved_method(source)
    try:
        tensors = load_file(source / TENSORS_FILE)
    except FileNotFoundError as error:
        raise UsageError(f"'{source}' holds no {TENSORS_FILE}") from error
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{source / TENSORS_FILE}: can't be read: {error}") from error
    try:
        saves_shapes = isinstance(method, AppliesWhatWasSaved)
        applied: nn.Module = method.apply_saved(model, tensors) if saves_shapes else method.apply(model)
    except ValueError as error:
        raise UsageError(f"{source}: can't be put onto this model: {error}") from error
    fit(applied, tensors, origin=str(source))
    return applied


def saved_method(directory: Path) -> Any:
    """The method of a saved adapter, with its options.

    Raises:
        UsageError: there is no adapter, or its method isn't installed.
        StoreError: the file is damaged or of a newer format.
    """
    path = directory / OPTIONS_FILE
    try:
        saved = json.loads(path.read_text())
        version, name, options = saved["format_version"], saved["method"], saved["options"]
    except FileNotFoundError as error:
        raise UsageError(
            f"'{directory}' holds no adapter: there is no {OPTIONS_FILE}",
            hint="Name a directory that save_adapter wrote.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: is not an adapter's description ({error!r})") from error
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: has format version {version}; this peprof reads up to {FORMAT_VERSION}",
            hint="Upgrade peprof: 'pip install --upgrade peprof'.",
        )
    known = known_methods()
    if name not in known:
        raise UsageError(
            f"{path}: its method '{name}' isn't installed", hint="'peprof methods' lists those that are."
        )
    return known[name].construct(options)


def fit(model: nn.Module, tensors: dict[str, torch.Tensor], *, origin: str) -> None:
    """Copies tensors into the parameters and buffers of the same names.

    Raises:
        UsageError: a name isn't there, or a shape is another.
    """
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if name not in own:
            raise UsageError(f"{origin}: '{name}' isn't in the model; it was trained on another architecture")
        if own[name].shape != tensor.shape:
            raise UsageError(
                f"{origin}: '{name}' is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def name_of(method: Any) -> str:
    """The name under which a method is installed.

    Raises:
        UsageError: there is none.
    """
    if hasattr(method, "installed_name"):
        return str(method.installed_name)
    kind = type(method)
    value = f"{kind.__module__}:{kind.__qualname__}"
    for name, entry in known_methods().items():
        if entry.value == value:
            return name
    raise UsageError(
        f"the method {value} isn't installed under a name",
        hint="Announce it under the entry-point group 'peprof.methods'.",
    )


def _options(method: Any) -> dict[str, Any]:
    if hasattr(method, "suite_options"):
        return dict(method.suite_options)
    if dataclasses.is_dataclass(method) and not isinstance(method, type):
        return dataclasses.asdict(method)
    return dict(vars(method))
