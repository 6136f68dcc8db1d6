"""``peprof/reviews``: synthetic review-like sentences whose sentiment comes from composition.

Nothing here was written by a reviewer. Sentences are drawn from a small grammar in which negation (``hardly
a masterpiece``), contrast (what follows ``but`` decides), intensity (``slightly dull and utterly charming``)
and implicit negation (``fails to be``, ``lacks``) settle the label: counting sentiment words is not enough.

The ``pretraining`` split is other text: one to three simpler sentences of one mind and a closing verdict
(``recommended``, ``skip it``), with negation rare. What words mean can be learnt from it without any label,
and how they combine is left to fine-tuning.

Only ``random.Random.random()`` seeded by an integer is used: Python promises its sequence, and that of no
other method.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeVar, get_args

from peprof.training.embedded.lexicon import (
    CLOSERS,
    COMPOUNDS,
    DETERMINERS,
    FLIPPING,
    JOINTS,
    KEEPING,
    NEUTRAL_CLAUSES,
    NOUN_MODIFIERS,
    NOUN_PHRASES_AFTER,
    NOUNS,
    OPENERS,
    POLAR,
    SLOT_WORDS,
    VERDICTS,
    Pattern,
)

Split = Literal["train", "validation", "pretraining"]
T = TypeVar("T")

DEFAULT_ROWS: Final[dict[Split, int]] = {"train": 8_000, "validation": 1_000, "pretraining": 20_000}

# How many of 1,000 sentences have at most 1, 2, 3 ... whitespace tokens: the train split of GLUE's SST-2
# (67,349 rows; Socher et al. 2013), whose longest sentence has 52.
_LENGTH_PER_MILLE: Final = (
    *(63, 171, 275, 357, 425, 485, 538, 584, 627, 665, 698, 728, 755, 781, 804, 825, 844, 861, 877, 891),
    *(903, 915, 926, 936, 945, 952, 959, 965, 970, 975, 979, 983, 986, 988, 991, 992, 994, 995, 996, 997),
    *(997, 998, 998, 999, 999, 999, 999, 1000),
)

# How many clauses say the opposite of their sentiment word. Rare in pre-training: at equal shares the words
# around a sentiment word tell so little of it that masked language modelling doesn't find its polarity.
_FLIP_SHARE: Final[dict[Split, float]] = {"train": 0.25, "validation": 0.25, "pretraining": 0.1}
_COMPOUND_SHARE: Final = 0.7
_SHORTEST_PART: Final = 5
_SHORTEST_COMPOUND: Final = 2 * _SHORTEST_PART + 2
_LONGEST_CLAUSE: Final = 16
_LONGEST_COMPOUND: Final = 26


class Review(NamedTuple):
    """One synthetic sentence and its sentiment.

    Args:
        sentence: lower case, tokens separated by single spaces.
        label: 0 negative, 1 positive.
    """

    sentence: str
    label: int


def generate(split: Split, rows: int, seed: int = 0) -> list[Review]:
    """Make a split of the synthetic reviews; the first rows don't depend on how many follow.

    A sentence belongs to one split only, whatever the seed: a checksum of its text says to which. Short
    sentences may occur more than once within a split.

    Args:
        split: ``pretraining`` is what ``peprof/tiny`` sees (without labels).
        rows: how many sentences.
        seed: another seed, other sentences.

    Raises:
        ValueError: ``split`` is none of the three, or ``rows`` is negative.

    Example:
        >>> generate("train", 1) == generate("train", 2)[:1]
        True
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, not {split!r}")
    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    digest = hashlib.sha256(f"peprof/reviews {split} {seed}".encode()).digest()
    writer = _Writer(random.Random(int.from_bytes(digest[:8], "big")), _FLIP_SHARE[split])
    return [writer.review(split) for _ in range(rows)]


def split_of(sentence: str) -> Split:
    """Say which split a sentence belongs to: two fifths each train and pretraining, one fifth validation."""
    bucket = zlib.crc32(sentence.encode()) % 5
    return "validation" if bucket == 0 else "train" if bucket < 3 else "pretraining"


