"""Any tuner of the ``peft`` library as a method: https://huggingface.co/docs/peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.peft_state import budget_state, load_budget_state
from peprof_methods.roles import checked_roles, head_parameters, modules_by_role, stack_layers

DEFAULT_TARGETS: tuple[str, ...] = ("attention.query", "attention.value")
"""Where neither the suite nor the library says what is adapted."""

TARGETS_OF: Mapping[str, tuple[str, ...]] = {
    "IA3": ("attention.key", "attention.value", "feedforward.down"),
    "LN_TUNING": ("layernorm",),
    "TRAINABLE_TOKENS": ("embedding",),
}
"""The same for tuners that adapt something else than the rest."""

PLACEHOLDER_STEPS = 1_000_000
"""For tuners that want to know how many steps there will be; told the truth after the first of them."""


@dataclass(frozen=True, kw_only=True)
class PeftTuner:
    """A tuner of the ``peft`` library, with its own options; ``peprof methods peft:NAME`` lists them.

    The head is trained too, in place; the library's second copy of it isn't made. Tuners whose rank budget
    moves (``update_and_allocate``) are told of each optimizer step, and of the number of steps where they
    want to know it.

    Args:
        tuner: its type as the library spells it, in upper case: ``OFT``, ``LOKR``, ``BOFT`` ...
        targets: roles of the modules that are adapted; ``None`` for the library's own choice, or query and
            value where it has none. Not together with the library's ``target_modules``.
        options: of the tuner's configuration.
    """

    family: ClassVar[str] = "library"
    paper: ClassVar[str] = ""
    trains: ClassVar[str] = "what the library's tuner trains"
    unsupported: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[Mapping[str, str]] = {
        "POLY": "it needs a task's number with each example",
        "MULTITASK_PROMPT_TUNING": "it needs a task's number with each example",
        "XLORA": "it mixes adapters that were trained before",
        "CPT": "it needs the tokens of a prompt that was written for the task",
    }
    """What a suite can't give, by tuner."""

    tuner: str
    targets: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.targets is not None:
            if self.options.get("target_modules") is not None:
                raise ValueError("give targets (by role) or target_modules (by name), not both")
            object.__setattr__(self, "targets", checked_roles(self.targets, option="targets"))

    @property
    def installed_name(self) -> str:
        """What a suite calls it."""
        return f"peft:{self.tuner}"

    @property
    def suite_options(self) -> dict[str, Any]:
        """Its options as a suite has them."""
        targets = {} if self.targets is None else {"targets": self.targets}
        return {**targets, **self.options}

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Wrap the model with the tuner.

        Args:
            model: changed in place; a ``PeftModel`` that holds it takes its place.

        Raises:
            UnsupportedModelError: the tuner can't be used on this model, or needs what a suite can't give.
            ImportError: the ``peft`` library isn't installed.
        """
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        if self.tuner in self.needs:
            reason = self.needs[self.tuner]
            raise UnsupportedModelError(f"peft's {self.tuner} can't be used in a suite: {reason}")
        # An unknown one is refused in our words, not in those of the library.
        if architecture_of(model).family != "llama" and self.tuner == "SHADOW":
            raise UnsupportedModelError("peft's SHADOW works on decoders only")
        if self.tuner == "TRAINABLE_TOKENS" and not self.options.get("token_indices"):
            raise UnsupportedModelError(
                "peft's TRAINABLE_TOKENS needs token_indices: which tokens are trained"
            )
        takes_cache = "past_key_values" in signature(model.forward).parameters
        if self.tuner in ("PREFIX_TUNING", "CARTRIDGE") and not takes_cache:
            raise UnsupportedModelError(
                f"peft's {self.tuner} can't be applied to {type(model).__name__}: it takes no past_key_values"
            )
        head = head_parameters(model)
        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.tuner)]
        refused: Exception | None = None
        for choice in self._choices(model, kind):
            try:
                config = kind(**choice)
                with torch.device(model.device):
                    wrapped: nn.Module = peft.get_peft_model(model, config)
            except (ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
                refused = error
                continue
            break
        else:
            reason = " ".join(str(refused).split())
            raise UnsupportedModelError(
                f"peft's {self.tuner} can't be applied to {type(model).__name__}: {reason}"
            ) from refused
        for parameter in head:
            parameter.requires_grad_(True)
        return wrapped.train(model.training)

    def _choices(self, model: PreTrainedModel, kind: Any) -> Iterator[dict[str, Any]]:
        """Arguments of the configuration: the library's own choice of targets first, then ours."""
        names = {entry.name for entry in fields(kind)}
        given = {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.options.items()
        }
        if "num_virtual_tokens" in names:
            architecture = architecture_of(model)
            given.setdefault("num_virtual_tokens", 20)
            given["task_type"] = _task_type(model)
            # The library looks for these under names that not every configuration has.
            given.setdefault("token_dim", getattr(model.config, architecture.width))
            given.setdefault("num_attention_heads", getattr(model.config, architecture.attention_heads))
            given.setdefault("num_layers", len(stack_layers(model, architecture.stacks[-1])))
        if "total_step" in names:
            given.setdefault("total_step", PLACEHOLDER_STEPS)
        if "target_modules" not in names:
            if self.targets is not None:
                raise UnsupportedModelError(f"peft's {self.tuner} has no targets to choose")
            yield given
            return
        if self.targets is None:
            yield given
        if given.get("target_modules") is not None:
            return
        roles = self.targets or TARGETS_OF.get(self.tuner, DEFAULT_TARGETS)
        chosen = list(modules_by_role(model, roles))
        more: dict[str, Any] = {"target_modules": chosen}
        if "feedforward_modules" in names and given.get("feedforward_modules") is None:
            inputs_scaled = modules_by_role(model, ("feedforward.down",))
            more["feedforward_modules"] = [name for name in chosen if name in inputs_scaled]
        yield {**given, **more}

    def after_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Let a tuner whose budget moves move it.

        Args:
            model: as ``apply`` returned it.
            step: steps done before this one.
            total_steps: of the whole training.
        """
        base: Any = getattr(model, "base_model", None)
        if not hasattr(base, "update_and_allocate"):
            return
        allocator = getattr(base, "rankallocator", None)
        if step == 0 and allocator is not None and "total_step" not in self.options:
            allocator.set_total_step(total_steps)
        base.update_and_allocate(step)

    def training_state(self, model: nn.Module) -> dict[str, Any]:
        """What the library remembers of a training beside parameters and buffers."""
        return budget_state(model)

    def load_training_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Let it remember that again.

        Args:
            model: as ``apply`` returned it, not trained yet.
            state: of ``training_state``.
        """
        load_budget_state(model, state)

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the tuner into the backbone's weights, where it can be.

        Raises:
            NotImplementedError: this tuner can't.
        """
        base: Any = getattr(model, "base_model", None)
        if not hasattr(base, "merge_and_unload"):
            raise NotImplementedError(f"peft's {self.tuner} can't be merged")
        merged: nn.Module = base.merge_and_unload()
        return merged

    def adapter_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained, and what the tuner drew at random and keeps as it is."""
        from peft import get_peft_model_state_dict

        kept = set(get_peft_model_state_dict(model))
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        others = dict(model.named_parameters()) | dict(model.named_buffers())
        drawn = {n: t.detach() for n, t in others.items() if n.replace(".default", "") in kept}
        return trained | drawn


def _task_type(model: PreTrainedModel) -> str:
    """What the library calls the model's task; prompts are put in differently for each."""
    name = type(model).__name__
    if name.endswith("ForConditionalGeneration"):
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if name.endswith("ForCausalLM") else "SEQ_CLS"
