"""The largest that fits: against brute force, with caps set by the ledger."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peprof.estimation import fitting
from peprof.estimation.building import KnownData, known_data
from peprof.estimation.estimating import estimate_run
from peprof.estimation.fitting import Dimension, _border, find_fit, find_fits, sized
from peprof.estimation.remedies import remedies_for
from peprof.estimation.targets import find_target
from peprof.results.estimates import SEARCH_END, Estimate
from peprof.running import methods
from peprof.suite.planning import RunSpec
from tests.estimation.small_models import known_once, spec_of, write_configs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _look_methods_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "known_methods", known_once)


class Curve:
    """Stands for steps: what each size needs, by the quick way and verified, which differ by a little."""

    def __init__(self, needs: Callable[[int], int], more: int = 0) -> None:
        self._needs, self._more = needs, more
        self.verified: dict[int, int] = {}
        self.asked: set[int] = set()

    def verify(self, size: int) -> None:
        self.verified[size] = self._needs(size)

    def need_bytes(self, size: int) -> int:
        self.asked.add(size)
        return self.verified[size] if size in self.verified else self._needs(size) + self._more


CURVES: dict[str, Callable[[int], int]] = {
    "line": lambda size: 100 + 7 * size,
    "square": lambda size: 100 + size + 3 * size * size,
    "stairs": lambda size: 100 + 64 * (size // 8),
    "bent": lambda size: max(5_000, 11 * size),
}


@pytest.mark.parametrize("more", [0, -300, 300])
@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("limit", [0, 107, 108, 1_000, 123_456, 10**12])
@pytest.mark.parametrize("curve", CURVES)
def test_the_search_agrees_with_counting_up_and_asks_little(
    curve: str, limit: int, unit: int, more: int
) -> None:
    needs, cap = CURVES[curve], 8_000
    expected = max((n for n in range(unit, cap + 1, unit) if needs(n) <= limit), default=None)
    steps = Curve(needs, more)
    steps.verify(unit)
    assert _border(steps, limit, smallest=unit, cap=cap, unit=unit) == expected  # type: ignore[arg-type]
    if expected is not None:
        assert expected in steps.verified and (expected == cap or expected + unit in steps.verified)
    assert len(steps.verified) <= 20 and len(steps.asked - set(steps.verified)) <= 8
    if curve == "line":
        assert len(steps.verified) <= (5 if more == 0 else 9)


def peak(spec: RunSpec, known: KnownData, dimension: Dimension, size: int) -> int:
    found = estimate_run(sized(spec, dimension, size), known, "cpu", source="a suite").peak_bytes
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("architecture", "dimension"), [("bert", "batch"), ("llama-lm", "length")])
def test_it_agrees_with_brute_force(
    models: Path, method: str, architecture: str, dimension: Dimension
) -> None:
    spec = spec_of(models, architecture, method)
    known = known_data(spec.data, source="a suite")
    first = 1 if dimension == "batch" else 4
    sizes = range(first, first + 6)
    peaks = {size: peak(spec, known, dimension, size) for size in sizes}
    for limit in (peaks[first] - 1, peaks[first + 4] - 1, peaks[first + 4]):
        expected = max((size for size in sizes if peaks[size] <= limit), default=None)
        found = find_fit(spec, known, "cpu", dimension, limit, source="a suite")
        assert found.largest == expected
        if expected is not None:
            assert found.need_bytes == peaks[expected]
            assert found.beyond is not None and found.beyond.peak_bytes == peaks[expected + 1]


@pytest.mark.slow
def test_batches_are_of_whole_parts(models: Path) -> None:
    spec = spec_of(models, "bert", "full", train__gradient_accumulation_steps=4)
    known = known_data(spec.data, source="a suite")
    found = find_fit(spec, known, "cpu", "batch", peak(spec, known, "batch", 12) + 1, source="a suite")
    assert found.largest == 12


def test_positions_are_a_limit_of_their_own(models: Path) -> None:
    spec = spec_of(models, "bert", "bitfit")
    found = find_fit(spec, known_data(spec.data, source=""), "cpu", "length", 10**12, source="a suite")
    assert found.largest == 40 and found.at_models_end and found.bound_by is None
    assert found.beyond is None


@pytest.mark.slow
def test_for_a_gpu_its_simulated_pool_is_what_has_to_fit(models: Path) -> None:
    gpu = find_target("rtx4090").gpu
    spec = spec_of(models, "bert", "lora")
    known, limit = known_data(spec.data, source="a suite"), 40 * 2**20

    def reserved(size: int) -> int:
        run = sized(spec, "batch", size)
        found = estimate_run(run, known, "cuda", source="a suite", gpu=gpu).reserved_bytes
        assert found is not None
        return found

    fit = find_fits(spec, known, "cuda", ["batch"], limit, source="a suite", gpu=gpu)["batch"]
    assert fit.largest is not None and not fit.at_cap
    assert fit.need_bytes == reserved(fit.largest) <= limit < reserved(fit.largest + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "limit", "bound", "remedies"),
    [
        ("lora", 900_000, "activations", {"gradient checkpointing"}),
        ("lora", 250_000, "parameters", {"gradient checkpointing", "weights in nf4", "bfloat16"}),
        ("full", 800_000, "optimizer", {"gradient checkpointing", "bfloat16", "adamw-8bit"}),
    ],
)
def test_what_would_help_is_tried_where_it_may(
    models: Path, method: str, limit: int, bound: str, remedies: set[str]
) -> None:
    """Each is as large as a search for the changed run finds it; what doesn't help isn't named."""
    spec = spec_of(models, "llama-lm", method, data__max_length=4)
    known = known_data(spec.data, source="")
    said: list[str] = []
    fit = find_fits(spec, known, "cuda", ["batch"], limit, source="a suite", say=said.append)["batch"]
    tried = dict(remedies_for(fit, spec))
    assert fit.bound_by == bound and set(tried) == remedies
    for name, changed in tried.items():
        largest = find_fit(changed, known, "cuda", "batch", limit, source="a suite").largest
        helps = largest is not None and largest > (fit.largest or 0)
        assert fit.remedies.get(name) == (largest if helps else None)
    assert fit.remedies, "something helps"
    assert said[0] == "batch 1" and any(words.endswith(" with gradient checkpointing") for words in said)


def test_where_everything_fits_it_is_not_the_model_that_ends_it(models: Path) -> None:
    spec = spec_of(models, "distilbert", "head")
    found = find_fit(spec, known_data(spec.data, source=""), "cpu", "batch", 10**15, source="a suite")
    assert found.largest == SEARCH_END and found.at_cap and not found.at_models_end


def test_a_size_on_the_way_that_cant_be_told_is_named_and_no_border_is_guessed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(models, "bert", "lora")
    known = known_data(spec.data, source="")
    limit = peak(spec, known, "batch", 12)

    def above(last: int, answer: Any, real: Any, size_of: Any) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            return answer(arguments[0]) if size_of(arguments) > last else real(*arguments, **options)

        return called

    def refuse(*_: Any) -> None:
        raise NotImplementedError("aten::odd has no kernel for Meta")

    with monkeypatch.context() as patch:  # on the quick way
        patch.setattr(fitting, "trace", above(9, refuse, fitting.trace, lambda a: len(a[1].inputs["labels"])))
        found = find_fit(spec, known, "cpu", "batch", limit, source="a suite")
    assert found.largest is None and found.need_bytes is None and found.estimate.profile is None
    told = re.fullmatch(
        r"batch (\d+): can't be told without data: aten::odd has no kernel for Meta",
        found.estimate.problem or "",
    )
    assert told is not None and int(told[1]) > 9

    def untold(run: RunSpec) -> Estimate:
        return Estimate(spec=run, kind="cpu", profile=None, problem="it can't")

    def batch_of(arguments: Any) -> int:
        return int(arguments[0].train.batch_size)

    monkeypatch.setattr(fitting, "estimate_run", above(12, untold, fitting.estimate_run, batch_of))
    beyond = find_fit(spec, known, "cpu", "batch", limit, source="a suite")
    assert (beyond.largest, beyond.estimate.problem) == (None, "batch 13: it can't")
