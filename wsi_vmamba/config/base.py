"""The base of all settings: frozen, strict about types, an unknown key is an error that names the nearest."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from wsi_vmamba.config.commands import COMMANDS
from wsi_vmamba.errors import ConfigError, UnknownNameError

#: A word in pydantic's list of choices.
_QUOTED = re.compile(r"'([^']*)'")


class RunConfig(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        defer_build=True,  # `--help` needs the fields, not their validators
    )

    def __init__(self, **values: Any) -> None:
        """Check the values.

        Raises:
            ConfigError: one is missing, unknown, or of the wrong type or range; all that are wrong are named.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_describe(type(self), error)) from None

    def changed(self, **changes: Any) -> Self:
        """A copy with some values changed, checked like a new one."""
        return type(self)(**{**{key: getattr(self, key) for key in type(self).model_fields}, **changes})


def default_of(model: type[RunConfig], key: str) -> Any:
    """The default of a setting, which is written in its model and nowhere else."""
    return model.model_fields[key].get_default(call_default_factory=True)


def _describe(model: type[RunConfig], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = _words_of(problem, key)
        if problem["type"] == "missing":
            lines.append(
                f"{key} is missing; give it on the command line, with --set {key}=... or in --config"
            )
            continue
        nested = problem.get("ctx", {}).get("error")
        if isinstance(nested, ConfigError):  # of settings inside these, which name their own keys and values
            lines.append(f"{key}.{message.partition(': ')[2]}")
            continue
        got = repr(problem["input"])
        if problem["input"] is None:
            got += ", which is how YAML reads null, ~ and nothing at all; the name null is written in quotation marks"
        if key:
            message = f"{key}: {message}" if f" {got}" in message else f"{key}: {message} (got {got})"
        lines.append(message)
    what = model.__name__
    if what.endswith("Config"):
        commands = (name for name, command in COMMANDS.items() if command.model.endswith(f":{what}"))
        what = f"configuration for {next(commands, what.removesuffix('Config').lower())}"
    return f"invalid {what}: " + "; ".join(lines)


def _words_of(problem: ErrorDetails, key: str) -> str:
    """What is wrong; of a word that is none of a few, as of a name that is in no table."""
    if problem["type"] == "literal_error":
        choices = _QUOTED.findall(problem["ctx"]["expected"])
        if choices and isinstance(problem["input"], str):
            return str(UnknownNameError(key.rpartition(".")[2].replace("_", " "), problem["input"], choices))
    return problem["msg"].removeprefix("Value error, ")
