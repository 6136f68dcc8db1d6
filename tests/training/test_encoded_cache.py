"""Token ids are made once, found again by what decides them, and never taken from a damaged file."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from peprof.training import encoded_cache
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split
from peprof.training.encoded_cache import TokenCache, entry_key, tokenized, tokenizer_digest
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.token_rows import TokenRows

TEXTS = [f"a film of {number} good words" for number in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEPROF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def bert(texts: list[str] = TEXTS):  # type: ignore[no-untyped-def]
    return make_tokenizer(texts, known_config("bert-base", vocab_size=64))


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def forbid_tokenizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> TokenRows:
        raise AssertionError("tokenized although it was there")

    monkeypatch.setattr(encoded_cache, "tokenize", refuse)


def rows_of(count: int, value: int = 7) -> TokenRows:
    return TokenRows.from_lists({"input_ids": [[value] * 100 for _ in range(count)]})


def same(first: TokenRows, second: TokenRows) -> bool:
    return (
        list(first.columns) == list(second.columns)
        and np.array_equal(first.offsets, second.offsets)
        and all(
            np.array_equal(first.columns[name], second.columns[name])
            and first.columns[name].dtype == second.columns[name].dtype
            for name in first.columns
        )
    )


def test_a_hit_gives_the_same_batches_without_tokenizing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(texts=tuple((text,) for text in TEXTS), labels=tuple(n % 2 for n in range(len(TEXTS))))
    first = list(EncodedSplit(split, bert(), 16).epoch(8, seed=3))
    assert len(entries(cache)) == 1
    forbid_tokenizing(monkeypatch)
    second = list(EncodedSplit(split, bert(), 16).epoch(8, seed=3))
    assert len(first) == len(second) == 5
    for one, other in zip(first, second, strict=True):
        assert list(one.inputs) == list(other.inputs) and one.real_tokens == other.real_tokens
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_ids_are_the_tokenizers_own(cache: Path) -> None:
    for _ in range(2):  # made, and found
        rows = tokenized([TEXTS, TEXTS[::-1]], bert(), max_length=9)
        expected = bert()(TEXTS, TEXTS[::-1], truncation=True, max_length=9)["input_ids"]
        assert [rows.row("input_ids", number) for number in range(len(rows))] == expected


def test_whatever_decides_the_ids_gives_another_entry() -> None:
    key = entry_key([TEXTS], bert(), max_length=16)
    cased = bert()
    cased.model_input_names = ["input_ids"]
    cut_at_the_front = bert()
    cut_at_the_front.truncation_side = "left"
    added = bert()
    added.add_tokens(["words"])
    others = {
        "another text": entry_key([[*TEXTS[:-1], "b"]], bert(), max_length=16),
        "a prefix": entry_key([["sst2: " + text for text in TEXTS]], bert(), max_length=16),
        "the same characters, cut elsewhere": entry_key([["ab", "c"]], bert(), max_length=16),
        "cut here": entry_key([["a", "bc"]], bert(), max_length=16),
        "one column": entry_key([["ab", "c", "a", "b"]], bert(), max_length=16),
        "two columns": entry_key([["ab", "c"], ["a", "b"]], bert(), max_length=16),
        "another length": entry_key([TEXTS], bert(), max_length=15),
        "no length": entry_key([TEXTS], bert(), max_length=None),
        "another vocabulary": entry_key([TEXTS], bert(["film"]), max_length=16),
        "an added token": entry_key([TEXTS], added, max_length=16),
        "other columns": entry_key([TEXTS], cased, max_length=16),
        "cut at the front": entry_key([TEXTS], cut_at_the_front, max_length=16),
    }
    assert len({key, *others.values()}) == len(others) + 1


def test_a_tokenizer_is_known_by_its_content_whatever_was_done_with_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    fresh, used = bert(), bert()
    used(TEXTS, truncation=True, max_length=5, padding="max_length")
    assert tokenizer_digest(fresh) == tokenizer_digest(used)
    for name in ("here", "there"):
        used.save_pretrained(tmp_path / name)
    here, there = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("here", "there"))
    assert tokenizer_digest(here) == tokenizer_digest(there)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "header"])
def test_a_damaged_entry_is_made_anew(cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenized([TEXTS], bert(), max_length=16)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    middle = len(whole) - 20
    entry.write_bytes(
        {
            "cut": whole[:-10],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "empty": b"",
            "text": b"not what it was",
            "header": whole.replace(b"column.input_ids", b"column.input_idx"),
        }[damage]
    )
    assert same(tokenized([TEXTS], bert(), max_length=16), made)
    forbid_tokenizing(monkeypatch)
    assert same(tokenized([TEXTS], bert(), max_length=16), made)


def _make_slowly(cache: str, made: str, start: float) -> None:
    def make() -> TokenRows:
        Path(made, str(os.getpid())).touch()
        time.sleep(0.3)
        return rows_of(50)

    time.sleep(max(0.0, start - time.time()))
    assert same(TokenCache(directory=Path(cache)).get("ab" * 16, make), rows_of(50))


def test_of_several_processes_one_makes_an_entry(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    context = multiprocessing.get_context("fork")
    arguments = (str(tmp_path / "tokens"), str(tmp_path / "made"), time.time() + 0.2)
    children = [context.Process(target=_make_slowly, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert len(list((tmp_path / "made").iterdir())) == 1
    assert [path.name for path in entries(tmp_path / "tokens")] == ["ab" * 16 + ".safetensors"]


def test_the_entries_that_were_not_used_for_longest_make_room(tmp_path: Path) -> None:
    cache = TokenCache(directory=tmp_path, max_bytes=3_500)
    keys = [f"{number:032x}" for number in range(4)]
    for age, key in zip((300, 400), keys[:2], strict=True):
        cache.get(key, lambda: rows_of(10))  # 1,000 bytes of ids, and a hundred of offsets
        used = time.time() - age
        os.utime(tmp_path / f"{key}.safetensors", (used, used))
    cache.get(keys[1], lambda: pytest.fail("it was there"))  # now the last used, though older
    cache.get(keys[2], lambda: rows_of(15))
    assert [path.stem for path in entries(tmp_path)] == keys[1:3]
    cache.get(keys[3], lambda: rows_of(100))  # more than all may hold
    assert [path.stem for path in entries(tmp_path)] == keys[1:3]


def test_there_are_never_more_entries_than_allowed(tmp_path: Path) -> None:
    cache = TokenCache(directory=tmp_path, max_entries=2)
    for number in range(4):
        cache.get(f"{number:032x}", lambda: rows_of(1))
        used = time.time() - 100 + number
        os.utime(tmp_path / f"{number:032x}.safetensors", (used, used))
    assert [int(path.stem, 16) for path in entries(tmp_path)] == [2, 3]


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / "a.safetensors.1.part", tmp_path / "b.safetensors.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    TokenCache(directory=tmp_path).get("00" * 16, lambda: rows_of(1))
    assert not old.exists() and new.exists()


def test_where_nothing_can_be_written_ids_are_made_and_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="can't be cached .* PEPROF_CACHE"):
        made = TokenCache(directory=tmp_path / "file" / "tokens").get("00" * 16, lambda: rows_of(2))
    assert same(made, rows_of(2))


def test_an_error_in_making_is_not_taken_for_one_of_the_cache(tmp_path: Path) -> None:
    def fail() -> TokenRows:
        raise OSError("the vocabulary is gone")

    with pytest.raises(OSError, match="the vocabulary is gone"):
        TokenCache(directory=tmp_path).get("00" * 16, fail)


def test_few_batches_of_one_shape_tokenize_their_own_rows_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(texts=tuple((text,) for text in TEXTS), labels=tuple(n % 2 for n in range(len(TEXTS))))
    whole = EncodedSplit(split, bert(), 16)
    whole.make_ready()
    expected = whole.fixed_shape(4, 3, seed=1)
    for entry in entries(cache):
        entry.unlink()
    few = EncodedSplit(split, bert(), 16).fixed_shape(4, 3, seed=1)
    assert not entries(cache), "nothing was made that nobody asked for"
    for one, other in zip(few, expected, strict=True):
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in expected[0].inputs)
