"""Before the first run, in a child: can the sources be reached, is the data right, do the methods fit?"""

from __future__ import annotations

import hashlib
from functools import partial

import torch

from peprof.devices import open_device, resolve_kind
from peprof.errors import Fault, PeprofError, SourceUnreachableError, SuiteError
from peprof.events import Progress
from peprof.results.record import DataFacts
from peprof.running.environment import describe_environment
from peprof.running.methods import make_method
from peprof.running.tasks import Prepared, Say, Slot
from peprof.suite.loading import LoadedSuite
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import Suite
from peprof.training.backbone import check_model, fetch_model, load_tokenizer, model_digest
from peprof.training.data import load_data
from peprof.training.embedded import tiny
from peprof.training.optimizers import check_training
from peprof.training.quantising import missing_library, refused_cast
from peprof.training.sources import EMBEDDED_MODEL, Answer, check_sources, go_offline, model_needs_hub
from peprof.training.tasks import encode, tokenizer_texts
from peprof.training.text_to_text import make_targets


def prepare(loaded: LoadedSuite, *, device: str, fetch: bool, say: Say) -> Prepared:
    """Finds all that would make every run fail, before the first one starts.

    Raises:
        DeviceError: the device isn't there.
        SuiteError: the data or the options of a method or an optimizer are wrong, or a method doesn't fit a
            model.
        SourceUnreachableError: the hub is needed and can't be reached, and the suite has no ``[offline]``.
    """
    say(Progress(phase="setup: checking the suite"))
    resolved = resolve_kind(device)
    suite, offline_reason = _reachable_variant(loaded)
    specs = plan(suite, device=resolved.partition(":")[0], offline_reason=offline_reason)
    _check_training(loaded.source, specs)
    facts: dict[str, DataFacts] = {}
    for spec in specs:
        key = spec.data.model_dump_json()
        if key not in facts:
            say(Progress(phase=f"setup: reading {spec.data.path or spec.data.name}"))
            facts[key] = load_data(spec.data, source=loaded.source).facts
    if fetch:
        for spec in {(spec.model.model_dump_json(), spec.data.task): spec for spec in specs}.values():
            fetch_model(spec.model, source=loaded.source, say=say, task=spec.data.task)
    say(Progress(phase="setup: trying the methods on the model"))
    _check_fit(loaded.source, specs, facts, fetched=fetch)
    _check_words(loaded.source, specs, fetched=fetch)
    if fetch and any(_is_embedded(spec) for spec in specs):
        tiny.ensure_pretrained(say)
    if fetch:
        _tokenize(loaded.source, specs, say)
    return Prepared(
        specs=tuple(_with_content(spec, facts[spec.data.model_dump_json()]) for spec in specs),
        slots=_slots(resolved),
        offline_reason=offline_reason,
        environment=describe_environment(open_device(resolved)),
    )


def _tokenize(source: str, specs: tuple[RunSpec, ...], say: Say) -> None:
    """Has all token ids that full phases need in the cache: no run makes them, so none is slower for it.

    The embedded model's examples are few; its first run makes them.

    Raises:
        SuiteError: an example can't be encoded for the task.
    """
    cases = {
        (spec.model.name, spec.model.revision, spec.model.weights, spec.data.model_dump_json()): spec
        for spec in specs
        if "full" in spec.phases and not _is_embedded(spec)
    }
    for spec in cases.values():
        say(Progress(phase=f"setup: tokenizing {spec.data.path or spec.data.name}"))
        data = load_data(spec.data, source=source)
        tokenizer, geometry = load_tokenizer(
            spec.model,
            texts=partial(tokenizer_texts, data.train, spec.data),
            words=spec.data.verbalizers,
            source=source,
            task=spec.data.task,
        )
        for split in (data.train, data.validation):
            encode(split, spec.data, tokenizer, geometry, source=source).make_ready()


def _is_embedded(spec: RunSpec) -> bool:
    return spec.model.name == EMBEDDED_MODEL and spec.model.weights == "pretrained"


