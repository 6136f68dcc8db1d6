"""The embedded encoder: pre-training repeats itself, its cache survives damage, company and interruption."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from peprof.errors import StoreError
from peprof.events import Progress
from peprof.training.embedded import tiny
from peprof.training.embedded.cache import cache_directory
from peprof.training.embedded.pretraining import PHASE, Recipe, make_tokenizer, pretrain
from peprof.training.embedded.tiny import ensure_pretrained, load_tiny

SMALL = Recipe(layers=1, width=16, heads=2, feedforward=32, rows=200, steps=4, batch_size=8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a recipe of a second."""
    monkeypatch.setenv("PEPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tiny, "RECIPE", SMALL)
    return tmp_path / "cache"


def _weights(recipe: Recipe) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pretrain(recipe).state_dict().items()}


def test_two_pretrainings_give_equal_weights() -> None:
    torch.manual_seed(1)
    first = _weights(SMALL)
    torch.manual_seed(2)  # what came before must not matter
    second = _weights(SMALL)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights() -> None:
    name = "bert.embeddings.word_embeddings.weight"
    other = Recipe(**{**vars(SMALL), "seed": 1})
    assert not torch.equal(_weights(SMALL)[name], _weights(other)[name])


def test_pretraining_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_pretraining_learns() -> None:
    """Guessing among the words at random costs log(words) nats; even 60 steps do much better."""
    seen: list[Progress] = []
    recipe = Recipe(
        layers=1, width=32, heads=2, feedforward=64, rows=500, steps=60, batch_size=32, learning_rate=1e-2
    )
    pretrain(recipe, seen.append)
    losses = [event.loss for event in seen if event.loss is not None]
    words = len(make_tokenizer(recipe.max_positions))
    assert losses[-1] < float(torch.tensor(float(words)).log()) - 0.5


def test_progress_counts_up_to_all_steps() -> None:
    seen: list[Progress] = []
    ensure_pretrained(seen.append, recipe=SMALL)
    assert {event.phase for event in seen} == {PHASE} == {"pre-training peprof/tiny"}
    assert (seen[0].step, seen[-1].step) == (0, 4)
    assert all(event.total == 4 for event in seen)
    assert seen[-1].seconds_left == 0
    seen.clear()
    ensure_pretrained(seen.append, recipe=SMALL)
    assert seen == []


def test_a_changed_recipe_has_its_own_place() -> None:
    recipes = [SMALL, Recipe(**{**vars(SMALL), "seed": 1}), Recipe(**{**vars(SMALL), "steps": 5})]
    assert len({ensure_pretrained(recipe=recipe) for recipe in recipes}) == 3


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "no mark", "garbage of equal size"])
def test_a_damaged_cache_is_made_again(damage: str) -> None:
    directory = ensure_pretrained(recipe=SMALL)
    file = directory / "model.safetensors"
    good = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(good[: len(good) // 2])
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "no mark":
            (directory / "recipe.json").unlink()
        case _:
            file.write_bytes(b"\xff" * len(good))
    assert ensure_pretrained(recipe=SMALL) == directory
    assert load_file(file).keys() == load_file(_rewritten(file, good)).keys()


def _rewritten(file: Path, content: bytes) -> Path:
    copy = file.with_name("copy.safetensors")
    copy.write_bytes(content)
    return copy


def test_an_interrupted_pretraining_leaves_nothing(cache: Path) -> None:
    def interrupt(event: Progress) -> None:
        if event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_pretrained(interrupt, recipe=SMALL)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    directory = ensure_pretrained(recipe=SMALL)
    (directory / "recipe.json").unlink()
    left = cache / f"{directory.name}.part-abc"
    (left / "whole").mkdir(parents=True)
    ensure_pretrained(recipe=SMALL)
    assert not left.exists()


def _count_steps(counts: multiprocessing.Queue[int]) -> None:
    seen: list[Progress] = []
    ensure_pretrained(seen.append, recipe=SMALL)
    counts.put(len(seen))


def test_of_two_processes_one_pretrains() -> None:
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)  # a forked child can't use its parent's threads
    counts: multiprocessing.Queue[int] = context.Queue()
    children = [context.Process(target=_count_steps, args=(counts,)) for _ in range(2)]
    for child in children:
        child.start()
    found = sorted(counts.get(timeout=60) for _ in children)
    for child in children:
        child.join(timeout=60)
    assert found[0] == 0
    assert found[1] > 0


def test_a_cache_that_cannot_be_written_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEPROF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match="peprof/tiny") as caught:
        ensure_pretrained(recipe=SMALL)
    assert caught.value.hint is not None
    assert "PEPROF_CACHE" in caught.value.hint


def test_load_tiny_gives_backbone_and_a_seeded_head(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    first, tokenizer = load_tiny(num_labels=3)
    torch.manual_seed(3)
    second, _ = load_tiny(num_labels=3)
    torch.manual_seed(4)
    third, _ = load_tiny(num_labels=3)
    assert type(first).__name__ == "BertForSequenceClassification"
    assert first.config.num_labels == 3
    saved = load_file(ensure_pretrained(recipe=SMALL) / "model.safetensors")
    for name, value in first.state_dict().items():
        if name in saved:  # the backbone: everything but pooler and classifier
            assert torch.equal(value, saved[name]), name
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.state_dict()["classifier.weight"], third.state_dict()["classifier.weight"])
    assert {n for n in first.state_dict() if n not in saved} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    logits = first(**tokenizer(["a dull film", "hardly funny"], return_tensors="pt", padding=True)).logits
    assert logits.shape == (2, 3)
    assert "MISSING" not in capfd.readouterr().err


def test_load_tiny_in_another_dtype_and_attention() -> None:
    model, _ = load_tiny(num_labels=2, attention="eager", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_the_cache_is_what_transformers_loads() -> None:
    directory = ensure_pretrained(recipe=SMALL)
    assert AutoConfig.from_pretrained(directory).model_type == "bert"
    assert (
        AutoTokenizer.from_pretrained(directory)("a dull film")["input_ids"]
        == make_tokenizer(128)("a dull film")["input_ids"]
    )


def test_tokenizer_frames_words_and_pads_with_zero() -> None:
    tokenizer = make_tokenizer(128)
    batch = tokenizer(["a dull film", "xylophone"], padding=True)
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"]] == [
        ["[CLS]", "a", "dull", "film", "[SEP]"],
        ["[CLS]", "[UNK]", "[SEP]", "[PAD]", "[PAD]"],
    ]
    assert batch["input_ids"][1][3:] == [0, 0]
    assert batch["attention_mask"][1] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PEPROF_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/peprof"),
        ({"XDG_CACHE_HOME": "b"}, "/home/someone/.cache/peprof"),
        ({}, "/home/someone/.cache/peprof"),
    ],
)
def test_cache_directory(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PEPROF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **environment}.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)
