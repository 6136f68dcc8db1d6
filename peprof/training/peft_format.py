"""Adapters in the ``peft`` library's own format, written and read without that library.

``PeftModel.from_pretrained`` loads what is written here; what ``save_pretrained`` wrote there is loaded here
as the method of the same meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peprof_methods.errors import UnsupportedModelError
from peprof_methods.roles import modules_by_role
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof.errors import StoreError, UsageError
from peprof.suite.catalogue import known_methods
from peprof.training.adapters import fit, name_of
from peprof.training.peft_forms import BELOW_MODEL, BELOW_TUNER, Form, Saved, Trained, Writer, below_model
from peprof.training.peft_lora import LoRAForm, PrincipalForm
from peprof.training.peft_low_rank import AdaLoRAForm, VeRAForm
from peprof.training.peft_parts import IA3Form, LayerNormForm, SelectedForm, TunerForm
from peprof.training.peft_prompts import PrefixForm, PromptForm
from peprof.training.protocols import AppliesWhatWasSaved

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"

_BESIDE_MODEL = ("vera_A", "vera_B")

_FORMS: Mapping[str, Form] = {
    "lora": LoRAForm(),
    "lora_fa": LoRAForm(),
    "dora": LoRAForm(),
    "pissa": PrincipalForm(),
    "siva": PrincipalForm(),
    "vera": VeRAForm(),
    "adalora": AdaLoRAForm(),
    "ia3": IA3Form(),
    "layernorm": LayerNormForm(),
    "sparse": SelectedForm(),
    "prompt_tuning": PromptForm(),
    "prefix_tuning": PrefixForm(),
    "p_tuning_v2": PrefixForm(),
}
"""By the name of the method here."""

_TYPES: Mapping[str, Form] = {
    "LORA": LoRAForm(),
    "VERA": VeRAForm(),
    "ADALORA": AdaLoRAForm(),
    "IA3": IA3Form(),
    "LN_TUNING": LayerNormForm(),
    "SHIRA": SelectedForm(),
    "PROMPT_TUNING": PromptForm(),
    "PREFIX_TUNING": PrefixForm(),
}
"""By the library's name of the tuner."""


def has_peft_format(method: Any) -> bool:
    """Whether the ``peft`` library has a counterpart of a method; not on every model, perhaps."""
    return _writer(name_of(method)) is not None


