"""Suite -> runs: the matrix expanded, and a stable id for each run made from what decides its result."""

from __future__ import annotations

import hashlib
import json

from peprof.suite.schema import (
    DataConfig,
    LimitsConfig,
    MethodConfig,
    ModelConfig,
    Part,
    Phase,
    ShortConfig,
    TrainConfig,
)


class RunSpec(Part):
    """Everything one run needs: one method, one seed, one point of the matrix.

    Args:
        suite: the suite's name.
        phases: what is done.
        train: with the method's overrides laid in; its ``seeds`` are those of the suite.
        method: with all its options, defaults included.
        seed: of this run.
        device: ``cpu`` or ``cuda``.
        offline_reason: why the suite's ``[offline]`` overlay was laid over it; ``None`` when it was not.
    """

    suite: str
    phases: tuple[Phase, ...]
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    short: ShortConfig
    limits: LimitsConfig
    method: MethodConfig
    seed: int
    device: str
    offline_reason: str | None = None

    @property
    def run_id(self) -> str:
        """``LABEL-sSEED-HASH``: equal for equal work, different where anything differs that decides the result.

        Left out of the hash: the suite's name, the limits, the other seeds, and why it ran offline.
        """
        decides = self.model_dump(mode="json", exclude={"suite", "limits", "offline_reason", "seed"})
        decides["train"].pop("seeds")
        decides["method"].pop("label")
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.method.label}-s{self.seed}-{digest}"
