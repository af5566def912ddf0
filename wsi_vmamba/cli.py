"""The command line: parse, dispatch, exit codes. Imports neither torch nor numpy, so that `--help` is instant.

Commands are the lines of `wsi_vmamba.config.COMMANDS`, their options the fields of the models named there.

Exit codes: 0 everything asked for was done; 1 something failed and was named; 2 the call itself was wrong.
"""

from __future__ import annotations

import inspect
import logging
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from wsi_vmamba import __version__
from wsi_vmamba.config.commands import COMMANDS
from wsi_vmamba.errors import FolderGoneError, UsageError, WsiVmambaError, words_of_system
from wsi_vmamba.streams import guard_streams

if TYPE_CHECKING:
    from wsi_vmamba.config.options import CliOption

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: Names of parameters that no key of a model has.
_FILE, _ASSIGNMENTS = "_config_file", "_assignments"
_COMMON: dict[str, Any] = {
    _FILE: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="YAML file of settings; an unknown key is an error."),
    ],
    _ASSIGNMENTS: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the configuration; may be repeated."),
    ],
}
_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class _LazyCommands(MutableMapping[str, Any]):
    """Name -> command, made when it is asked for: the help of one loads the model of no other."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in COMMANDS:
                raise KeyError(name)
            self._made[name] = _make_command(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(TyperGroup):
    """The group of all commands, listed under the headings of the table."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))
        for heading in dict.fromkeys(command.group for command in COMMANDS.values()):
            with formatter.section(heading):
                lines = [
                    (name.ljust(width), line.summary)
                    for name, line in COMMANDS.items()
                    if line.group == heading
                ]
                formatter.write_dl(lines)


app = typer.Typer(
    name="wsi-vmamba",
    cls=_Commands,
    help="Read gigapixel pathology slides with a VMamba backbone: features, slide scores, AUC and heatmaps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would swallow "[default: ...]"
    context_settings=_HELP_NAMES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsi-vmamba {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options of the program itself."""


def _make_command(name: str) -> Any:
    """The command of that name, with an option for each field of its model that has one."""
    from wsi_vmamba.config.options import options_of

    options = options_of(COMMANDS[name].load_model())

    def call(**given: Any) -> None:
        file, assignments = given.pop(_FILE), given.pop(_ASSIGNMENTS)
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        _run(
            name, file, assignments, {key: value for key, value in values.items() if value not in (None, [])}
        )

    annotations = {option.key: _parameter(option) for option in options} | _COMMON
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, kind, default=None, annotation=annotation)
        for key, annotation in annotations.items()
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = annotations
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, help=COMMANDS[name].summary, context_settings=_HELP_NAMES)(call)
    return get_command(alone)


def _parameter(option: CliOption) -> Any:
    """The annotation that makes typer offer an option as its model describes it; None stands for not given."""
    kinds: dict[str, Any] = {
        "one": option.kind,
        "pair": tuple[option.kind, option.kind],  # type: ignore[name-defined]
        "many": list[option.kind],  # type: ignore[name-defined]
    }
    shared: dict[str, Any] = {
        "help": option.help,
        "show_default": False,  # the model's, which is in the help; typer's is None
        "metavar": option.placeholder or None,
        "autocompletion": _complete(option.completions) if option.completions else None,
    }
    if not option.names:
        return Annotated[kinds[option.values] | None, typer.Argument(**shared)]
    return Annotated[kinds[option.values] | None, typer.Option(*option.names, **shared)]


def _complete(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _run(name: str, file: Path | None, assignments: list[str] | None, options: dict[str, Any]) -> None:
    """Resolve the configuration, run the recipe of that name and exit with its code."""
    _require_current_folder()
    from wsi_vmamba.config import resolve_config

    resolved = resolve_config(
        COMMANDS[name].load_model(), file=file, assignments=assignments or (), options=options
    )
    # What a job scheduler sends before it kills; ending as for Ctrl-C keeps the table and gives slides free.
    signal.signal(signal.SIGTERM, _interrupt)
    # A terminal that is closed, an ssh connection that breaks; nohup has us ignore it.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        done = import_module(f"wsi_vmamba.pipelines.{name.replace('-', '_')}").run(resolved)
        code = EXIT_DONE if done else EXIT_FAILED
    except KeyboardInterrupt:
        again = "with --resume " if "resume" in type(resolved).model_fields else ""
        typer.echo(
            f"interrupted; what is finished is kept, run the same command again {again}to go on", err=True
        )
        code = EXIT_INTERRUPTED
    raise typer.Exit(code)


def _require_current_folder() -> None:
    """Refuse to start in a folder that is gone; libraries would only say what they cannot load.

    Raises:
        FolderGoneError: it is.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise FolderGoneError(
            f"the current folder cannot be found ({error.strerror}); it was removed, moved or replaced. Change to one "
            'that is there; to the new one of the same name with cd "$PWD"'
        ) from error


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: run the command, turn errors into one clear line and an exit code."""
    # It prints what it finds odd in a file; what matters of that, our own errors say with the slide's name.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    guard_streams()
    try:
        app()
    except UsageError as error:
        _fail(error, EXIT_USAGE)
    except WsiVmambaError as error:
        _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:  # before the recipe began
        typer.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except (OSError, UnicodeEncodeError) as error:
        words = words_of_system(error)
        if words is None:
            raise
        _fail(words, EXIT_FAILED)


def _fail(error: WsiVmambaError | str, code: int) -> None:
    typer.echo(f"error: {error}", err=True)
    sys.exit(code)
