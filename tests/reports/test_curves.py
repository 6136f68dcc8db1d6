import re
import xml.etree.ElementTree as ET

import pytest

from peprof.errors import StoreError, UsageError
from peprof.reports.curves import draw_curves, strips_of
from peprof.results.comparison import leaderboards
from tests.results.factory import make_record, make_short
from tests.results.trainings import judged, on_the_way


def boards(watts=None, target=0.88):
    return leaderboards(
        on_the_way(label, [700 + seed, best], seed=seed, seconds_a_step=pace, watts=watts, target=target)
        for label, best, pace in (("a.b", 900, 2.0), ("lora", 890, 1.0))
        for seed in (0, 2)
    )


def test_panels_hold_the_seeds_together():
    (strip,) = strips_of(boards())
    time, steps = strip.panels
    assert (time.x_title, steps.x_title, time.y_title) == (
        "training time, min",
        "training steps",
        "accuracy, %",
    )
    assert time.target == 88 and not time.logarithmic
    first, second = time.lines
    assert (first.name, first.x, first.y) == (
        "a.b",
        pytest.approx((200 / 60, 400 / 60)),
        pytest.approx((70.1, 90)),
    )
    assert (first.low, first.high) == (pytest.approx((70, 90)), pytest.approx((70.2, 90)))
    assert first.has_band and first.seeds == (2, 2)
    assert steps.lines[1].x == (100, 200)
    assert first.color != second.color


def test_joules_are_drawn_where_they_are_known():
    (strip,) = strips_of(boards(watts=100))
    assert [panel.x_title for panel in strip.panels][2] == "training energy, kJ"
    assert strip.panels[2].lines[0].x == (20, 40)


def test_many_methods_are_told_apart_by_dashes():
    (strip,) = strips_of(leaderboards(on_the_way(f"m{n}", [500 + n]) for n in range(20)))
    looks = {(line.color, line.dash) for line in strip.panels[0].lines}
    assert len(looks) == 20


def test_a_wide_range_of_perplexities_is_drawn_logarithmically():
    records = [
        judged(label, {"perplexity": value}, data={"task": "language-modelling"})
        for label, value in (("full", 10.0), ("head", 900.0))
    ]
    (strip,) = strips_of(leaderboards(records))
    assert strip.panels[0].logarithmic and strip.panels[0].target is None
    assert strip.panels[0].y_title == "perplexity"


@pytest.mark.parametrize("watts", [None, 100])
def test_a_vector_picture_is_valid_and_says_all(tmp_path, watts):
    draw_curves(boards(watts=watts), tmp_path / "curves.svg")
    text = " ".join(ET.fromstring((tmp_path / "curves.svg").read_text()).itertext())
    for words in (
        "a.b",
        "lora",
        "training time, min",
        "training steps",
        "accuracy, %",
        "target",
        "Xeon 8481C",
    ):
        assert words in text
    assert ("training energy" in text) == (watts is not None)
    before = (tmp_path / "curves.svg").read_bytes()
    draw_curves(boards(watts=watts), tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_bytes() == before


def test_a_raster_picture_is_one(tmp_path):
    draw_curves(boards(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_needs_no_network(tmp_path):
    draw_curves(boards(), tmp_path / "curves.html")
    text = (tmp_path / "curves.html").read_text()
    assert "training steps" in text and "toself" in text
    assert not re.search(r"<(script|link)[^>]+(src|href)=", text)


def test_tables_are_drawn_below_each_other_and_empty_ones_left_out(tmp_path):
    record = on_the_way("full", [800, 900])
    spec = record.spec.model_copy(update={"train": record.spec.train.model_copy(update={"batch_size": 64})})
    other = record.model_copy(update={"spec": spec, "run_id": spec.run_id})
    short = make_record("full", phases=("short",), short=make_short())
    strips = strips_of(leaderboards([record, other, short]))
    assert [strip.title.split(":")[0] for strip in strips] == ["Table 2 of 3", "Table 3 of 3"]
    draw_curves(leaderboards([record, other, short]), tmp_path / "two.svg")
    draw_curves(leaderboards([record, other, short]), tmp_path / "two.html")


def test_what_can_not_be_drawn_is_said(tmp_path):
    short = leaderboards([make_record("full", phases=("short",), short=make_short())])
    with pytest.raises(UsageError, match="no training was finished and evaluated"):
        draw_curves(short, tmp_path / "curves.svg")
    with pytest.raises(UsageError, match="its ending says nothing of a picture"):
        draw_curves(boards(), tmp_path / "curves.doc")
    (tmp_path / "there.svg").mkdir()
    with pytest.raises(StoreError, match="can't write"):
        draw_curves(boards(), tmp_path / "there.svg")
