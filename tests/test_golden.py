"""The reference numbers that come with the tests are there, whole, and are what the tests find."""

from __future__ import annotations

import hashlib
from pathlib import Path

SHIPPED = Path(__file__).with_name("golden")


def test_every_listed_file_is_there_and_small(golden: Path):
    listed = {
        word.strip("` ")
        for line in (SHIPPED / "README.md").read_text().splitlines()
        if line.startswith("| `")
        for word in line.split("|")[1].split(", ")
    }
    assert {entry.name for entry in SHIPPED.iterdir()} - {"README.md"} == {
        name.rstrip("/") for name in listed
    }
    assert 300_000 < sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 900_000
    assert len([case for case in (golden / "froc").iterdir() if (case / "expected.json").is_file()]) == 22


def test_the_fixture_gives_the_files_unchanged(golden: Path):
    for file in SHIPPED.rglob("*"):
        if file.is_file():
            again = golden / file.relative_to(SHIPPED)
            assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()
