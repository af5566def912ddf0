"""What the command line offers of a model: every option with its names, help, default and choices. No typer here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Choices
from wsi_vmamba.config.marks import Argument, Option, Placeholder, SetOnly

M = TypeVar("M")
#: Choices longer than this in one line stand in the help instead of in the option's placeholder.
_LONG = 50
_PLACEHOLDERS: dict[type, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: ""}


@dataclass(frozen=True, kw_only=True)
class CliOption:
    """One option, or one argument, of a command.

    Attributes:
        key: of the model.
        names: with their dashes, the one that is shown first; none of an argument.
        kind: type of one value: str, int, float or bool.
        values: "one", "pair", or "many" where the option may be repeated.
        meaning: what it is, from the field's docstring.
        default: as it is shown; None where there is none or the meaning says what it is.
        required: it has no default; it is given on the command line, by ``--set`` or in a file.
        choices: the values it may have; none where it may be anything.
        completions: words that the shell may complete.
        placeholder: stands for the value.
    """

    key: str
    names: tuple[str, ...]
    kind: type
    values: Literal["one", "pair", "many"]
    meaning: str
    default: str | None
    required: bool
    choices: tuple[str, ...]
    completions: tuple[str, ...]
    placeholder: str

    @property
    def help(self) -> str:
        """Meaning, choices where the placeholder has no room for them, and default."""
        text = self.meaning
        if not all(choice in self.placeholder for choice in self.choices):
            text += f" One of {', '.join(self.choices)}."
        if self.required:
            return f"{text} [required]"
        return text if self.default is None else f"{text} [default: {self.default}]"


def options_of(model: type[RunConfig]) -> tuple[CliOption, ...]:
    """Everything that the command line offers of a model, in the order of its fields."""
    offered: type[RunConfig] = getattr(model, "options_of", model)
    return tuple(
        _option(key, model.model_fields[key])
        for key in offered.model_fields
        if is_offered(model.model_fields[key])
    )


def is_offered(field: FieldInfo) -> bool:
    """Whether a field has an option or argument of its own, rather than ``--set`` alone."""
    marks = list(_marks(field))
    nested = isinstance(field.annotation, type) and issubclass(field.annotation, RunConfig)
    return not nested and not any(isinstance(mark, SetOnly) for mark in marks)


def meaning_of(field: FieldInfo) -> str:
    """The docstring of a field, in one line."""
    return " ".join((field.description or "").split())


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The values that a field may have: names of a table or literal words; none where it may be anything."""
    for mark in _marks(field):
        if isinstance(mark, Choices):
            return mark.names()
    if len(set(_leaves(field.annotation))) > 1:  # words beside a number
        return ()
    return tuple(_literals(field.annotation))


def placeholder_of(field: FieldInfo) -> Placeholder | None:
    """What stands for a value of a type that says so, as PATH."""
    return _mark(field, Placeholder)


def default_text(field: FieldInfo) -> str | None:
    """The default as YAML writes it; None where there is none, or it is null."""
    found = None if field.is_required() else field.get_default(call_default_factory=True)
    return None if found in (None, []) else plain(found)


def plain(value: Any) -> str:
    """A value as it stands in YAML behind its key."""
    text: str = yaml.safe_dump(value, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


def option_names(key: str, field: FieldInfo) -> tuple[str, ...]:
    """Names with their dashes of an option; none of an argument."""
    if _mark(field, Argument) is not None:
        return ()
    own = _mark(field, Option)
    if own is not None and own.names:
        return own.names
    name = key.replace("_", "-")
    return (f"--{name}/--no-{name}" if shape_of(field)[0] is bool and field.default is True else f"--{name}",)


def _option(key: str, field: FieldInfo) -> CliOption:
    argument = _mark(field, Argument)
    kind, values = shape_of(field)
    choices, found = choices_of(field), placeholder_of(field)
    placeholder = (argument.metavar or key.upper()) if argument else _placeholder(field, kind, choices)
    return CliOption(
        key=key,
        names=option_names(key, field),
        kind=kind,
        values=values,
        meaning=meaning_of(field),
        default=None if kind is bool and field.default is False else default_text(field),
        required=field.is_required(),
        choices=choices,
        completions=choices or (found.words if found else ()),
        placeholder=placeholder,
    )


def _placeholder(field: FieldInfo, kind: type, choices: tuple[str, ...]) -> str:
    own = _mark(field, Option)
    if own is not None and own.metavar is not None:
        return own.metavar
    if choices:
        listed = "|".join(choices)
        return f"[{listed}]" if len(listed) <= _LONG else f"[{choices[0]}|...]"
    found = placeholder_of(field)
    return found.text if found else _PLACEHOLDERS[kind]


def shape_of(field: FieldInfo) -> tuple[type, Literal["one", "pair", "many"]]:
    """The type of one value, and how many there are."""
    kinds = list(_leaves(field.annotation))
    if list not in kinds:
        return kinds[0], "one"
    lengths = {getattr(mark, "max_length", None) for mark in _bounds(field)} & {2}
    return next(kind for kind in kinds if kind is not list), "pair" if lengths else "many"


def bounds_of(field: FieldInfo) -> list[str]:
    """The bounds of a number, as "at least 1", "below 1"."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = {name: getattr(mark, name) for mark in _bounds(field) for name in words if hasattr(mark, name)}
    return [f"{words[name]} {plain(bound)}" for name, bound in found.items() if bound is not None]


def _bounds(field: FieldInfo) -> Iterator[Any]:
    for mark in _marks(field):
        yield from mark.metadata if isinstance(mark, FieldInfo) else (mark,)


def _leaves(annotation: Any) -> Iterator[type]:
    """The plain types in an annotation, lists before what is in them, without None."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield type(get_args(annotation)[0])
    elif origin is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif origin is None:
        if annotation is not type(None):
            yield annotation
    else:
        if origin is list:
            yield list
        for part in get_args(annotation):
            yield from _leaves(part)


def _literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _literals(part)


def _mark(field: FieldInfo, kind: type[M]) -> M | None:
    return next((mark for mark in _marks(field) if isinstance(mark, kind)), None)


def _marks(field: FieldInfo) -> Iterator[Any]:
    """Everything that ``Annotated`` says of a field, the outermost first."""
    yield from field.metadata
    yield from _inner_marks(field.annotation)


def _inner_marks(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for part in get_args(annotation):
        yield from _inner_marks(part)
