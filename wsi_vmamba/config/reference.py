"""Write what is made from the models: ``configs/*.yaml`` and the two reference pages.

python -m wsi_vmamba.config.reference          # in the checkout; writes what differs, and says so
python -m wsi_vmamba.config.reference --check  # writes nothing; exits with 1 where something differs
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.commands import COMMANDS
from wsi_vmamba.config.options import (
    CliOption,
    bounds_of,
    choices_of,
    is_offered,
    meaning_of,
    option_names,
    options_of,
    placeholder_of,
    plain,
    shape_of,
)
from wsi_vmamba.config.presets import PRESETS, preset_yaml
from wsi_vmamba.config.resolve import nested_model

_WIDTH = 100
_MADE = "<!-- Made from the models by `python -m wsi_vmamba.config.reference`; change those. -->"
_COMMON = (
    ("--config FILE", "YAML file of settings; an unknown key is an error."),
    ("--set KEY=VALUE", "Set any key of the configuration; may be repeated."),
)


def generated_files() -> dict[str, str]:
    """Path in the checkout -> content, of every file that is made from the models."""
    files = {f"configs/{name}.yaml": config_yaml(name) for name in COMMANDS if not _narrows(name)}
    return {
        **files,
        **{f"configs/{name}.yaml": preset_yaml(name) for name in PRESETS},
        "docs/reference/cli.md": cli_page(),
        "docs/reference/configuration.md": configuration_page(),
    }


def config_yaml(command: str) -> str:
    """The file of a command: every key with its meaning and default; required keys as comments."""
    head = f"# `wsi-vmamba {command} --config FILE`: every key with its default. Delete what you do not change.\n"
    return head + "".join(_yaml_keys(COMMANDS[command].load_model()))


def _yaml_keys(model: type[RunConfig], indent: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield "\n" if not indent else ""
        yield from (f"{indent}# {line}\n" for line in textwrap.wrap(_meaning(field), _WIDTH))
        nested = nested_model(model, key)
        if nested is not None:
            yield f"{indent}{key}:\n"
            yield from _yaml_keys(nested, indent + "  ")
        elif field.is_required():
            yield f"{indent}# {key}:  (required)\n"
        else:
            yield f"{indent}{key}: {_default_yaml(field)}\n"


def cli_page() -> str:
    """The page of commands and their options."""
    lines = [
        _MADE,
        "# Command line",
        "Every command takes `--config FILE` and `--set KEY=VALUE` beside its own options, and `--help`. What is given "
        "later in this list wins: defaults, the file, `--set`, options. Exit codes: 0 everything asked for was done, 1 "
        "something failed and was named, 2 the call itself was wrong, 130 interrupted.",
        "`wsi-vmamba --install-completion` installs completion of commands, options and names for your shell.",
    ]
    for name, command in COMMANDS.items():
        options = options_of(command.load_model())
        arguments = [option for option in options if not option.names]
        usage = " ".join(
            f"{option.placeholder}" if option.required else f"[{option.placeholder}]" for option in arguments
        )
        lines += [f"## {name}", command.summary, f"    wsi-vmamba {name} {usage}".rstrip() + " [OPTIONS]"]
        rows = [(_shown(option), _text(option), _default(option)) for option in options]
        lines.append(
            _table(("option", "meaning", "default"), [*rows, *((f"`{o}`", m, "") for o, m in _COMMON)])
        )
    return "\n\n".join(lines) + "\n"


def configuration_page() -> str:
    """The page of every key of every configuration."""
    lines = [
        _MADE,
        "# Configuration",
        "The keys of `--config FILE` (YAML; `configs/` holds a file of each command with all of them) and of `--set "
        "KEY=VALUE`. An unknown key is an error that names the nearest. Settings inside others are written `--set "
        "segmenter_settings.close_um=20`, or indented beneath their key in a file.",
    ]
    for name, command in COMMANDS.items():
        model = command.load_model()
        lines += [f"## {name}", " ".join((model.__doc__ or "").split())]
        if not _narrows(name):
            lines.append(_table(("key", "values", "default", "option", "meaning"), list(_key_rows(model))))
    return "\n\n".join(lines) + "\n"


def _key_rows(model: type[RunConfig], prefix: str = "") -> Iterator[tuple[str, ...]]:
    for key, field in model.model_fields.items():
        nested = nested_model(model, key)
        if nested is not None:
            yield f"`{prefix}{key}`", "settings", "", "", _meaning(field)
            yield from _key_rows(nested, f"{prefix}{key}.")
            continue
        default = "required" if field.is_required() else f"`{_default_yaml(field)}`"
        option = ""
        if is_offered(field) and not prefix:
            option = f"`{(option_names(key, field) or ('argument',))[0]}`"
        yield f"`{prefix}{key}`", _values(field), default, option, meaning_of(field)


def _values(field: FieldInfo) -> str:
    """What may stand behind a key: the choices, or the type with its bounds."""
    choices = choices_of(field)
    return ", ".join(f"`{name}`" for name in choices) if choices else _kind(field)


def _kind(field: FieldInfo) -> str:
    """The type of a value in words, with its bounds."""
    kind, values = shape_of(field)
    shown = placeholder_of(field)
    if shown is not None and shown.words:
        return ", ".join(f"`{name}`" for name in shown.text.strip("[]").split("|"))
    word = (
        "path"
        if shown is not None and shown.text == "PATH"
        else {str: "text", int: "whole number", float: "number", bool: "true or false"}[kind]
    )
    word = f"list of {word}" if values == "many" else f"two of {word}" if values == "pair" else word
    return " ".join([word, *bounds_of(field)])


def _default_yaml(field: FieldInfo) -> str:
    return plain(field.get_default(call_default_factory=True))


def _meaning(field: FieldInfo) -> str:
    choices = choices_of(field)
    return f"{meaning_of(field)} One of {', '.join(choices)}." if choices else meaning_of(field)


def _shown(option: CliOption) -> str:
    if not option.names:
        return f"`{option.placeholder}`"
    return f"`{', '.join(option.names)} {option.placeholder}".rstrip() + "`"


def _text(option: CliOption) -> str:
    if not option.choices:
        return option.meaning
    return f"{option.meaning} One of {', '.join(f'`{name}`' for name in option.choices)}."


def _default(option: CliOption) -> str:
    return "required" if option.required else "" if option.default is None else f"`{option.default}`"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown shows as it is: bars and angle brackets outside code would be markup."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def _narrows(command: str) -> bool:
    """Whether the keys of a command are those of another, whose file it takes."""
    model: Any = COMMANDS[command].load_model()
    return hasattr(model, "options_of")


def main() -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout [default: here]")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where something differs"
    )
    asked = parser.parse_args()
    differing = []
    for name, content in generated_files().items():
        file = asked.root / name
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            differing.append(name)
            if not asked.check:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
    for name in differing:
        print(f"{name}: {'differs from the models' if asked.check else 'written'}")
    return 1 if asked.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
