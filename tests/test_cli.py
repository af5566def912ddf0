"""The command line as a user meets it: in a process of its own, judged by text and exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_vmamba.cli import main
from wsi_vmamba.config import COMMANDS


def cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsi_vmamba", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_the_help_shows_the_defaults():
    assert "[default: features]" in " ".join(cli("extract", "--help").stdout.split())


def test_the_root_help_lists_every_command():
    result = cli("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)


def test_version_is_the_package_version():
    from wsi_vmamba import __version__

    assert cli("--version").stdout.strip() == f"wsi-vmamba {__version__}"


def test_importing_the_command_line_loads_neither_torch_nor_numpy():
    code = "import wsi_vmamba.cli, sys; sys.exit(bool({'torch', 'numpy', 'zarr', 'openslide'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_has_help_that_loads_neither_torch_nor_numpy():
    code = """
import sys
from typer.testing import CliRunner
from wsi_vmamba.cli import app
from wsi_vmamba.config import COMMANDS
for name in COMMANDS:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output, name
    print(name, sorted({"torch", "numpy", "zarr", "openslide", "sklearn", "matplotlib"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines() == [f"{name} []" for name in COMMANDS]


def test_the_root_help_loads_no_model():
    code = "import sys; from typer.testing import CliRunner; from wsi_vmamba.cli import app;"
    code += "CliRunner().invoke(app, ['--help']); sys.exit('wsi_vmamba.config.base' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls the command line within this process, in a folder of its own, and gives the exit code."""

    def call(*arguments: str) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["wsi-vmamba", *arguments])
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("extrct",), "No such command"),
        (("extract", "--colour", "red"), "No such option"),
        (("extract", "--set", "cel_px=64"), "did you mean 'patch_px'"),
        (("extract", "--patch-px", "100"), "multiple of 32"),
        (("extract", "--backbone", "resnet"), "unknown backbone 'resnet'"),
        (("extract", "nowhere"), "nowhere"),
        (("train", "--dataset", "camelyon18"), "did you mean 'camelyon17'"),
        (("train", "--aggregator", "abmill"), "did you mean 'abmil'"),
        (("evaluate", "--metric", "acu"), "unknown metric 'acu'"),
        (("extract", "--device", "cuda:x"), "choose from auto, cpu, cuda, cuda:N"),
        (("download", "camelyon16"), "to is missing; give it"),
        (("check", "--set", "datset=camelyon16"), "did you mean 'dataset'"),
        (("doctor", "--set", "devise=cpu"), "did you mean 'device'"),
        (("extract", "--config", "none.yaml"), "cannot read the configuration none.yaml"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_is_valid(
    arguments: tuple[str, ...], words: str, called: Callable[..., int], capsys
):
    assert called(*arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_bad_usage_of_a_process_is_one_line_and_no_traceback(tmp_path: Path):
    result = cli("extract", "--patch-px", "100", cwd=tmp_path)
    assert result.returncode == 2
    assert "multiple of 32" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_folder_is_refused(tmp_path: Path, called: Callable[..., int], capsys):
    (tmp_path / "slides").mkdir()
    assert called("extract", "slides") == 2
    assert "no slides found" in capsys.readouterr().err


def test_a_file_that_is_no_slide_fails_by_name(tmp_path: Path, called: Callable[..., int], capsys):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "notes.svs").write_text("not a slide")
    assert called("extract", "slides", "--backbone", "null") == 1
    printed = capsys.readouterr().out
    assert "notes" in printed
    assert "failed" in printed
    assert not list((tmp_path / "features").glob("*.zarr"))


def test_the_documentation_shows_every_command():
    page = (Path(__file__).resolve().parents[1] / "docs" / "commands.md").read_text()
    for command in COMMANDS:
        assert f"wsi-vmamba {command}" in page or f"**`{command}" in page
