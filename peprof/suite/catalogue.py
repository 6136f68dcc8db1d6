"""The methods that are installed, and their options: known without importing any of them.

A method is found by its name in the entry-point group ``peprof.methods``. Its options are read from its
source, because importing it would import torch, which takes seconds before a misspelt key can be reported.

Example:
    >>> sorted(known_methods())  # doctest: +SKIP
    ['bitfit', 'full', 'head', 'ia3', 'last_layers', 'lora', 'lst']
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from peprof.errors import Fault, UsageError
from peprof.suite.describing import dotted, faults_of, takes_none_word
from peprof.suite.library import MANAGED, PREFIX, library_tuners, read_tuner
from peprof.suite.schema import METHOD_FIELDS, frozen_value, none_word
from peprof.suite.source_reading import SourceClass, SourceField, UnreadableError, read_class

GROUP = "peprof.methods"
BRIDGE = "peprof_methods.peft_bridge:PeftTuner"
RESERVED = ("name", "label", "published", *METHOD_FIELDS)
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class OptionEntry:
    """One option of a method.

    Args:
        name: as a suite writes it.
        annotation: its type, as the method's source writes it.
        type: its type; ``Any`` where the source can't be read.
        required: has no default.
        default: used when a suite doesn't say; ``None`` too where ``default_known`` is ``False``.
        default_known: whether the default could be read from the source.
        meaning: from the method's docstring; empty where it doesn't say.
    """

    name: str
    annotation: str
    type: Any
    required: bool
    default: Any
    default_known: bool
    meaning: str


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What a method says of itself in its class attributes; empty where it says nothing.

    Args:
        family: of methods: ``low rank``, ``side network`` ...
        paper: authors, year, arXiv id.
        trains: what is trained, in a few words.
        unsupported: family of architectures or class of model -> why the method can't be applied to it.
        merges: whether it can be folded into the backbone's weights; ``None`` where the library decides.
        variants: what is known by a name of its own and is this method with other options: name -> these as a
            suite has them, and the paper.
    """

    family: str = ""
    paper: str = ""
    trains: str = ""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    merges: bool | None = False
    variants: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What people know by a name of its own, and what it is here.

    Args:
        name: its own.
        method: that it is.
        options: with these, as a suite has them.
    """

    name: str
    method: str
    options: str

    def __str__(self) -> str:
        return f"{self.name} is {self.method} with {self.options}"


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One installed method.

    Args:
        name: of the entry point; what a suite calls it.
        value: ``module:Class``.
        distribution: that brings it; ``None`` when unknown.
        summary: the first line of its docstring.
        description: the rest of its docstring up to the first section, paragraphs by lines.
        facts: what it says of itself.
        options: in order of its constructor.
        complete: whether ``options`` are all there are; ``False`` accepts further ones unchecked.
        problem: why its source can't be read; a suite that uses it has a fault.
    """

    name: str
    value: str
    distribution: str | None
    summary: str
    description: str
    facts: MethodFacts
    options: tuple[OptionEntry, ...]
    complete: bool
    problem: str | None = None

    def load(self) -> Any:
        """Imports the method's module, torch included, and gives its class."""
        return EntryPoint(name=self.name, value=self.value, group=GROUP).load()

    def construct(self, options: Mapping[str, Any]) -> Any:
        """Imports the method and constructs it.

        Args:
            options: as a run has them; arrays may be lists, as they are after a trip through JSON.

        Raises:
            UsageError: an option is unknown or of the wrong type.
        """
        checked, faults = self.check(options, prefix=self.name)
        if faults:
            raise UsageError("\n".join(str(fault) for fault in faults))
        return self.load()(**checked)

    def check(self, options: Mapping[str, Any], *, prefix: str) -> tuple[dict[str, Any], list[Fault]]:
        """Checks options strictly and fills in the defaults.

        Args:
            options: from a suite.
            prefix: dotted key of the method's table, for the faults.

        Returns:
            The options (arrays as tuples, integers as numbers where a number is wanted), and the faults.
        """
        if self.problem:
            return {}, [Fault(key=prefix, problem=f"method '{self.name}' can't be used: {self.problem}")]
        model = self._model()
        try:
            # Through JSON, where an array may become a tuple even under strict rules.
            checked = model.model_validate_json(json.dumps(dict(options), default=str))
        except ValidationError as error:
            texts = {
                option.name: f"{option.annotation}, as the method says"
                for option in self.options
                if option.type is Any
            }
            return {}, faults_of(error, model, options, prefix=prefix, texts=texts)
        values = {
            **(checked.model_extra or {}),
            **{
                info.alias or name: getattr(checked, name)
                for name, info in type(checked).model_fields.items()
                if name in checked.model_fields_set or info.default is not _UNKNOWN
            },
        }
        return {name: frozen_value(value) for name, value in values.items()}, []

    def chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of complete options that aren't what the method does when nobody says anything.

        Args:
            options: as ``check`` gives them.
        """
        defaults = {option.name: option.default for option in self.options if option.default_known}
        return {
            key: value
            for key, value in options.items()
            if frozen_value(defaults.get(key, _UNKNOWN)) != frozen_value(value)
        }

    def _model(self) -> type[BaseModel]:
        # Internal names: an option may be called as something that pydantic keeps for itself.
        fields: dict[str, Any] = {
            f"option_{index}": (
                _with_none_word(option.type),
                Field(... if option.required else option.default, alias=option.name)
                if option.required or option.default_known
                else Field(_UNKNOWN, alias=option.name),
            )
            for index, option in enumerate(self.options)
        }
        config = _STRICT if self.complete else ConfigDict(**{**_STRICT, "extra": "allow"})
        return create_model(f"Options of {self.name}", __config__=config, **fields)


@dataclass(frozen=True, kw_only=True)
class LibraryEntry(MethodEntry):
    """A tuner of the ``peft`` library, under ``peft:NAME``."""

    def construct(self, options: Mapping[str, Any]) -> Any:
        """Imports the bridge and constructs it with what differs from the library's defaults.

        Raises:
            UsageError: an option is unknown or of the wrong type.
        """
        checked, faults = self.check(options, prefix=self.name)
        if faults:
            raise UsageError("\n".join(str(fault) for fault in faults))
        targets = checked.pop("targets", None)
        tuner = self.name.removeprefix(PREFIX)
        return self.load()(tuner=tuner, targets=targets, options=self.chosen(checked))


class KnownMethods(Mapping[str, MethodEntry]):
    """The methods that are installed, by name. A ``peft:NAME`` is found too, but not listed.

    Args:
        installed: in alphabetical order.
    """

    def __init__(self, installed: Mapping[str, MethodEntry]) -> None:
        self._installed = dict(installed)

    def __getitem__(self, name: str) -> MethodEntry:
        tuners = library_tuners()
        # Without the library every tuner is known, and can't be used for that reason.
        if name.startswith(PREFIX) and (not tuners or name.removeprefix(PREFIX) in tuners):
            return _library_entry(name)
        return self._installed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._installed)

    def __len__(self) -> int:
        return len(self._installed)

    def variant_called(self, name: str) -> Variant | None:
        """The variant of a method that is known by a name, however it is written: ``k_lst`` for k-LST."""
        for method, entry in self.items():
            for known, (options, _) in entry.facts.variants.items():
                if _bare(known) == _bare(name):
                    return Variant(name=known, method=method, options=options)
        return None

    def names_beside(self, name: str) -> list[str]:
        """The names that a misspelt one may have meant: the library's where it begins like one of those."""
        if name.startswith(PREFIX):
            return [PREFIX + tuner for tuner in sorted(library_tuners())]
        return list(self)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


