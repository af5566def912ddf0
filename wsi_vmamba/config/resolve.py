"""Defaults, a YAML file, ``--set`` and options, merged into one valid configuration; and back to YAML."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.errors import ConfigError
from wsi_vmamba.home import expand_home
from wsi_vmamba.settings_yaml import keys_of_text, read_settings, read_value

C = TypeVar("C", bound=RunConfig)

#: Keys of before the first release, and what they are called now.
_RENAMED = {"cell_px": "patch_px"}


def resolve_config(
    model: type[C],
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> C:
    """Merge defaults, a YAML file, ``key=value`` assignments and options (None = not given) into a valid config.

    Raises:
        ConfigError: an unknown key (naming the nearest), a value of the wrong type or range, or a bad file.
    """
    text_keys = keys_of_text({key: field.annotation for key, field in model.model_fields.items()})
    values = read_settings(Path(expand_home(str(file))), text_keys=text_keys) if file else {}
    _refuse_unknown(model, values, where=str(file))
    for text in assignments:
        key, value = _parse_assignment(text, text_keys=text_keys)
        _assign(model, values, key, value)
    values.update({key: value for key, value in (options or {}).items() if value is not None})
    return model(**values)


def keyword_config(model: type[C], settings: Mapping[str, Any]) -> C:
    """The configuration of keyword arguments, with the errors of a file's or of ``--set``; None = not given.

    Raises:
        ConfigError: an unknown name (naming the nearest), or a value of the wrong type or range.
    """
    _refuse_unknown(model, settings, where="keyword argument")
    values = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()
    }
    return resolve_config(model, options=values)


def show_settings(
    function: Callable[..., Any], model: type[RunConfig], *, leave_out: Collection[str] = ()
) -> None:
    """Have `help` and completion in notebooks list the settings that a function takes by name as ``**settings``.

    They are written down in the model alone.
    """
    own = inspect.signature(function).parameters.values()
    first = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    named = {parameter.name for parameter in first}
    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.get_default(call_default_factory=True, validated_data={}),
            annotation=_without_marks(field.annotation),
        )
        for name, field in model.model_fields.items()
        if name not in named and name not in leave_out
    ]
    vars(function)["__signature__"] = inspect.Signature([*first, *settings])


def _without_marks(annotation: Any) -> Any:
    """The type alone: how a value is checked says nothing to a reader of `help`."""
    if get_origin(annotation) is Annotated:
        return _without_marks(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, map(_without_marks, get_args(annotation)))
    if get_origin(annotation) in (list, tuple):
        return get_origin(annotation)[tuple(map(_without_marks, get_args(annotation)))]
    return annotation


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML, every key written out, ready for `--config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def nested_model(model: type[RunConfig], key: str) -> type[RunConfig] | None:
    """The model of a key that holds settings of its own, as in ``segmenter_settings.close_um``; None of others."""
    annotation = model.model_fields[key].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, RunConfig) else None


def _assign(model: type[RunConfig], values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``key``, or ``key.inner`` of nested settings, in the values read so far."""
    outer, dot, inner = key.partition(".")
    _refuse_unknown(model, {outer: None}, where="--set")
    nested = nested_model(model, outer)
    if not dot:
        _refuse_unknown(model, {outer: value}, where="--set")
        values[outer] = value
        return
    if nested is None:
        raise ConfigError(f"--set: {outer!r} is one value, it has no key {inner!r}")
    _refuse_unknown(nested, {inner: value}, where="--set", beneath=f"{outer}.")
    there = values.get(outer, {})
    if not isinstance(there, dict):
        raise ConfigError(f"{outer}: expected 'key: value' lines, got {there!r}")
    values[outer] = {**there, inner: value}


def _parse_assignment(text: str, *, text_keys: Collection[str]) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set expects key=value, got {text!r}")
    try:
        return key, read_value(value, is_text=key in text_keys)
    except ConfigError as error:
        raise ConfigError(f"--set {text}: {error}") from error


def _refuse_unknown(
    model: type[RunConfig], values: Mapping[str, Any], *, where: str, beneath: str = ""
) -> None:
    for key, value in values.items():
        if key in _RENAMED:
            raise ConfigError(
                f"{where}: {key!r} is called {_RENAMED[key]!r} now; cells of a slide are patches"
            )
        if key not in model.model_fields:
            near = get_close_matches(str(key), model.model_fields, n=1, cutoff=0.4)
            hint = f"; valid keys: {', '.join(model.model_fields)}"
            hint = f"; did you mean {beneath + near[0]!r}?" if near else hint
            raise ConfigError(f"{where}: unknown key {beneath + str(key)!r}{hint}")
        nested = nested_model(model, key)
        if nested is not None and isinstance(value, dict):
            _refuse_unknown(nested, value, where=where, beneath=f"{beneath}{key}.")
