"""How long steps took, as a terminal shows it."""

from __future__ import annotations

from peprof.reports.step_times import print_step_times
from peprof.results.record import PhaseTimes, StepTimes, TimedRound
from tests.reports.test_work_table import printed
from tests.results.factory import make_short


def test_phases_with_their_quartiles_and_nine_steps_of_ten() -> None:
    # 100, 108, ..., 180 ms: quartiles are read off; of each a quarter, a half and two eighths by phase. The
    # median's interval goes from the second to the last but one (a table of order statistics, n = 11).
    short = make_short(step_ms=[100 + 8 * step for step in range(11)])
    assert (
        printed(print_step_times, short)
        == """
 How long a training step takes
 phase       median          quartiles     90 %
 ──────────────────────────────────────────────
 forward    35.0 ms  30.0 ms – 40.0 ms  43.0 ms
 backward   70.0 ms  60.0 ms – 80.0 ms  86.0 ms
 clip       17.5 ms  15.0 ms – 20.0 ms  21.5 ms
 optimizer  17.5 ms  15.0 ms – 20.0 ms  21.5 ms
 step        140 ms    120 ms – 160 ms   172 ms
 11 steps by the host's clock, after 5 to warm up; the median step lies between 108 ms and
 172 ms (95 %).
 Unsteady: +59.3 % from the first third to the last, quartiles 28.6 % apart.
"""
    )


def phases(seconds: float) -> PhaseTimes:
    return PhaseTimes(
        step_s=(seconds,),
        forward_s=(seconds / 2,),
        backward_s=(seconds / 4,),
        optimizer_s=(seconds / 4,),
        clip_s=None,
    )


def test_the_other_clocks_of_a_device_and_its_rounds() -> None:
    device = phases(0.2)
    times = StepTimes(
        clock="cuda_events",
        **{name: getattr(device, name) * 4 for name in ("step_s", "forward_s", "backward_s", "optimizer_s")},
        clip_s=None,
        host=phases(0.04),
        wall=phases(0.24),
        enqueue=phases(0.02),
        pass_s=0.82,
    )
    one = TimedRound(steps=2, warmup_steps=5, steady=True, stopped_by="steps", started_at="")
    short = make_short().model_copy(update={"times": times, "rounds": (one, one), "steady": False})
    text = printed(print_step_times, short, "ascii")
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["phase"][-4:] == ["waited", "queued", "queue", "empty"]
    assert lines["step"][-6:] == ["240", "ms", "40.0", "ms", "20.0", "ms"]
    assert lines["forward"][-6:] == ["120", "ms", "20.0", "ms", "10.0", "ms"]
    assert "clip" not in lines and text.isascii()
    assert "4 steps in 2 rounds, methods in turns by the device's events" in text
    assert "take equally long yet" in text and "The whole pass by its steps: 205 ms." in text


def test_without_times_nothing_is_said() -> None:
    assert printed(print_step_times, make_short(step_ms=None)) == ""
