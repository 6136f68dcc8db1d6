"""Memory, latency, energy and accuracy of parameter-efficient fine-tuning methods, measured and compared.

The public names are imported on first use, so that ``import peprof`` costs nothing and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from peprof.devices import open_device as open_device
    from peprof.profiler.inference import measure_inference as measure_inference
    from peprof.profiler.latency import measure_latency as measure_latency
    from peprof.profiler.memory import measure_memory as measure_memory
    from peprof.profiler.profile import profile_step as profile_step
    from peprof.profiler.work import measure_work as measure_work
    from peprof.results.frame import load_results as load_results
    from peprof.results.record import RunRecord as RunRecord
    from peprof.results.store import ResultStore as ResultStore
    from peprof.running.runner import run_suite as run_suite
    from peprof.suite.loading import load_suite as load_suite
    from peprof.training.adapters import load_adapter as load_adapter
    from peprof.training.adapters import save_adapter as save_adapter
    from peprof.training.peft_format import load_from_peft as load_from_peft
    from peprof.training.peft_format import save_as_peft as save_as_peft

_HOMES = {
    "open_device": "peprof.devices",
    "measure_inference": "peprof.profiler.inference",
    "measure_latency": "peprof.profiler.latency",
    "measure_memory": "peprof.profiler.memory",
    "profile_step": "peprof.profiler.profile",
    "measure_work": "peprof.profiler.work",
    "load_results": "peprof.results.frame",
    "RunRecord": "peprof.results.record",
    "ResultStore": "peprof.results.store",
    "run_suite": "peprof.running.runner",
    "load_suite": "peprof.suite.loading",
    "load_adapter": "peprof.training.adapters",
    "save_adapter": "peprof.training.adapters",
    "load_from_peft": "peprof.training.peft_format",
    "save_as_peft": "peprof.training.peft_format",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peprof' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
