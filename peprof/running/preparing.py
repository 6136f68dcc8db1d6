"""Before the first run, in a child: can the sources be reached, is the data right, do the options fit?"""

from __future__ import annotations

import torch

from peprof.devices import resolve_kind
from peprof.errors import Fault, SourceUnreachableError, SuiteError
from peprof.events import Progress
from peprof.running.methods import make_method
from peprof.running.tasks import Prepared, Say
from peprof.suite.loading import LoadedSuite
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import Suite
from peprof.training.backbone import fetch_model
from peprof.training.data import load_data
from peprof.training.embedded import tiny
from peprof.training.sources import EMBEDDED_MODEL, Answer, check_sources, go_offline


def prepare(loaded: LoadedSuite, *, device: str, warm_caches: bool, say: Say) -> Prepared:
    """Finds all that would make every run fail, before the first one starts.

    Raises:
        DeviceError: the device isn't there.
        SuiteError: the data or a method's options are wrong; all faults together.
        SourceUnreachableError: the hub is needed and can't be reached, and the suite has no ``[offline]``.
    """
    say(Progress(phase="setup: checking the suite"))
    resolved = resolve_kind(device)
    slots = [resolved]
    if resolved == "cuda":
        slots = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    suite, offline_reason = _reachable_variant(loaded)
    specs = plan(suite, device=resolved.partition(":")[0], offline_reason=offline_reason)
    _check_methods(loaded.source, specs)
    for data in {spec.data.model_dump_json(): spec.data for spec in specs}.values():
        say(Progress(phase=f"setup: reading {data.path or data.name}"))
        load_data(data, source=loaded.source)
    for model in {spec.model.model_dump_json(): spec.model for spec in specs}.values():
        fetch_model(model, source=loaded.source, say=say)
    if warm_caches and any(
        spec.model.name == EMBEDDED_MODEL and spec.model.weights == "pretrained" for spec in specs
    ):
        tiny.ensure_pretrained(say)
    return Prepared(device=resolved, slots=tuple(slots), offline_reason=offline_reason)


def _reachable_variant(loaded: LoadedSuite) -> tuple[Suite, str | None]:
    """The suite as written, or with its overlay and the reason why."""
    answers: dict[tuple[str, str], Answer] = {}
    unreachable = _check_variant(loaded.source, loaded.suite, answers)
    if not unreachable:
        return loaded.suite, None
    go_offline()
    names = " and ".join(f"'{name}'" for name in unreachable)
    reason = f"the hub can't be reached and {names} {'is' if len(unreachable) == 1 else 'are'} not cached"
    if loaded.offline is not None and not _check_variant(loaded.source, loaded.offline, answers):
        return loaded.offline, reason
    raise SourceUnreachableError(
        f"{loaded.source}: {reason}",
        hint="Connect to the network once; or use local copies: --set model.name=DIR --set data.path=DIR; or "
        "measure without them: --set model.weights=random --set data.name=peprof/reviews.",
    )


def _check_variant(source: str, suite: Suite, answers: dict[tuple[str, str], Answer]) -> list[str]:
    specs = plan(suite, device="cpu")
    faults: dict[Fault, None] = {}
    unreachable: dict[str, None] = {}
    for spec in specs:
        found, missing = check_sources(spec.model, spec.data, answers)
        faults |= dict.fromkeys(found)
        unreachable |= dict.fromkeys(missing)
    if faults:
        raise SuiteError(source, faults)
    return list(unreachable)


def _check_methods(source: str, specs: tuple[RunSpec, ...]) -> None:
    """Makes each method once: its own checks see what types alone don't."""
    faults: dict[Fault, None] = {}
    for spec in specs:
        try:
            make_method(spec.method)
        except ValueError as error:
            faults[Fault(key=f"methods ({spec.method.label})", problem=str(error))] = None
    if faults:
        raise SuiteError(source, faults)
