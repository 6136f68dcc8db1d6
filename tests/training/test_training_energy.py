"""A training's joules: differences of the counter over its steps alone, and none where it is set back."""

from __future__ import annotations

from typing_extensions import override

from peprof.devices import CpuDevice
from peprof.training.trainer import Trainer
from tests.training.bag_of_words import CONFIG, encoded, make_step


class Counted(CpuDevice):
    """Ten joules from look to look; at one of them the counter begins anew."""

    def __init__(self, *, set_back_at: int | None = None) -> None:
        super().__init__()
        self.looks = 0
        self.joules = 1000.0
        self.set_back_at = set_back_at

    @override
    def energy_j(self) -> float:
        self.looks += 1
        self.joules = 5.0 if self.looks == self.set_back_at else self.joules + 10.0
        return self.joules


def joules_of(device: Counted) -> float | None:
    data = encoded(10)
    return Trainer(make_step(CONFIG, 10), CONFIG, device, seed=0).train(data, data).energy_j


def test_joules_are_those_between_the_evaluations() -> None:
    device = Counted()
    # Before and after each evaluation it is looked at; the joules in between count for none.
    assert joules_of(device) is not None
    assert device.looks % 2 == 1
    assert joules_of(Counted()) == 10.0 * (device.looks - 1) / 2


def test_a_counter_that_is_set_back_leaves_no_joules() -> None:
    assert joules_of(Counted(set_back_at=4)) is None
