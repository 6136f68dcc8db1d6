"""Memory against batch size: what is drawn, from plain numbers, and that both kinds of picture show it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from peprof.errors import UsageError
from peprof.reports.batch_memory import Limit, batch_memory, draw_batch_memory
from peprof.results.estimates import DeviceMemory

GIB = 2**30
FOUND = {
    "lora": [(4, 6 * GIB), (1, 3 * GIB), (16, 18 * GIB)],
    "full": [(1, 12 * GIB), (4, 15 * GIB), (16, 27 * GIB)],
    "nothing": [],
}


def texts(path: Path) -> list[str]:
    """The words in a picture."""
    root = ET.fromstring(path.read_text())
    return ["".join(item.itertext()).strip() for item in root.iter("{http://www.w3.org/2000/svg}text")]


def test_lines_are_sorted_by_batch_and_by_what_they_need() -> None:
    drawn = batch_memory(FOUND, title="BERT-base")
    assert [line.name for line in drawn.lines] == ["full", "lora"]
    assert drawn.lines[1].batch_sizes == (1, 4, 16)
    assert drawn.lines[1].gib == (3, 6, 18)
    assert drawn.lines[0].color != drawn.lines[1].color
    assert drawn.limits == tuple(
        Limit(gib=size, name=f"{size} GiB") for size in (8, 16, 24, 40)
    )  # 27 at most
    assert drawn.axis == "memory of tensors, GiB"
    assert (drawn.logarithmic_batch, drawn.logarithmic_memory) == (True, False)
    assert (drawn.floor_gib, drawn.ceiling_gib) == (0, pytest.approx(43.2))


@pytest.mark.parametrize(("gib", "sizes"), [(1, (8,)), (8, (8,)), (8.1, (8, 16)), (200, (8, 16, 24, 40, 80))])
def test_usual_sizes_up_to_the_first_that_is_enough(gib: float, sizes: tuple[int, ...]) -> None:
    drawn = batch_memory({"a": [(1, round(gib * GIB))]}, title="")
    assert tuple(limit.gib for limit in drawn.limits) == sizes


T4 = DeviceMemory(name="T4", total_bytes=14 * GIB, context_bytes=GIB // 2, workspace_bytes=8 * 2**20)


def test_a_gpus_own_memory_is_the_only_limit_and_stays_in_sight() -> None:
    drawn = batch_memory(FOUND, title="BERT-base", device=T4)
    assert drawn.limits == (Limit(gib=14, name="T4 of 14.0 GiB"),)
    assert drawn.axis == "memory used on the device, GiB"
    beyond = batch_memory({"a": [(1, 20 * GIB), (64, 400 * GIB)]}, title="", device=T4)
    assert beyond.logarithmic_memory and beyond.floor_gib == pytest.approx(0.8 * 14)
    assert batch_memory({"a": [(1, GIB)]}, title="", device=T4).ceiling_gib == pytest.approx(1.08 * 14)


@pytest.mark.parametrize("name", ["a.svg", "a.html"])
def test_both_pictures_name_the_gpu(tmp_path: Path, name: str) -> None:
    draw_batch_memory(FOUND, tmp_path / name, title="BERT", device=T4)
    content = (tmp_path / name).read_text()
    words = texts(tmp_path / name) if name == "a.svg" else content
    assert "T4 of 14.0 GiB" in words and "memory used on the device, GiB" in words
    assert "16 GiB" not in words


def test_a_wide_range_is_drawn_logarithmically() -> None:
    drawn = batch_memory({"a": [(1, GIB), (8, 17 * GIB)]}, title="")
    assert (drawn.logarithmic_batch, drawn.logarithmic_memory) == (False, True)
    assert drawn.floor_gib == pytest.approx(0.8)


def test_the_picture_has_its_words_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_batch_memory(FOUND, tmp_path / name, title="BERT-base", subtitle="bfloat16 · simulated")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    words = texts(tmp_path / "a.svg")
    assert {"full", "lora", "batch size", "memory of tensors, GiB", "1", "4", "16"} <= set(words)
    assert {"8 GiB", "16 GiB", "24 GiB", "40 GiB"} <= set(words) and "80 GiB" not in words
    assert any("bfloat16 · simulated" in word for word in words)


def test_a_png_and_a_page(tmp_path: Path) -> None:
    draw_batch_memory(FOUND, tmp_path / "a.PNG", title="BERT")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    draw_batch_memory(
        {"a<b>": [(1, GIB), (64, 33 * GIB)]}, tmp_path / "a.html", title="<T5>", subtitle="a & b"
    )
    text = (tmp_path / "a.html").read_text()
    assert "<title>&lt;T5&gt;: memory by batch size</title>" in text
    assert "a&lt;b&gt;" in text and '"8 GiB"' in text and '"40 GiB"' in text
    assert '<script src="http' not in text


def test_nothing_to_draw_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to draw"):
        draw_batch_memory({"a": []}, tmp_path / "a.svg", title="")
    with pytest.raises(UsageError, match="its ending says nothing of a picture"):
        draw_batch_memory(FOUND, tmp_path / "a.txt", title="")
