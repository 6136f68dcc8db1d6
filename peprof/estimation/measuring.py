"""The largest batch, or the longest length, that fits into a device's memory: tried on it.

The estimate's border is where the search begins, and how a step's memory grows is where it goes; what counts
is what came of real steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from peprof.errors import SuiteError
from peprof.estimation.building import KnownData, known_data
from peprof.estimation.estimating import estimate_run
from peprof.estimation.fitting import Dimension, cap_of, find_fit, sized, smallest_of, unit_of
from peprof.estimation.kernels import Kind
from peprof.estimation.pool_here import pool_here
from peprof.events import Progress
from peprof.results.estimates import SEARCH_END, Estimate, Fit
from peprof.results.measured_fits import Limit, MeasuredFit, Trial
from peprof.running.border import BorderSearch
from peprof.suite.planning import RunSpec

TryRun = Callable[[RunSpec, int, int, Callable[[Progress], None]], Trial]
"""(run with the size laid in, the size, bytes that there may be, told how far it is) -> what came of it."""

_TRIES_A_BORDER = 4
"""As many as are mostly needed, for saying how long it takes before one was found."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where sizes are tried.

    Args:
        device: ``cpu`` or ``cuda:N``.
        device_name: what it is.
        memory_bytes: that there may be: for tensors on a CPU, for the pool on a GPU.
        limit: where that comes from.
    """

    device: str
    device_name: str
    memory_bytes: int
    limit: Limit = "asked"

    @property
    def kind(self) -> Kind:
        """Whose operators run."""
        return "cuda" if self.device.startswith("cuda") else "cpu"


class MeasuredFits:
    """Finds borders one after the other, and keeps what has been found at any moment.

    Args:
        specs: the runs.
        place: where they are tried.
        dimensions: that are looked for; where one grows, the other stays as it is in the run.
        source: the suite's file, for messages.
        try_run: runs steps on the device.
        say: told how far it is.
        tell: told what came of each try, in words.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        place: Place,
        dimensions: Sequence[Dimension],
        *,
        source: str,
        try_run: TryRun,
        say: Callable[[Progress], None] = lambda event: None,
        tell: Callable[[MeasuredFit, Trial], None] = lambda fit, trial: None,
    ) -> None:
        self._place, self._pool, self._source = place, pool_here(place.kind, place.device_name), source
        self._try_run, self._say, self._tell = try_run, say, tell
        self._known = cache(lambda text: known_data(by_text[text], source=source))
        by_text = {spec.data.model_dump_json(): spec.data for spec in specs}
        self._cases = [(spec, dimension) for spec in specs for dimension in dimensions]
        self._trial_seconds: list[float] = []
        self._done = 0
        self.found = [
            MeasuredFit(
                spec=spec,
                dimension=dimension,
                device=place.device,
                device_name=place.device_name,
                memory_bytes=place.memory_bytes,
                limit=place.limit,
                assumptions=self._pool.assumptions,
            )
            for spec, dimension in self._cases
        ]

    def run(self) -> list[MeasuredFit]:
        """Finds all; what ``found`` holds when it is left by an exception is right as far as it goes.

        Raises:
            SuiteError: the data that is here is wrong.
        """
        for number, (spec, dimension) in enumerate(self._cases):
            self._done = number
            self._at(number, "estimating")
            self.found[number] = self._estimated(self.found[number], spec, dimension)
            self._search(number, spec, dimension)
            self.found[number] = replace(
                self.found[number], there=self._there(self.found[number], spec, dimension)
            )
        return self.found

    def _known_of(self, spec: RunSpec) -> KnownData:
        return self._known(spec.data.model_dump_json())

    def _estimated(self, fit: MeasuredFit, spec: RunSpec, dimension: Dimension) -> MeasuredFit:
        """With the border as it is estimated."""
        known, place = self._known_of(spec), self._place
        fit = replace(fit, unit=unit_of(spec, dimension), smallest=smallest_of(spec, dimension))
        try:
            estimated = find_fit(
                spec,
                known,
                place.kind,
                dimension,
                place.memory_bytes,
                source=self._source,
                gpu=self._pool.gpu,
                kernels=self._pool.kernels,
                settings=self._pool.settings,
            )
            cap = estimated.cap
            if cap is None:  # as a step couldn't be told
                cap = cap_of(spec, known, dimension, source=self._source)
        except SuiteError as error:  # it can be tried all the same
            cap = SEARCH_END // fit.unit * fit.unit
            problem = "; ".join(map(str, error.faults))
            untold = Estimate(spec=spec, kind=place.kind, profile=None, problem=problem)
            estimated = Fit(
                dimension=dimension, memory_bytes=place.memory_bytes, largest=None, estimate=untold
            )
        return replace(fit, cap=cap, estimated=estimated)

    def _search(self, number: int, spec: RunSpec, dimension: Dimension) -> None:
        """Tries sizes until the border is found, or a try says nothing of memory."""
        search = _search_of(self.found[number], _size_of(spec, dimension))
        while (size := search.next_size()) is not None:
            words = f"{dimension} {size}"
            self._at(number, words)

            def hear(event: Progress, words: str = words) -> None:
                self._at(number, f"{words}, {event.phase}")

            run = sized(spec, dimension, size)
            trial = self._try_run(run, size, self._place.memory_bytes, hear)
            fit = self.found[number]
            self.found[number] = fit = replace(fit, trials=(*fit.trials, trial))
            self._trial_seconds.append(trial.seconds)
            self._tell(fit, trial)
            if trial.fits is None:
                return
            search.tell(size, fits=trial.fits, need_bytes=trial.need_bytes)

    def _there(self, fit: MeasuredFit, spec: RunSpec, dimension: Dimension) -> Fit | None:
        """The estimate of the border that was measured; ``None`` where there is nothing to estimate."""
        if fit.estimated is None or fit.estimated.estimate.problem is not None or not fit.verified:
            return None

        def estimate(size: int) -> Estimate:
            for near in (fit.estimated.estimate, fit.estimated.beyond) if fit.estimated else ():
                if near is not None and _size_of(near.spec, dimension) == size:
                    return near
            run, kind = sized(spec, dimension, size), self._place.kind
            return estimate_run(
                run,
                self._known_of(spec),
                kind,
                source=self._source,
                gpu=self._pool.gpu,
                kernels=self._pool.kernels,
                settings=self._pool.settings,
            )

        at = estimate(fit.largest if fit.largest is not None else fit.smallest)
        return Fit(
            dimension=dimension,
            memory_bytes=fit.memory_bytes,
            largest=fit.largest,
            estimate=at,
            beyond=estimate(fit.beyond.size) if fit.beyond is not None else None,
            cap=fit.cap,
        )

    def _at(self, number: int, words: str) -> None:
        label = self._cases[number][0].method.label
        self._say(
            Progress(
                phase=f"fitting {label}: {words}",
                step=number,
                total=len(self._cases),
                seconds_left=self._seconds_left(number),
            )
        )

    def _seconds_left(self, number: int) -> float | None:
        """From the mean of the tries, and as many of them as borders needed so far; rough."""
        if not self._trial_seconds:
            return None
        here = len(self.found[number].trials)
        each = (len(self._trial_seconds) - here) / number if number else _TRIES_A_BORDER
        tries = max(1.0, each - here) + each * (len(self._cases) - number - 1)
        return tries * sum(self._trial_seconds) / len(self._trial_seconds)


def _size_of(spec: RunSpec, dimension: Dimension) -> int:
    return spec.train.batch_size if dimension == "batch" else spec.data.max_length


def _search_of(fit: MeasuredFit, asked: int) -> BorderSearch:
    """Begins where the border is estimated; where that can't be told, with what the run asks for."""
    assert fit.estimated is not None and fit.cap is not None
    estimated = fit.estimated
    start, growth = estimated.largest, None
    if start is None:
        start = asked if estimated.estimate.problem is not None else fit.smallest
    elif estimated.beyond is not None and estimated.beyond.peak_bytes and estimated.estimate.peak_bytes:
        growth = (estimated.beyond.peak_bytes - estimated.estimate.peak_bytes) / fit.unit
    return BorderSearch(
        start=start,
        smallest=fit.smallest,
        cap=fit.cap,
        unit=fit.unit,
        limit_bytes=fit.memory_bytes,
        growth_bytes=growth,
    )
