"""Release notes come from the changelog, and a version that is not there is named with those that are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2027-01-02

### Added
- A first thing that goes on
  in the next line.
- A second.
  - A part of it.

### Fixed
- A third.

## [0.1.0]
- All of it.
"""


@pytest.fixture
def notes(tmp_path: Path):
    """Run the script on a changelog: exit code, standard output, standard error."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "release_notes.py"
    script.write_text((ROOT / ".ci" / "release_notes.py").read_text())
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)

    def run(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout, ended.stderr

    return run


def test_a_section_is_printed_with_its_lines_joined(notes) -> None:
    assert notes("0.2.0") == (
        0,
        "### Added\n- A first thing that goes on in the next line.\n- A second.\n  - A part of it.\n\n"
        "### Fixed\n- A third.\n",
        "",
    )
    assert notes("0.1.0") == (0, "- All of it.\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["0.3.0"], 1, "no version '0.3.0'; it has Unreleased, 0.2.0, 0.1.0"),
        (["Unreleased"], 1, "nothing is written under version Unreleased"),
        ([], 2, "which version?"),
    ],
)
def test_what_is_missing_is_said(notes, arguments: list[str], code: int, message: str) -> None:
    found, out, error = notes(*arguments)
    assert (found, out) == (code, "")
    assert message in error


def test_the_changelog_of_this_project_has_notes() -> None:
    ended = subprocess.run(
        ["make", "--silent", "release-notes", "VERSION=Unreleased", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "### Added\n- `wsi-vmamba extract SLIDES`" in ended.stdout
