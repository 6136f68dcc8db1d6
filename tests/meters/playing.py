"""Follows a stand-in GPU for some seconds of its own clock."""

from __future__ import annotations

from peprof.meters.nvml_source import NvmlSource
from peprof.meters.polling import poll
from peprof.meters.reading import Reading, Source
from peprof.meters.sampler import Trace
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
