"""The one reader of YAML settings: numbers as YAML 1.2 and people write them, text where text is wanted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from wsi_vmamba.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
#: What a plain word stands for unless text is wanted. YAML 1.1, which PyYAML reads, takes 1e-4 for text, 010 for 8,
#: 1:30 for 90 and 2024-01-01 for a date; yes, no, on and off stay true and false.
_WORDS = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"(?:yes|no|true|false|on|off)", re.IGNORECASE)),
    ("int", re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")),
    (
        "float",
        re.compile(
            r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
)
#: How PowerShell, and Windows editors if told so, begin text.
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the words above; its own table of words is replaced, not added to."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012
        None: [
            (_TAG + name, re.compile(f"(?:{pattern.pattern})$", pattern.flags)) for name, pattern in _WORDS
        ]
    }

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """An int in base ten, whatever zeros it begins with, or with the base it names."""
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)


_Loader.add_constructor(_TAG + "int", _Loader.construct_whole_number)


def keys_of_text(annotations: Mapping[str, Any]) -> frozenset[str]:
    """Keys whose values are text, or lists of text, and nothing else, by the annotations of their types."""
    return frozenset(key for key, annotation in annotations.items() if _kinds(annotation) <= {str})


def _kinds(annotation: Any) -> set[Any]:
    """The types of the values that an annotation allows, those in lists too, without None."""
    if get_origin(annotation) is Literal:
        return {type(choice) for choice in get_args(annotation)}
    inner = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    if get_origin(annotation) is Annotated:
        inner = inner[:1]
    if inner:
        return {kind for part in inner for kind in _kinds(part)} - {type(None)}
    return {annotation}


def read_settings(path: Path, *, text_keys: Collection[str]) -> dict[str, Any]:
    """Read a file of ``key: value`` lines; an empty one has none.

    Args:
        path: the file, UTF-8.
        text_keys: keys whose values are text, or lists of text: there 007, no and 1e-4 are words like any other.

    Raises:
        ConfigError: the file cannot be read, is no such file, or has a key twice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    if content.startswith(_UTF16):
        raise ConfigError(f"{path} is text in UTF-16; save it in UTF-8")
    try:
        values = _load(content.decode("utf-8-sig"), text_keys=text_keys, where=str(path))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(values).__name__}")
    return values


def read_value(text: str, *, is_text: bool) -> Any:
    """Read one value as it would stand behind ``key:`` in a file.

    Raises:
        ConfigError: it is not valid YAML.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if is_text:
            _as_text(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"the value {text!r} is not valid YAML; put text with such signs into quotation marks of its own"
        ) from error


def _load(text: str, *, text_keys: Collection[str], where: str) -> Any:
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if isinstance(node, yaml.MappingNode):
        for key, value in _entries(node, where=where):
            if key in text_keys:
                _as_text(value)
    return loader.construct_document(node)


def _entries(node: yaml.MappingNode, *, where: str) -> list[tuple[str, yaml.Node]]:
    """The keys and values of a mapping; a key twice, in it or in one beneath it, is refused: one would be lost."""
    lines: dict[str, int] = {}
    entries = []
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}, line {line}: expected 'key: value', the key is no word")
        if key.value in lines:
            raise ConfigError(
                f"{where}, line {line}: {key.value!r} is set in line {lines[key.value]} too; keep one"
            )
        lines[key.value] = line
        entries.append((key.value, value))
        if isinstance(value, yaml.MappingNode):
            _entries(value, where=where)
    return entries


def _as_text(node: yaml.Node) -> None:
    """Take plain words that look like numbers, booleans or dates for the text they are; null stays null."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _as_text(item)
    elif isinstance(node, yaml.ScalarNode) and node.tag in {_TAG + "int", _TAG + "float", _TAG + "bool"}:
        node.tag = _TAG + "str"