def _slots(resolved: str) -> tuple[Slot, ...]:
    """One slot a device; a GPU is locked by its UUID, since ordinals depend on who asks."""
    if resolved == "cpu":
        return (Slot(device="cpu", lock="cpu"),)
    every = range(torch.cuda.device_count())
    names = [f"cuda:{index}" for index in every] if resolved == "cuda" else [resolved]
    return tuple(Slot(device=name, lock=str(open_device(name).facts().uuid or name)) for name in names)


def _with_content(spec: RunSpec, facts: DataFacts) -> RunSpec:
    """The spec with a digest of what its files hold: a changed file is another run."""
    parts = [facts.fingerprint, model_digest(spec.model) or ""]
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]
    return spec.model_copy(update={"content": digest})


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
    faults: dict[Fault, None] = {}
    unreachable: dict[str, None] = {}
    for spec in plan(suite, device="cpu"):
        found, missing = check_sources(spec.model, spec.data, answers)
        faults |= dict.fromkeys(found)
        unreachable |= dict.fromkeys(missing)
    if faults:
        raise SuiteError(source, faults)
    return list(unreachable)


def _check_training(source: str, specs: tuple[RunSpec, ...]) -> None:
    """Makes each optimizer and schedule over nothing to speak of."""
    faults: dict[Fault, None] = {}
    for spec in specs:
        faults |= dict.fromkeys(check_training(spec.train, spec.model.dtype))
        if spec.model.quantization is not None:
            what = f"'{spec.model.quantization}'"
            missing = missing_library("model.quantization", what, instead="none")
            cast = refused_cast(spec.model, spec.train)
            faults |= {fault: None for fault in (missing, cast) if fault is not None}
    if faults:
        raise SuiteError(source, faults)


def _check_fit(
    source: str, specs: tuple[RunSpec, ...], facts: dict[str, DataFacts], *, fetched: bool
) -> None:
    """Makes each method and applies it to each model on ``meta``: costs no memory and little time."""
    faults: dict[Fault, None] = {}
    tried: set[str] = set()
    for spec in specs:
        case = "|".join(
            (
                spec.model.model_dump_json(),
                spec.method.model_dump_json(),
                str(spec.data.max_length),
                spec.data.task,
            )
        )
        if case in tried:
            continue
        tried.add(case)
        key = f"methods ({spec.method.label})"
        try:
            method = make_method(spec.method)
        except (ValueError, PeprofError) as error:
            faults[Fault(key=key, problem=str(error))] = None
            continue
        try:
            num_labels = facts[spec.data.model_dump_json()].num_labels
            model = check_model(
                spec.model,
                num_labels=num_labels,
                max_length=spec.data.max_length,
                source=source,
                fetched=fetched,
                task=spec.data.task,
            )
        except SuiteError as error:
            faults |= dict.fromkeys(error.faults)
            continue
        if model is None:
            continue
        try:
            with torch.device("meta"):
                method.apply(model)
        except ValueError as error:
            faults[Fault(key=key, problem=f"can't be applied to '{spec.model.name}': {error}")] = None
        except Exception:  # noqa: BLE001 -- what fails without values may work with them; its run will tell
            continue
    if faults:
        raise SuiteError(source, faults)


def _check_words(source: str, specs: tuple[RunSpec, ...], *, fetched: bool) -> None:
    """Sees that each tokenizer can tell the words of a text-to-text task apart."""
    cases = {
        (spec.model.model_dump_json(), spec.data.model_dump_json()): spec
        for spec in specs
        if spec.data.task == "text-to-text" and (fetched or not model_needs_hub(spec.model))
    }
    faults: dict[Fault, None] = {}
    for spec in cases.values():
        try:
            tokenizer, geometry = load_tokenizer(
                spec.model,
                texts=lambda: (),  # a made tokenizer knows the words whatever the texts are
                words=spec.data.verbalizers,
                source=source,
                task=spec.data.task,
            )
            make_targets(spec.data, tokenizer, geometry, source=source)
        except SuiteError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise SuiteError(source, faults)
