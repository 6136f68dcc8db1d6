"""What can't be had whatever memory there is: found before anything is estimated, as it is before a run."""

from __future__ import annotations

from collections.abc import Sequence

from peprof.errors import Fault, PeprofError, SuiteError
from peprof.results.estimates import SEARCH_END
from peprof.running.methods import make_method
from peprof.suite.planning import RunSpec
from peprof.training.optimizers import check_training


def check_runs(specs: Sequence[RunSpec], *, source: str) -> None:
    """Sees that methods, optimizers and sizes are ones that a run could have.

    A library that isn't installed is no fault here: nothing is run with it.

    Args:
        specs: the runs.
        source: the suite's file, for messages.

    Raises:
        SuiteError: some aren't; all of them are in it.
    """
    faults: dict[Fault, None] = {}
    for spec in specs:
        try:
            make_method(spec.method)
        except (ValueError, PeprofError) as error:
            faults[Fault(key=f"methods ({spec.method.label})", problem=str(error))] = None
        training = check_training(spec.train, spec.model.dtype)
        faults |= {fault: None for fault in training if fault.key != "train.optimizer"}
        faults |= dict.fromkeys(_size_faults(spec))
    if faults:
        raise SuiteError(source, faults)


def _size_faults(spec: RunSpec) -> list[Fault]:
    sizes = {
        "train.batch_size": spec.train.batch_size,
        "data.max_length": spec.data.max_length,
        "data.max_target_length": spec.data.max_target_length,
    }
    expected = f"at most {SEARCH_END:,}"
    return [
        Fault(key=key, problem=f"found {size:,}", expected=expected)
        for key, size in sizes.items()
        if size > SEARCH_END
    ]