def save_as_peft(
    model: nn.Module, method: Any, directory: Path | str, *, backbone: PreTrainedModel | None = None
) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors`` as the ``peft`` library would.

    The head is written too, as ``modules_to_save``.

    Args:
        model: as the method's ``apply`` returned it, trained.
        method: the method.
        directory: made if it isn't there.
        backbone: the model as it was before; only PiSSA and SiVA with ``svd_iterations`` need it.

    Raises:
        UsageError: the library has no counterpart.
        StoreError: the files can't be written.

    Example:
        >>> save_as_peft(trained, method, "adapter/peft")  # doctest: +SKIP
        >>> PeftModel.from_pretrained(backbone, "adapter/peft")  # doctest: +SKIP
    """
    name, target = name_of(method), Path(directory)
    writer = _writer(name)
    if writer is None:
        raise UsageError(
            f"the peft library has no counterpart of '{name}'; it has those of {', '.join(sorted(_FORMS))}",
            hint="save_adapter keeps it in peprof's own format.",
        )
    wrapped: Any = model
    plain: nn.Module = wrapped.get_base_model() if hasattr(model, "get_base_model") else model
    heads = modules_by_role(plain, ["head"])
    _check_all_is_written(plain, heads, writer, name)
    config, tensors = writer.write(Trained(model=model, method=method, backbone=backbone))
    head = {
        f"{name}.{part}": parameter.detach()
        for name, module in heads.items()
        for part, parameter in module.named_parameters()
    }
    alone = "prompt_embeddings" in tensors
    named = {f"{_prefix(name, alone=alone)}{name}": tensor for name, tensor in {**tensors, **head}.items()}
    described = {
        **config,
        "task_type": task_type(plain),
        "base_model_name_or_path": getattr(plain, "name_or_path", "") or None,
        "inference_mode": True,
        "modules_to_save": list(heads) or None,
    }
    try:
        text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    except TypeError as error:
        raise UsageError(f"options of '{name}' can't be written as JSON: {error}") from error
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Copies, so that no two tensors share memory, which the format doesn't allow.
        cloned = {name: tensor.cpu().contiguous().clone() for name, tensor in named.items()}
        save_file(cloned, target / TENSORS_FILE, metadata={"format": "pt"})
        (target / CONFIG_FILE).write_text(text)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"can't write an adapter into '{target}': {error}") from error


def load_from_peft(model: PreTrainedModel, directory: Path | str) -> nn.Module:
    """Applies the method that means what an adapter of the ``peft`` library does, with its values.

    Args:
        model: the backbone that it was trained on; changed in place.
        directory: as the library's ``save_pretrained``, or ``save_as_peft``, wrote it.

    Returns:
        What the method's ``apply`` makes of the model.

    Raises:
        UsageError: the directory holds no such adapter, it has no counterpart here, or doesn't fit the model.
        StoreError: a file is damaged.
    """
    source = Path(directory)
    config, stored = _read(source)
    kind = str(config.get("peft_type"))
    if kind not in _TYPES:
        raise UsageError(
            f"{source}: the tuner {kind} has no counterpart here; those of {', '.join(sorted(_TYPES))} have",
            hint="Any tuner can be trained as 'peft:NAME'; load this one with the peft library.",
        )
    form = _TYPES[kind]
    try:
        heads = modules_by_role(model, ["head"])
    except UnsupportedModelError as error:
        raise UsageError(f"{source}: {error}") from error
    head_names = {f"{name}.{part}" for name, module in heads.items() for part, _ in module.named_parameters()}
    names = {name: below_model(name) for name in stored}
    head = {names[name]: tensor for name, tensor in stored.items() if names[name] in head_names}
    rest = {names[name]: tensor for name, tensor in stored.items() if names[name] not in head_names}
    saved = Saved(origin=str(source), model=model, config=config, tensors=rest)
    method_name, options = form.method(saved)
    try:
        method = known_methods()[method_name].construct(options)
        if isinstance(method, AppliesWhatWasSaved):
            applied: nn.Module = method.apply_saved(model, form.values(saved, model))
        else:
            applied = method.apply(model)
    except (UnsupportedModelError, ValueError) as error:
        raise UsageError(f"{source}: can't be put onto this model: {error}") from error
    fit(applied, {**form.values(saved, applied), **head}, origin=str(source))
    return applied


def _writer(name: str) -> Writer | None:
    return TunerForm() if name.startswith("peft:") else _FORMS.get(name)


def _check_all_is_written(
    model: nn.Module, heads: Mapping[str, nn.Module], writer: Writer, method_name: str
) -> None:
    """Refuses a model with something trained that the library's format has no place for.

    Raises:
        UsageError: there is such a parameter.
    """
    if writer.trains is None:
        return
    of_heads = {id(parameter) for module in heads.values() for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        known = id(parameter) in of_heads or writer.trains & set(name.split("."))
        if parameter.requires_grad and not known:
            raise UsageError(
                f"'{name}' is trained too; the peft library's format of '{method_name}' has no place for it",
                hint="save_adapter keeps it in peprof's own format.",
            )


def _prefix(name: str, *, alone: bool) -> str:
    """What stands before a name in the file; the model of a prompt has no tuner around it.

    A tuner of the library names its own tensors itself.
    """
    if name == "prompt_embeddings" or name.startswith(BELOW_TUNER):
        return ""
    return BELOW_TUNER if alone or name in _BESIDE_MODEL else BELOW_MODEL


def task_type(model: nn.Module) -> str:
    """What the library calls the model's task."""
    name = type(model).__name__
    if name.endswith("ForConditionalGeneration"):
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if name.endswith("ForCausalLM") else "SEQ_CLS"


def _read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = source / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
        tensors = load_file(source / TENSORS_FILE)
    except FileNotFoundError as error:
        missing = CONFIG_FILE if not path.exists() else TENSORS_FILE
        raise UsageError(
            f"'{source}' holds no adapter of the peft library: there is no {missing}",
            hint="Name a directory that save_pretrained wrote, as safetensors.",
        ) from error
    except SafetensorError as error:
        raise StoreError(f"{source / TENSORS_FILE}: can't be read: {error}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: can't be read: {error}") from error
    if not isinstance(config, dict):
        raise StoreError(f"{path}: is not a configuration of the peft library")
    return config, tensors
