"""Fixtures every room shares: where the real slides and the golden numbers are, if they are here at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} does not name a folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    return _folder("WSI_VMAMBA_REAL_DATA", "../shared/data")


@pytest.fixture(scope="session")
def golden() -> Path:
    return _folder("WSI_VMAMBA_GOLDEN", "../shared/golden")
