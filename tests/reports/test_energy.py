"""What ``peprof show`` says of a step's energy, and the column of it, as they are printed."""

from __future__ import annotations

import io

from rich.console import Console

from peprof.reports.columns import column_named
from peprof.reports.energy import print_energy
from peprof.results.comparison import leaderboards
from peprof.results.flat_rows import flat_row
from peprof.results.record import EnergyResult
from peprof.results.rows import make_rows
from tests.results.factory import make_record, make_short, make_spec

COUNTED = EnergyResult(
    steps=200, seconds=5.0, energy_j=1000.0, step_energy_j=5.0, sample_energy_j=0.3125, mean_power_w=200.0,
    counter_period_s=0.1, integrated_j=980.0, power_kind="instant",
)  # fmt: skip


def printed(energy: EnergyResult) -> str:
    out = io.StringIO()
    print_energy(Console(file=out, width=110), energy)
    return out.getvalue()


def test_the_energy_of_a_step() -> None:
    assert printed(COUNTED) == (
        "\n Energy of a step: 5.00 J, 312 mJ per sample, 200 W in the mean\n"
        " The device's counter over 200 steps in 5.00 s; it moves every 100 ms; "
        "integrated power tells 2.0 % less.\n"
    )
    same = COUNTED.model_copy(update={"integrated_j": 1000.2})
    assert "integrated power tells the same" in printed(same)


def test_an_energy_that_is_not_known() -> None:
    unknown = EnergyResult(steps=0, unavailable={"energy_j": "NVIDIA's driver isn't loaded"})
    assert printed(unknown) == "\n Energy of a step: unavailable; NVIDIA's driver isn't loaded.\n"


def test_the_energy_of_single_steps_is_the_middle_of_the_seeds() -> None:
    records = [
        make_record(
            spec=make_spec("lora", seed=seed), short=make_short().model_copy(update={"energy": energy})
        )
        for seed, energy in enumerate(
            [COUNTED, COUNTED.model_copy(update={"sample_energy_j": 0.5}), EnergyResult(steps=0), None]
        )
    ]
    (row,) = make_rows(records)
    assert row.step_joules_per_sample == 0.40625
    (board,) = leaderboards(records)
    assert column_named("step_energy").cell(row, board).parts == ("406 mJ",)
    flat = flat_row(records[0])
    assert (flat["step_energy_j"], flat["step_joules_per_sample"]) == (5.0, 0.3125)