class _Writer:
    """Draws sentences of a given polarity and an exact number of tokens."""

    def __init__(self, rng: random.Random, flip_share: float) -> None:
        self._rng = rng
        self._flip_share = flip_share

    def review(self, split: Split) -> Review:
        positive = self._rng.random() < 0.5
        if split == "pretraining":
            sentences = 1 + int(self._rng.random() * 3)
            lengths = [2 + int(self._rng.random() * 8) for _ in range(sentences)]
            verdict = [self._pick(VERDICTS.positive if positive else VERDICTS.negative)]
        else:
            lengths = [1 + bisect_right(_LENGTH_PER_MILLE, self._rng.random() * 1_000)]
            verdict = []
        texts = [self._of_split(split, positive, length) for length in lengths]
        return Review(" . ".join(texts + verdict), int(positive))

    def _of_split(self, split: Split, positive: bool, length: int) -> str:
        while True:  # length and label stay while the text is redrawn: no split prefers some of them
            sentence = " ".join(self._sentence(positive, length))
            if split_of(sentence) == split:
                return sentence

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._rng.random() * len(items))]

    def _pick_early(self, items: Sequence[T]) -> T:
        """Pick with falling probability, the last item a third as often as the first."""
        u = self._rng.random()
        return items[int(u * (1 + u) / 2 * len(items))]

    def _sentence(self, positive: bool, length: int) -> list[str]:
        if length > _LONGEST_COMPOUND:
            return self._join(JOINTS, positive, length, self._sentence, _LONGEST_COMPOUND)
        if length > _LONGEST_CLAUSE or (
            length >= _SHORTEST_COMPOUND and self._rng.random() < _COMPOUND_SHARE
        ):
            return self._join(COMPOUNDS, positive, length, self._clause, _LONGEST_CLAUSE)
        return self._clause(positive, length)

    def _join(
        self,
        frames: Sequence[str],
        positive: bool,
        length: int,
        part: Callable[[bool, int], list[str]],
        longest: int,
    ) -> list[str]:
        """Put two parts of at most ``longest`` tokens each into a frame, ``length`` tokens together."""
        words = self._pick(frames).split()
        room = length - sum(not word.startswith("{") for word in words)
        least = max(_SHORTEST_PART, room - longest)
        first = least + int(self._rng.random() * (room - 2 * least + 1))
        lengths = iter((first, room - first))
        tokens: list[str] = []
        for word in words:
            if word == "{aside}":
                tokens += self._fill(NEUTRAL_CLAUSES, positive, next(lengths))
            elif word.startswith("{"):
                tokens += part(positive is not (word == "{other}"), next(lengths))
            else:
                tokens.append(word)
        return tokens

    def _clause(self, positive: bool, length: int) -> list[str]:
        flips = length > 1 and self._rng.random() < self._flip_share
        return self._fill(FLIPPING if flips else KEEPING, positive, length)

    def _fill(self, patterns: Sequence[Pattern], positive: bool, length: int) -> list[str]:
        """Fill a pattern that has, or by longer noun phrases and adverbials can have, ``length`` tokens."""
        pattern = self._pick(
            [p for p in patterns if p.length == length or (p.length < length and p.stretches)]
        )
        opener, modifiers, after, closer = self._padding(length - pattern.length)
        tokens = [*opener]
        for word in pattern.text.split():
            if word == "{subject}":
                tokens += [self._pick(DETERMINERS), *modifiers, self._pick(NOUNS), *after]
            elif word.startswith("{"):
                tokens.append(self._slot(word[1:-1], positive is not pattern.flips))
            else:
                tokens.append(word)
        return [*_with_articles([*tokens, *closer])]

    def _slot(self, name: str, positive: bool) -> str:
        if name == "opposite":
            return self._slot("adjective", not positive)
        if name in POLAR:
            words = POLAR[name].positive if positive else POLAR[name].negative
            return self._pick_early(words)
        return self._pick(SLOT_WORDS[name])

    def _padding(self, tokens: int) -> tuple[list[str], list[str], list[str], list[str]]:
        """Neutral words for before the clause, around its noun and after the clause, ``tokens`` in all."""
        opener: list[str] = []
        modifiers: list[str] = []
        after: list[str] = []
        closer: list[str] = []
        places = (
            (opener, OPENERS),
            (modifiers, NOUN_MODIFIERS),
            (after, NOUN_PHRASES_AFTER),
            (closer, CLOSERS),
        )
        while tokens:
            place, choices = self._pick(places)
            phrase = self._pick(choices).split()
            if len(phrase) <= tokens and (not place or place is closer) and closer[-len(phrase) :] != phrase:
                place += phrase
                tokens -= len(phrase)
        return opener, modifiers, after, closer


def _with_articles(tokens: Sequence[str]) -> Iterator[str]:
    """Write ``an`` for ``a`` before a vowel."""
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        yield "an" if token == "a" and following[:1] in {*"aeiou"} else token


def _vocabulary() -> tuple[str, ...]:
    patterns = [pattern.text for pattern in (*KEEPING, *FLIPPING, *NEUTRAL_CLAUSES)]
    phrases = [*OPENERS, *CLOSERS, *NOUN_PHRASES_AFTER, *VERDICTS.positive, *VERDICTS.negative]
    texts = [*patterns, *COMPOUNDS, *JOINTS, *phrases]
    words = {word for text in texts for word in text.split() if not word.startswith("{")}
    words.update((".", "an", *DETERMINERS, *NOUNS, *NOUN_MODIFIERS))
    words.update(word for group in SLOT_WORDS.values() for word in group)
    words.update(word for polar in POLAR.values() for side in polar for word in side)
    return tuple(sorted(words))


VOCABULARY: Final = _vocabulary()
"""Every word that a synthetic review can contain, sorted."""
