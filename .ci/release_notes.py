"""Print what CHANGELOG.md says of a version, as release notes: its lists, each item on one line.

Usage: ``python .ci/release_notes.py 0.1.0``, or ``Unreleased``. Hosts of repositories break a line wherever a file
does, so wrapped lines are joined.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"
_HEADING = re.compile(r"^## \[([^\]]+)\].*$", re.MULTILINE)


def release_notes(changelog: str, version: str) -> str:
    """Return the section of ``version`` without its heading, wrapped lines joined.

    Raises:
        LookupError: the changelog has no such version, or nothing is written under it.
    """
    headings = list(_HEADING.finditer(changelog))
    versions = [heading[1] for heading in headings]
    if version not in versions:
        raise LookupError(f"CHANGELOG.md has no version {version!r}; it has {', '.join(versions) or 'none'}")
    index = versions.index(version)
    end = headings[index + 1].start() if index + 1 < len(headings) else len(changelog)
    section = changelog[headings[index].end() : end].strip()
    if not section:
        raise LookupError(f"nothing is written under version {version} in CHANGELOG.md")
    # A line that goes on is indented; a list item, a heading and a blank line begin anew.
    return re.sub(r"\n +(?=[^ ])(?![-*] )", " ", section) + "\n"


def main(arguments: list[str]) -> int:
    """Print the notes of the version that is named; 2 when there is not exactly one, 1 when there are no notes."""
    if len(arguments) != 1:
        print("which version? make release-notes VERSION=0.1.0, or VERSION=Unreleased", file=sys.stderr)
        return 2
    try:
        print(release_notes(CHANGELOG.read_text(encoding="utf-8"), arguments[0]), end="")
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
