import re
import struct
import xml.etree.ElementTree as ET

import pytest

from peprof.errors import StoreError, UsageError
from peprof.reports.memory_plot import Span, cells, check_plot_file, draw_memory, spans, unit_of
from peprof.results.finding import FoundRun
from tests.reports.profiles import MIB, peak_tree, profile
from tests.results.factory import make_record

RUN = FoundRun(name="lora-s0", record=make_record("lora", method="a<b&c"), memory=profile())


def test_cells_lie_below_their_modules_and_are_as_wide():
    drawn = {cell.key: cell for cell in cells(peak_tree())}
    for cell in drawn.values():
        below = [other for other in drawn.values() if other.parent == cell.key]
        if cell.category is None:
            assert sum(other.nbytes for other in below) == cell.nbytes
            assert min(other.start for other in below) == cell.start
        else:
            assert not below
    assert [
        (cell.label, cell.level, cell.start // MIB, cell.nbytes // MIB)
        for cell in cells(peak_tree(), depth=3)
        if cell.category is None
    ] == [
        ("all", 0, 0, 80),
        ("bert", 1, 0, 72),
        ("encoder.layer", 2, 0, 70),
        ("0", 3, 0, 30),
        ("1", 3, 30, 40),
        ("pooler", 2, 70, 2),
        ("(outside the model)", 1, 72, 6),
        ("head", 1, 78, 2),
    ]
    cut = [cell for cell in cells(peak_tree(), depth=1) if cell.name == "bert" and cell.category]
    assert {cell.category: cell.nbytes // MIB for cell in cut} == {
        "parameters.frozen": 20,
        "gradients": 2,
        "activations": 50,
    }


def test_phases_and_units():
    assert spans(profile().timeline) == [
        Span(phase="forward", start=0, end=30),
        Span(phase="backward", start=30, end=50),
    ]
    assert [unit_of(value)[0] for value in (0, 1023, 1024, 80 * MIB, 3 * 1024 * MIB)] == [
        "B",
        "B",
        "KiB",
        "MiB",
        "GiB",
    ]


def test_an_svg_is_xml_with_its_text_as_text(tmp_path):
    draw_memory(RUN, tmp_path / "a.svg")
    tree = ET.parse(tmp_path / "a.svg")
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    for wanted in (
        "lora on distilbert/distilbert-base-uncased",
        "activations  50.0 MiB",
        "forward",
        "80.0 MiB",
    ):
        assert wanted in texts
    first = (tmp_path / "a.svg").read_bytes()
    draw_memory(RUN, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == first


def test_a_png_is_a_picture_of_that_size(tmp_path):
    draw_memory(RUN, tmp_path / "a.PNG")
    content = (tmp_path / "a.PNG").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (1920, 1344)


def test_a_page_needs_no_network_and_holds_the_data(tmp_path):
    draw_memory(RUN, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    data = page[page.rindex("Plotly.newPlot(") :]
    for wanted in (
        '"icicle"',
        '"module bert.encoder.layer"',
        "70.0 MiB, 87.5 %",
        "activations  50.0 MiB",
        '"#009e73"',
    ):
        assert wanted in data
    assert '"values":[83886080,75497472,73400320,' in data
    assert '"y":[0.0,50.0,50.0,0.0,0.0]' in data
    draw_memory(RUN, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


@pytest.mark.parametrize("name", ["a.pdf", "a", "missing/a.svg"])
def test_a_wrong_file_is_told_at_once(tmp_path, name):
    with pytest.raises(UsageError, match=f"can't draw '{tmp_path / name}'"):
        check_plot_file(tmp_path / name)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(StoreError, match="Is a directory") as error:
        draw_memory(RUN, tmp_path / "a.svg")
    assert error.value.exit_code == 5
