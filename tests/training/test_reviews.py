"""The synthetic reviews: literal sentences, lengths against SST-2's, and that composition is needed."""

from __future__ import annotations

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from peprof.training.embedded.reviews import DEFAULT_ROWS, VOCABULARY, Review, Split, generate


@pytest.fixture(scope="module")
def train() -> list[Review]:
    return generate("train", DEFAULT_ROWS["train"])


@pytest.fixture(scope="module")
def validation() -> list[Review]:
    return generate("validation", DEFAULT_ROWS["validation"])


def test_first_sentences_are_the_same_on_every_machine_and_python() -> None:
    assert generate("train", 3) == [
        Review("always very awkward", 0),
        Review("not a muddled movie", 1),
        Review("this first villain is nothing but witty , but nobody would call the acting charming", 0),
    ]
    assert generate("validation", 1) == [Review("the premise is no pleasure", 0)]
    assert generate("train", 2, seed=1)[1] == Review(
        "as a whole , its dialogue is charming rather than tired", 1
    )
    assert generate("pretraining", 1) == [Review("the french story drags today . skip it", 0)]


def test_first_rows_do_not_depend_on_how_many_follow(train: list[Review]) -> None:
    assert generate("train", 100) == train[:100]


def test_splits_share_no_sentence(train: list[Review], validation: list[Review]) -> None:
    sentences = {
        "train": {r.sentence for r in train} | {r.sentence for r in generate("train", 500, seed=7)},
        "validation": {r.sentence for r in validation}
        | {r.sentence for r in generate("validation", 500, seed=8)},
        "pretraining": {r.sentence for r in generate("pretraining", 3_000)},
    }
    assert not sentences["train"] & sentences["validation"]
    assert not sentences["pretraining"] & sentences["validation"]
    assert not sentences["pretraining"] & sentences["train"]


def test_a_sentence_has_one_label_only(train: list[Review], validation: list[Review]) -> None:
    labels: dict[str, set[int]] = {}
    for review in [*train, *validation]:
        labels.setdefault(review.sentence, set()).add(review.label)
    assert all(len(found) == 1 for found in labels.values())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_lengths_are_those_of_sst2(split: Split, train: list[Review], validation: list[Review]) -> None:
    lengths = sorted(len(r.sentence.split()) for r in (train if split == "train" else validation))
    quantiles = [lengths[int(q * len(lengths))] for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)]
    # SST-2's train split: 2, 3, 7, 13, 21, 26; mean 9.41
    assert quantiles == pytest.approx([2, 3, 7, 13, 21, 26], abs=1)
    assert sum(lengths) / len(lengths) == pytest.approx(9.41, abs=0.5)


def test_sentences_are_lower_case_words_of_the_vocabulary(train: list[Review]) -> None:
    known = set(VOCABULARY)
    for review in train:
        tokens = review.sentence.split(" ")
        assert known.issuperset(tokens), review
        assert review.sentence == review.sentence.lower()
    assert len(VOCABULARY) == len(known)


def test_no_word_of_the_vocabulary_is_idle(train: list[Review]) -> None:
    texts = [*train, *generate("pretraining", 500)]
    assert {word for review in texts for word in review.sentence.split()} == set(VOCABULARY)


def test_labels_are_balanced(train: list[Review]) -> None:
    assert sum(r.label for r in train) == pytest.approx(len(train) / 2, abs=3 * (len(train) ** 0.5) / 2)


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("its final movie is hardly poignant somehow", 0),
        ("as a whole , this main cast is hardly tedious for two hours today", 1),
        ("the latest director is bland , although this narrative has humor too", 0),
        ("its story really sparkles somehow , although the second performance is stale", 1),
        ("this french dialogue fails to be clever", 0),
        ("the story never fails to be touching", 1),
        ("overall , this final cinematography is slightly hollow and totally good", 1),
        ("its camera is completely lazy and slightly charming", 0),
        ("its hero lacks heart", 0),
        ("nothing about its film is bad in the end", 1),
        ("this plot is less memorable than weak", 0),
        ("never less than boring", 0),
    ],
)
def test_sentiment_is_what_a_reader_would_say(sentence: str, label: int, train: list[Review]) -> None:
    """Labels given by hand to sentences as they were drawn."""
    assert Review(sentence, label) in train


def test_counting_words_is_not_enough(train: list[Review], validation: list[Review]) -> None:
    words = CountVectorizer(token_pattern=r"\S+").fit([r.sentence for r in train])
    model = LogisticRegression(max_iter=500, C=0.3)
    model.fit(words.transform([r.sentence for r in train]), [r.label for r in train])
    accuracy = model.score(words.transform([r.sentence for r in validation]), [r.label for r in validation])
    assert 0.5 < accuracy < 0.75


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'test'"):
        generate("test", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1"):
        generate("train", -1)
    assert generate("train", 0) == []
