"""What holds for every command, by the table of commands: nothing here names one that is merely added to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from wsi_vmamba.cli import app
from wsi_vmamba.config import COMMANDS, RunConfig, default_of
from wsi_vmamba.config.options import CliOption, is_offered, meaning_of, options_of, plain
from wsi_vmamba.config.reference import generated_files
from wsi_vmamba.config.resolve import nested_model, resolve_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> type[RunConfig]:
    return COMMANDS[name].load_model()


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def words(text: str) -> str:
    """Without line ends, which may also come behind a hyphen."""
    return re.sub(r"- ", "-", " ".join(text.split()))


def offered(name: str) -> dict[str, CliOption]:
    return {option.key: option for option in options_of(COMMANDS[name].load_model())}


def test_every_setting_says_what_it_is(model: type[RunConfig]):
    for key, field in model.model_fields.items():
        assert len(meaning_of(field)) > 5, f"{model.__name__}.{key} has no docstring"
        nested = nested_model(model, key)
        for inner, inner_field in nested.model_fields.items() if nested else ():
            assert meaning_of(inner_field), f"{key}.{inner} has no docstring"


def test_the_help_shows_every_option_with_its_meaning_choices_and_default(name: str, model: type[RunConfig]):
    shown = words(run(name, "--help").output)
    assert COMMANDS[name].summary in shown
    for key, option in offered(name).items():
        assert words(option.help) in shown
        for spelling in option.names:
            assert spelling.split("/")[0] in shown
        field = model.model_fields[key]
        if not field.is_required() and default_of(model, key) not in (None, False, []):
            assert f"[default: {plain(default_of(model, key))}]" in option.help
        assert all(choice in option.help + option.placeholder for choice in option.choices)
    assert "--config FILE" in shown
    assert "--set KEY=VALUE" in shown


def test_every_option_is_a_field_and_every_field_an_option_unless_its_model_says_otherwise(
    name: str, model: type[RunConfig]
):
    command = get_command(app).commands[name]
    given = {parameter.name for parameter in command.params} - {"_config_file", "_assignments", "help"}
    expected = {key for key, field in model.model_fields.items() if is_offered(field)}
    if hasattr(model, "options_of"):
        expected &= model.options_of.model_fields.keys()
    assert given == expected


def test_every_command_takes_set_and_config(name: str, tmp_path: Path):
    for arguments in (("--set", "colour=red"), ("--config", str(tmp_path / "c.yaml"))):
        (tmp_path / "c.yaml").write_text("colour: red\n")
        result = run(name, *arguments)
        assert "unknown key 'colour'" in str(result.exception)


def test_every_command_has_a_recipe_of_its_name(name: str):
    assert (ROOT / "pipelines" / f"{name.replace('-', '_')}.py").is_file()


def test_the_root_help_lists_every_command_under_its_heading():
    text = run("--help").output
    sections = dict(re.findall(r"^(\S.*):\n((?:  .*\n)+)", text, flags=re.MULTILINE))
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} ", sections[command.group], flags=re.MULTILINE)
        assert command.summary in words(sections[command.group])


@pytest.mark.parametrize("file", generated_files())
def test_what_is_made_from_the_models_is_as_they_would_make_it(file: str):
    assert (ROOT / file).read_text() == generated_files()[file], (
        "made from the models: run `python -m wsi_vmamba.config.reference`"
    )


def test_every_file_in_the_folder_of_configurations_is_of_a_command():
    made = {Path(file).name for file in generated_files() if file.startswith("configs/")}
    for file in (ROOT / "configs").iterdir():
        if file.name not in made:  # a recipe of a command: finetune-imagenet.yaml
            command = max((name for name in COMMANDS if file.stem.startswith(f"{name}-")), key=len)
            resolve_config(COMMANDS[command].load_model(), file=file)
    assert {file.name for file in (ROOT / "configs").iterdir()} >= made


@pytest.mark.parametrize("default", ["10_000", "10000"])
def test_the_default_region_is_written_once(default: str):
    about = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("wsi_vmamba", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        for line in file.read_text().splitlines()
        if "region_px" in line and default in line and not line.strip().startswith(("#", '"""'))
    ]
    assert len(about) == (default == "10_000"), about


OPTIONS_OF_BEFORE = {
    "extract": "out reader scene mpp-override target-mpp region-px patch-px mask backbone weights precision device "
    "memory-limit on-bad-tile overwrite shard workers scheduler",
    "train": "dataset manifest features runs name aggregator classifier supervision annotations folds device epochs "
    "seed resume overwrite",
    "finetune": "backbone weights out epochs learning-rate layer-decay device overwrite",
    "evaluate": "metric run features split scores score-column label-column positive threshold masks annotations "
    "detections exclude compare out json heatmaps",
    "export": "format out run overwrite",
    "download": "to slides annotations no-annotations workers endpoint-url",
    "check": "slides checksums json",
    "demo": "out slides seed",
    "info": "reader scene mpp-override target-mpp region-px",
    "show": "slide out",
}


@pytest.mark.parametrize("name", OPTIONS_OF_BEFORE)
def test_options_that_scripts_use_stay(name: str):
    known = {spelling for option in get_command(app).commands[name].params for spelling in option.opts}
    known |= {
        spelling for option in get_command(app).commands[name].params for spelling in option.secondary_opts
    }
    assert {f"--{option}" for option in OPTIONS_OF_BEFORE[name].split()} <= known


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    result = CliRunner().invoke(
        app, prog_name="wsi-vmamba", env={"_WSI_VMAMBA_COMPLETE": "complete_bash"}, args=[]
    )
    return result.output.split()


def test_the_shell_completes_commands_options_and_names(monkeypatch: pytest.MonkeyPatch):
    assert completed(monkeypatch, "wsi-vmamba ex") == ["extract", "export"]
    assert completed(monkeypatch, "wsi-vmamba extract --memory-limit-") == ["--memory-limit-gb"]
    assert completed(monkeypatch, "wsi-vmamba train --aggregator abm") == ["abmil"]
    assert completed(monkeypatch, "wsi-vmamba extract --device cu") == ["cuda"]
