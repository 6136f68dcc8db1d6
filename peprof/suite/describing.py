"""What was found and what was expected, in words for people: values, types, pydantic's errors as faults."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from peprof.errors import Fault

_SHOWN_CHARACTERS = 60
_LABEL_WORDS = "letters, digits and . _ + @ = , - (120 at most, a letter or digit first)"
_NOUNS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_PLURALS = {int: "integers", float: "numbers", str: "strings", bool: "true or false"}


def show(value: object) -> str:
    """A value as TOML writes it, cut short, with its kind where that isn't plain to see.

    >>> show(["a", 1])
    '["a", 1]'
    >>> show("32")
    '"32", a string'
    """
    text = _toml(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 3] + "..."
    return f"{text}, a string" if isinstance(value, str) else text


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + value.replace("\n", "\\n") + '"'
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case dict():
            return "a table"
        case None:
            return "nothing"
        case _:
            return str(value)  # dates and times


def nearest(word: object, candidates: Iterable[str]) -> str | None:
    """The candidate most like a word, or ``None`` when none is near."""
    if not isinstance(word, str):
        return None
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    found = found or difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def one_of(words: Iterable[str]) -> str:
    """``one of a, b, c``."""
    words = list(words)
    return words[0] if len(words) == 1 else "one of " + ", ".join(words)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type with its limits in words: ``an integer >= 1``, ``a list of 1 to 2 strings``.

    Args:
        annotation: a type, as ``typing`` writes it.
        metadata: limits that stand beside it (``annotated_types``).
    """
    annotation, metadata = _unwrapped(annotation, metadata)
    origin = get_origin(annotation)
    if origin is Literal:
        return one_of(_toml(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return _describe_union(annotation)
    if _is_list(annotation):
        return _describe_list(annotation, metadata)
    if annotation is dict or origin is dict or _is_model(annotation):
        return "a table"
    noun = _NOUNS.get(annotation)
    if noun is None:
        return "a value that the method accepts"
    limits = _limits(metadata)
    if annotation is str and any(isinstance(item, annotated_types.MinLen) for item in metadata):
        return "a string that is not empty"
    if annotation is str and _has_pattern(metadata):
        return f"a string of {_LABEL_WORDS}"
    return f"{noun} {limits}".rstrip()


def _unwrapped(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Without ``Annotated``; its limits join the others."""
    items = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        items.extend(inner)
    flat: list[Any] = []
    for item in items:
        flat.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return annotation, flat


def _describe_union(annotation: Any) -> str:
    members = [member for member in get_args(annotation) if member is not type(None)]
    words = " or ".join(describe(member) for member in members)
    return f'{words}, or "none"' if takes_none_word(annotation) else words


def takes_none_word(annotation: Any) -> bool:
    """Whether ``"none"`` can stand for ``None``: it is allowed, and no string could be meant instead."""
    members = [_unwrapped(member, ())[0] for member in get_args(annotation)]
    if get_origin(annotation) not in (Union, types.UnionType) or type(None) not in members:
        return False
    return str not in members and Any not in members and "none" not in _choices(annotation)


def _describe_list(annotation: Any, metadata: Sequence[Any]) -> str:
    least = next((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), 0)
    most = next((item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)), None)
    count = f"{least} to {most} " if most is not None else (f"{least} or more " if least else "")
    arguments = [item for item in get_args(annotation) if item is not Ellipsis]
    if len(arguments) != 1:
        return f"a list of {count}values"
    item, limits = _unwrapped(arguments[0], ())
    if get_origin(item) is Literal:
        return f"a list of {count}values, each " + describe(item)
    return f"a list of {count}{_PLURALS.get(item, 'values')} {_limits(limits)}".rstrip()


def _limits(metadata: Sequence[Any]) -> str:
    words = []
    for item in metadata:
        match item:
            case annotated_types.Gt(gt=limit):
                words.append(f"> {limit}")
            case annotated_types.Ge(ge=limit):
                words.append(f">= {limit}")
            case annotated_types.Lt(lt=limit):
                words.append(f"< {limit}")
            case annotated_types.Le(le=limit):
                words.append(f"<= {limit}")
    return " and ".join(words)


def _has_pattern(metadata: Sequence[Any]) -> bool:
    return any(getattr(item, "pattern", None) for item in metadata)


def _is_list(annotation: Any) -> bool:
    return annotation in (tuple, list, set) or get_origin(annotation) in (tuple, list, set)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def faults_of(
    error: ValidationError,
    model: type[BaseModel],
    table: Mapping[str, Any],
    *,
    prefix: str,
    texts: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> list[Fault]:
    """Pydantic's errors about one table, one fault a key.

    Args:
        error: what pydantic found.
        model: what it checked against.
        table: what it checked, as the file has it.
        prefix: the table's dotted key; empty for the whole file.
        texts: by field, words for a type that say more than ``describe`` can.
        elsewhere: keys that belong in other tables -> their dotted key, for the did-you-mean.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    faults: dict[str, Fault] = {}
    for detail in error.errors():
        fault = _fault(detail, table, fields, prefix, texts or {}, elsewhere or {})
        faults.setdefault(fault.key, fault)  # a union reports each of its members
    # A list of faulty items also counts as too short: the items' faults say it better.
    return [
        fault
        for key, fault in faults.items()
        if not any(other.startswith(f"{key}[") and not key.endswith("]") for other in faults)
    ]


def _fault(
    detail: ErrorDetails,
    table: Mapping[str, Any],
    fields: Mapping[str, FieldInfo],
    prefix: str,
    texts: Mapping[str, str],
    elsewhere: Mapping[str, str],
) -> Fault:
    location, found = detail["loc"], _value_at(table, detail["loc"])
    if not location:
        return Fault(key=prefix, problem=detail["msg"].removeprefix("Value error, "))
    name = str(location[0])
    if detail["type"] == "extra_forbidden":
        return Fault(
            key=dotted(prefix, name),
            problem=f"unknown key (found {show(found)})",
            expected=one_of(fields) if fields else "no options",
            suggestion=elsewhere.get(name) or nearest(name, fields),
        )
    expected, choices, path = _expected_at(location[1:], fields[name])
    expected = texts.get(name, expected) if not path else expected
    key = dotted(prefix, name) + path
    if detail["type"] == "value_error":  # a check of the field's own, whose words say what it expects
        expected, choices = detail["msg"].removeprefix("Value error, "), []
    if detail["type"] == "missing" or name not in table:
        return Fault(key=key, problem="is missing", expected=expected)
    return Fault(
        key=key, problem=f"found {show(found)}", expected=expected, suggestion=nearest(found, choices)
    )


def _value_at(table: Mapping[str, Any], location: Sequence[int | str]) -> Any:
    """The value found at a place; a place ends where pydantic names a union's member."""
    value: Any = table
    for step in location:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
    return value


def _expected_at(rest: Sequence[int | str], field: FieldInfo) -> tuple[str, list[str], str]:
    """What is expected at a place within a field's value, its literal choices, and the place as text."""
    annotation, metadata = _unwrapped(field.annotation, field.metadata)
    path = ""
    for step in rest:
        if not isinstance(step, int):
            break  # the member of a union: the whole union is described
        if get_origin(annotation) in (Union, types.UnionType):
            annotation = next((item for item in get_args(annotation) if _is_list(item)), annotation)
        arguments = [item for item in get_args(annotation) if item is not Ellipsis]
        if not arguments:
            break
        annotation, metadata = _unwrapped(arguments[min(step, len(arguments) - 1)], ())
        path += f"[{step}]"
    choices = _choices(annotation) + (["none"] if takes_none_word(annotation) else [])
    return describe(annotation, metadata), choices, path


def _choices(annotation: Any) -> list[str]:
    annotation, _ = _unwrapped(annotation, ())
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return [choice for member in get_args(annotation) for choice in _choices(member)]


def dotted(prefix: str, name: str) -> str:
    """``prefix.name``, quoted as in TOML where a bare key couldn't be; ``name`` alone without a prefix."""
    name = name if re.fullmatch(r"[A-Za-z0-9_.@=+,-]+", name) else f'"{name}"'
    return f"{prefix}.{name}" if prefix else name