_UNKNOWN = object()  # stands for a default that only running code can tell


def known_methods() -> KnownMethods:
    """All installed methods by name, in alphabetical order; none of their modules is imported.

    Raises:
        UsageError: none is installed, or two distributions bring different ones under one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if (other.value, _distribution(other)) != (point.value, _distribution(point)):
            raise UsageError(
                f"two methods are called '{point.name}': {_origin(other)} and {_origin(point)}",
                hint="Uninstall one of the two, or rename its entry point.",
            )
    if not found:
        raise UsageError(
            "no methods are installed: peprof is imported from a folder without being installed",
            hint="Install it: pip install -e . (in the checkout).",
        )
    packages = frozenset(point.module.split(".")[0] for point in found.values())
    return KnownMethods({name: _entry(found[name], packages) for name in sorted(found)})


def _library_entry(name: str) -> LibraryEntry:
    tuner = name.removeprefix(PREFIX)
    bridge = read_class(*BRIDGE.split(":"), packages=frozenset({"peprof_methods"}))
    options: tuple[OptionEntry, ...] = ()
    problem = bridge.constants["needs"].get(tuner)
    try:
        source = read_tuner(tuner)
    except UnreadableError as error:
        problem = str(error)
    else:
        targets = next(item for item in bridge.fields if item.name == "targets")
        own = [item for item in source.fields if item.name not in MANAGED | set(RESERVED)]
        options = (
            _option(targets, option_meanings(bridge.docstring)["targets"]),
            *(_option(item, item.help) for item in own),
        )
    return LibraryEntry(
        name=name,
        value=BRIDGE,
        distribution="peft",
        summary=f"The tuner {tuner} of the peft library: https://huggingface.co/docs/peft",
        description=described(bridge.docstring),
        facts=replace(_facts(bridge), merges=None),
        options=options,
        complete=True,  # what can't be followed, a mixin of another library, has no fields
        problem=problem,
    )


def _distribution(point: EntryPoint) -> str | None:
    return point.dist.name if point.dist is not None else None


def _origin(point: EntryPoint) -> str:
    return f"{point.value} (from {_distribution(point) or 'an unknown distribution'})"


def _entry(point: EntryPoint, packages: frozenset[str]) -> MethodEntry:
    source, problem = None, None
    try:
        source = read_class(point.module, point.attr, packages=packages)
    except UnreadableError as error:
        problem = f"{_origin(point)}: {error}"
    options = _options(source) if source else ()
    clash = sorted({option.name for option in options} & set(RESERVED))
    if clash:
        problem = f"{_origin(point)}: its options may not be called {', '.join(clash)}"
    return MethodEntry(
        name=point.name,
        value=point.value,
        distribution=_distribution(point),
        summary=source.docstring.split("\n", 1)[0].strip() if source else "",
        description=described(source.docstring) if source else "",
        facts=_facts(source) if source else MethodFacts(),
        options=options,
        complete=source.complete if source else True,
        problem=problem,
    )


def _facts(source: SourceClass) -> MethodFacts:
    def text(name: str) -> str:
        value = source.constants.get(name, "")
        return value if isinstance(value, str) else ""

    unsupported, variants = source.constants.get("unsupported"), source.constants.get("variants")
    return MethodFacts(
        family=text("family"),
        paper=text("paper"),
        trains=text("trains"),
        unsupported={str(k): str(v) for k, v in unsupported.items()} if isinstance(unsupported, dict) else {},
        merges="merge" in source.functions,
        variants={str(name): (str(found[0]), str(found[1])) for name, found in variants.items()}
        if isinstance(variants, dict)
        and all(isinstance(found, tuple) and len(found) == 2 for found in variants.values())
        else {},
    )


def described(docstring: str) -> str:
    """A docstring without its first line and its sections: one line a paragraph."""
    paragraphs: list[str] = []
    for paragraph in docstring.split("\n\n")[1:]:
        if re.match(r"\s*[A-Z]\w+:\n", paragraph):
            break
        paragraphs.append(" ".join(paragraph.split()))
    return "\n".join(paragraphs)


def _options(source: SourceClass) -> tuple[OptionEntry, ...]:
    meanings: dict[str, str] = {}
    for docstring in reversed((source.docstring, *source.inherited_docstrings)):
        meanings |= option_meanings(docstring)
    return tuple(_option(item, meanings.get(item.name, "")) for item in source.fields)


def _option(item: SourceField, meaning: str) -> OptionEntry:
    type_, default, known = item.annotation, item.default, item.default_known
    try:
        adapter = TypeAdapter(type_, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        type_, adapter = Any, TypeAdapter(Any)
    if known:
        try:  # `alpha: float = 16` means 16.0, as a suite that says 16.0 does
            default = adapter.validate_python(default)
        except ValidationError:
            known = True  # a default needs no leave: None beside `int` is common
    return OptionEntry(
        name=item.name,
        annotation=item.annotation_text,
        type=type_,
        required=item.required,
        default=frozen_value(default),
        default_known=known,
        meaning=meaning,
    )


def _with_none_word(annotation: Any) -> Any:
    """Lets ``"none"`` stand for ``None``, which TOML can't say."""
    if not takes_none_word(annotation):
        return annotation
    # After a validator of ours a value counts as Python's, where strict rules tell arrays from tuples.
    arrays = frozen_value if _has_tuple(annotation) else none_word
    return Annotated[annotation, BeforeValidator(lambda value: none_word(arrays(value)))]


def _has_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(map(_has_tuple, get_args(annotation)))


def option_meanings(docstring: str) -> dict[str, str]:
    """The ``Args:`` (or ``Attributes:``) section of a Google-style docstring: name -> meaning in one line."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    margin: int | None = None
    inside = False
    for line in docstring.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not inside or (text and indent == 0):
            inside = text in ("Args:", "Attributes:")
            margin, names = None, []
            continue
        if not text:
            continue
        margin = indent if margin is None else margin
        entry = re.match(r"([\w*, ]+?)\s*(?:\(.*?\))?:\s*(.*)$", text)
        if indent == margin and entry:
            names = [name.strip(" *") for name in entry[1].split(",")]
            meanings |= dict.fromkeys(names, entry[2])
        else:
            meanings |= {name: f"{meanings[name]} {text}".strip() for name in names}
    return meanings


def method_prefix(index: int, label: object) -> str:
    """How faults call a method's table: ``methods[2] (lora)``; counted from 0."""
    return dotted("", f"methods[{index}]") if not isinstance(label, str) else f"methods[{index}] ({label})"
