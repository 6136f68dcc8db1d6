"""The words and sentence patterns of ``peprof/reviews``, a synthetic language of film reviews.

Patterns are independent of the label: a pattern either keeps the polarity of its sentiment word or flips it
(``not good``), so that neither the pattern's words nor the sentiment word alone give the label away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Polar(NamedTuple):
    """Sentiment words of one part of speech; both tuples are ordered from common to rare."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Pattern:
    """A clause with slots, and whether it turns its sentiment word's polarity round.

    Args:
        text: words and slots. ``{adjective}``, ``{quality}``, ``{thing}``, ``{verb}`` hold a sentiment word,
            ``{opposite}`` an adjective of the other polarity, ``{subject}`` a noun phrase of two or more
            words, ``{object}`` a neutral noun.
        flips: the clause says the opposite of its sentiment word.

    Attributes:
        length: tokens of the shortest clause it can become.
        stretches: whether neutral words may be added; fragments (``hardly charming``) stay as they are.
    """

    text: str
    flips: bool

    length: int = field(init=False)
    stretches: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.text.split()) + self.text.count("{subject}"))
        object.__setattr__(self, "stretches", "{subject}" in self.text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


POLAR: dict[str, Polar] = {
    "adjective": Polar(
        _words(
            "good funny clever moving brilliant fresh charming warm gripping smart witty beautiful graceful "
            "delightful lively tender vivid engaging inventive touching subtle superb memorable poignant"
        ),
        _words(
            "bad dull boring stale clumsy tedious silly lazy bland predictable messy shallow flat weak "
            "tired pointless awkward lifeless hollow dreary sloppy trite muddled grating"
        ),
    ),
    "quality": Polar(
        _words("charm wit warmth energy humor heart beauty grace suspense imagination insight magic"),
        _words(
            "tedium boredom nonsense clutter noise gloom confusion stupidity padding monotony bloat drivel"
        ),
    ),
    "thing": Polar(
        _words("masterpiece triumph delight treat gem success marvel pleasure revelation winner"),
        _words("mess failure bore disaster waste flop mistake letdown chore snooze"),
    ),
    "verb": Polar(
        _words("works shines delights charms soars sparkles dazzles thrills"),
        _words("drags bores stumbles flops falters sags sputters disappoints"),
    ),
}

KEEPING = tuple(
    Pattern(text, flips=False)
    for text in _lines(
        """
        {adjective}
        {thing}
        {degree} {adjective}
        {adjective} {object}
        real {quality}
        simply {verb}
        a {adjective} {object}
        full of {quality}
        quite a {thing}
        always {degree} {adjective}
        never less than {adjective}
        a {degree} {adjective} {object}
        {subject} {verb}
        {subject} is {adjective}
        {subject} is {degree} {adjective}
        {subject} is {adjective} and {adjective}
        {subject} is {degree} {adjective} and {adjective}
        {adjective} and {adjective}
        a {adjective} and {adjective} {object}
        {subject} has {quality}
        {subject} really {verb}
        {subject} is a {thing}
        {subject} is full of {quality}
        {subject} is a {adjective} {object}
        {subject} manages to be {adjective}
        {subject} never fails to be {adjective}
        {subject} has plenty of {quality}
        {subject} is nothing but {adjective}
        {subject} is more {adjective} than {opposite}
        {subject} is {adjective} rather than {opposite}
        {subject} is not {opposite} but {adjective}
        {subject} is too {adjective} to be {opposite}
        {subject} looks {opposite} and turns out {adjective}
        {subject} could hardly be more {adjective}
        {subject} is {faint} {opposite} and {strong} {adjective}
        {subject} is {strong} {adjective} and {faint} {opposite}
        everything about {subject} is {adjective}
        there is no doubt that {subject} is {adjective}
        it is hard not to find {subject} {adjective}
        """
    )
)

FLIPPING = tuple(
    Pattern(text, flips=True)
    for text in _lines(
        """
        not {adjective}
        hardly {adjective}
        never {adjective}
        no {thing}
        without {quality}
        lacks {quality}
        rarely {verb}
        not a {thing}
        hardly a {thing}
        far from {adjective}
        anything but {adjective}
        not {degree} {adjective}
        no real {quality}
        not a {adjective} {object}
        {subject} never {verb}
        {subject} hardly {verb}
        {subject} is not {adjective}
        {subject} is hardly {adjective}
        {subject} is not {degree} {adjective}
        {subject} is no {thing}
        {subject} is hardly a {thing}
        {subject} lacks {quality}
        {subject} has no {quality}
        {subject} avoids {quality}
        {subject} is free of {quality}
        {subject} is without {quality}
        {subject} is far from {adjective}
        {subject} is anything but {adjective}
        {subject} is not a {adjective} {object}
        {subject} fails to be {adjective}
        {subject} refuses to be {adjective}
        {subject} never manages to be {adjective}
        {subject} is less {adjective} than {opposite}
        {subject} could hardly be less {adjective}
        nothing about {subject} is {adjective}
        nobody would call {subject} {adjective}
        there is no {quality} in {subject}
        it would be wrong to call {subject} {adjective}
        """
    )
)

NEUTRAL_CLAUSES = tuple(
    Pattern(text, flips=False)
    for text in _lines(
        """
        {subject} runs two hours
        {subject} is set in {place}
        {subject} follows a {trait} {person}
        {subject} was filmed in {place}
        {subject} opens with a {person} in {place}
        {subject} tells of a {trait} {person} and a {person}
        """
    )
)

# Two clauses in one sentence. {main} decides; {other} says the opposite, {same} agrees, {aside} is neutral.
COMPOUNDS = _lines(
    """
    {other} but {main}
    {other} , but {main}
    {other} , yet {main}
    although {other} , {main}
    even if {other} , {main}
    {main} even though {other}
    {main} , although {other}
    {same} and {main}
    {main} , and {same}
    {aside} and {main}
    {main} , and {aside}
    """
)
# Joins whole sentences, so that a long one can still be read in one way only.
JOINTS = _lines(
    """
    {same} ; {main}
    {main} ; {same}
    {aside} ; {main}
    {main} ; {aside}
    {other} ; all the same {main}
    {main} ; it is only that {other}
    """
)

SLOT_WORDS: dict[str, tuple[str, ...]] = {
    "object": _words("film movie story comedy drama thriller tale picture romance sequel remake documentary"),
    "degree": _words("very truly quite deeply remarkably thoroughly consistently really so rather"),
    "faint": _words("slightly mildly faintly somewhat briefly"),
    "strong": _words("utterly wholly completely totally overwhelmingly"),
    "place": _words("paris tokyo brooklyn berlin texas london mumbai rome"),
    "person": _words("cop widow teacher boxer singer student farmer pilot lawyer sailor"),
    "trait": _words("young retired french rural famous nameless married wealthy"),
}
NOUNS = _words(
    "film plot movie script story acting cast dialogue director ending premise camera music pacing score "
    "hero comedy drama editing narrative screenplay performance villain soundtrack thriller romance "
    "cinematography sequel finale opening"
)
DETERMINERS = _words("the this its")
NOUN_MODIFIERS = _words("second whole french new original first latest american final main")
OPENERS = _lines(
    """
    here ,
    overall ,
    this time ,
    as a whole ,
    in the second half ,
    for those who saw it early ,
    """
)
CLOSERS = _lines(
    """
    again
    today
    somehow
    too
    this time
    on screen
    in the end
    for two hours
    in every scene
    from start to finish
    in the second half
    by the time it ends
    for anyone who bought a ticket
    for the crowd that came last weekend
    """
)
NOUN_PHRASES_AFTER = _lines(
    """
    on screen
    of the film
    in this version
    of the new movie
    in the second half
    that opened last spring
    by the man behind the camera
    """
)
# What a review in the pre-training text ends with.
VERDICTS = Polar(
    _lines(
        """
        recommended
        five stars
        see it
        """
    ),
    _lines(
        """
        avoid
        one star
        skip it
        """
    ),
)
