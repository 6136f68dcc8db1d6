"""Follows a stand-in GPU for some seconds of its own clock."""

from __future__ import annotations

import time
from types import TracebackType

from typing_extensions import override

from peprof.meters.nvml_source import NvmlSource
from peprof.meters.polling import poll
from peprof.meters.reading import Reading, Source
from peprof.meters.sampler import Sampler, Trace
from tests.meters.fake_nvml import UUID, FakeNvml, FakeTime


def follow(
    gpu: FakeNvml, clock: FakeTime, seconds: float, *, pid: int | None = None, period_s: float = 0.02
) -> Trace:
    """All readings of a sampler that is told to stop after so many seconds."""
    source = NvmlSource(UUID, pid, library=gpu, clock=clock)
    trace = follow_source(source, clock, seconds, period_s=period_s)
    source.close()
    return trace


def follow_source(source: Source, clock: FakeTime, seconds: float, *, period_s: float = 0.02) -> Trace:
    readings: list[Reading] = []
    end_s = clock() + seconds

    def wait(delay_s: float) -> bool:
        clock.sleep(delay_s)
        return clock() >= end_s

    def take(reading: Reading) -> None:
        assert Reading.from_line(reading.as_line()) == reading  # as it comes from the other process
        readings.append(reading)

    poll(source, take, wait, period_s=period_s, everything_s=0.25, clock=clock, sleep=clock.sleep)
    return Trace(readings=tuple(readings))


class PlayedSampler(Sampler):
    """A sampler without a process: what it would have seen of a GPU of 200 W, were the machine never busy."""

    def __init__(self) -> None:
        super().__init__({}, period_s=0.02)
        self.entered_s: float | None = None
        self.left_s: float | None = None

    @override
    def __enter__(self) -> PlayedSampler:
        self.entered_s = time.perf_counter()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_s = time.perf_counter()

    @override
    def trace(self) -> Trace:
        assert self.entered_s is not None
        assert self.left_s is not None
        clock = FakeTime(self.entered_s - 0.5)
        return follow(FakeNvml(clock), clock, self.left_s - clock())
