"""Every built-in method's step through ``profile_step``, its peaks held against the pool's own counters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peprof_methods.errors import UnsupportedModelError
from transformers import AutoModelForSequenceClassification

from peprof.breakdown.values import StepProfile
from peprof.errors import PeprofError
from peprof.profiler.profile import profile_step
from peprof.running.methods import apply_method, enable_checkpointing
from peprof.suite.catalogue import known_methods
from peprof.training.batches import Batch
from peprof.training.geometries import known_config
from peprof.training.optimizers import default_groups
from peprof.training.protocols import HasAfterStep, HasLossTerm, HasParameterGroups
from peprof.training.step import ClassifierStep

METHODS = [name for name, entry in known_methods().items() if entry.distribution == "peprof"]
ROWS, LENGTH, VOCABULARY = 8, 48, 1000
TOTAL_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a step is run."""

    name: str
    dtype: torch.dtype = torch.float32
    checkpointing: bool = False


SETTINGS = (
    Setting(name="fp32"),
    Setting(name="bf16", dtype=torch.bfloat16),
    Setting(name="fp32-checkpointed", checkpointing=True),
)


def profile_method(
    name: str, device: torch.device, setting: Setting, *, snapshot_file: Path | None = None
) -> StepProfile:
    """The second step of a method on a DistilBERT of two layers with dropout.

    Raises:
        UnsupportedModelError: the method doesn't know DistilBERT.
    """
    torch.manual_seed(0)
    config = known_config(
        "distilbert-base", n_layers=2, dim=128, n_heads=4, hidden_dim=512, vocab_size=VOCABULARY
    )
    backbone = AutoModelForSequenceClassification.from_config(config, dtype=setting.dtype)
    method: Any = known_methods()[name].construct({})
    applied = apply_method(method, backbone.to(device))
    model = applied.model.to(device)
    if setting.checkpointing:
        enable_checkpointing(model)
    if isinstance(method, HasParameterGroups):
        groups = method.parameter_groups(model, 1e-3, 0.01)
    else:
        groups = default_groups(model, 0.01)
    step = ClassifierStep(
        model,
        torch.optim.AdamW(groups, lr=1e-3),
        loss_term=partial(method.loss_term, model) if isinstance(method, HasLossTerm) else None,
        after_step=partial(method.after_step, model, total_steps=TOTAL_STEPS)
        if isinstance(method, HasAfterStep)
        else None,
    )
    ids = torch.randint(5, VOCABULARY, (ROWS, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(ROWS) % 2}
    batch = Batch(inputs=inputs, real_tokens=ROWS * LENGTH).to(device)
    return profile_step(
        model, batch, step, optimizers=step.optimizer, owner=applied.owners, snapshot_file=snapshot_file
    )


def check_method(name: str, device: torch.device, setting: Setting) -> dict[str, Any]:
    """What the JSON says of a method: the ledger's peak, the pool's, and whether they are explained."""
    try:
        found = profile_method(name, device, setting)
    except UnsupportedModelError as error:
        return {"skipped": str(error)}
    except (PeprofError, RuntimeError) as error:  # one method's never costs the others theirs
        return {"error": f"{type(error).__name__}: {error}", "equal": False}
    pool = found.pool
    return {
        "ledger_peak_bytes": found.peak_bytes,
        "ledger_categories": dict(found.peak.categories),
        "pool": asdict(pool) if pool is not None else None,
        "equal": pool is not None
        and pool.requested.residual_bytes == pool.allocated.residual_bytes == 0
        and pool.unmatched_storages == 0,
    }


def check_methods(device: torch.device) -> dict[str, dict[str, Any]]:
    """All methods, each in all settings."""
    return {
        name: {setting.name: check_method(name, device, setting) for setting in SETTINGS} for name in METHODS
    }
