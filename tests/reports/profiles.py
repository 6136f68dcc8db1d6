"""A profile of a step with values made by hand: two layers, a head, and what is outside."""

from __future__ import annotations

from collections.abc import Sequence

from peprof.breakdown.values import (
    OUTSIDE,
    ActivationBreakdown,
    CheckpointRegion,
    ModuleBytes,
    Moment,
    PhaseMemory,
    SavedStorage,
    StepProfile,
    Timeline,
)

MIB = 1024 * 1024


def module(name: str, children: Sequence[ModuleBytes] = (), **mib: float) -> ModuleBytes:
    """A module with own mebibytes by category; a dot in a category is written as two underscores."""
    own = {key.replace("__", "."): int(value * MIB) for key, value in mib.items()}
    own_bytes = sum(own.values())
    return ModuleBytes(
        name=name,
        own_bytes=own_bytes,
        total_bytes=own_bytes + sum(child.total_bytes for child in children),
        categories=own,
        children=tuple(children),
    )


def peak_tree() -> ModuleBytes:
    layers = [
        module(f"bert.encoder.layer.{number}", activations=activations, parameters__frozen=10)
        for number, activations in ((1, 30), (0, 20))
    ]
    encoder = module("bert.encoder.layer", layers)
    bert = module("bert", [module("bert.encoder", [encoder]), module("bert.pooler", gradients=2)])
    return module(
        "", [bert, module(OUTSIDE, inputs=4, unattributed=2), module("head", parameters__trainable=2)]
    )


def moment(**changes: object) -> Moment:
    values: dict[str, object] = {
        "phase": "backward",
        "event": 30,
        "total_bytes": 80 * MIB,
        "operator": "aten.mm",
        "module": "bert.encoder.layer.1",
        "categories": {
            "activations": 50 * MIB,
            "parameters.frozen": 20 * MIB,
            "inputs": 4 * MIB,
            "gradients": 2 * MIB,
            "parameters.trainable": 2 * MIB,
            "unattributed": 2 * MIB,
        },
        "operators": {"aten.addmm": 50 * MIB, "(before the step)": 26 * MIB, "aten.mm": 4 * MIB},
        "owners": {"backbone": 72 * MIB, "(nobody)": 6 * MIB, "head": 2 * MIB},
        "modules": peak_tree(),
    }
    return Moment(**(values | changes))  # type: ignore[arg-type]


def start() -> Moment:
    return moment(
        phase="forward",
        total_bytes=28 * MIB,
        operator=None,
        module=None,
        categories={"parameters.frozen": 20 * MIB, "inputs": 6 * MIB, "parameters.trainable": 2 * MIB},
        operators={"(before the step)": 28 * MIB},
        owners={"backbone": 20 * MIB, "(nobody)": 6 * MIB, "head": 2 * MIB},
        modules=module(
            "", [module("bert", parameters__frozen=20, parameters__trainable=2), module(OUTSIDE, inputs=6)]
        ),
    )


def saved(name: str | None, operator: str, shape: tuple[int, ...], mib: float) -> SavedStorage:
    return SavedStorage(
        module=name,
        operator=operator,
        made_in=name,
        made_by=operator,
        shape=shape,
        dtype="bfloat16",
        nbytes=int(mib * MIB),
    )


def profile() -> StepProfile:
    kept = ActivationBreakdown(
        saved=(
            saved("bert.encoder.layer.0", "aten.addmm", (8, 64, 32), 15),
            saved("bert.encoder.layer.1", "aten.addmm", (8, 64, 32), 15),
            saved("bert.encoder.layer.1", "aten.gelu", (8, 64, 128), 20),
            saved(None, "aten.nll_loss_forward", (), 0.5),
        ),
        recomputed=(saved("bert.encoder.layer.0", "aten.gelu", (8, 64, 128), 20),),
        regions=(
            CheckpointRegion(module="bert.encoder.layer.0", saved_bytes=15 * MIB, recomputed_bytes=20 * MIB),
        ),
    )
    timeline = Timeline(
        events=(0, 10, 30, 40, 50),
        phases=("forward", "forward", "backward", "backward", "optimizer"),
        categories={
            "activations": (0, 50 * MIB, 50 * MIB, 0, 0),
            "parameters.frozen": (28 * MIB,) * 5,
            "unattributed": (0, 0, 2 * MIB, 0, 0),
        },
    )
    return StepProfile(
        device="cpu",
        start_bytes=28 * MIB,
        end_bytes=28 * MIB,
        peak=moment(),
        phases=(
            PhaseMemory(phase="forward", peak=start(), end_bytes=28 * MIB),
            PhaseMemory(phase="backward", peak=moment(), end_bytes=40 * MIB),
        ),
        phases_from="marks",
        activations=kept,
        timeline=timeline,
    )
