"""The pictures of the documentation, taken of a demo run; whatever goes wrong on the page fails them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"


def keep(page, name: str) -> None:
    """As a JPEG of a size that a repository can bear."""
    picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    picture.save(IMAGES / f"{name}.jpg", quality=82, optimize=True)


@pytest.fixture
def visit_run(pages_of, run_address):
    return pages_of(run_address)


def test_pictures_of_a_run(visit_run):
    page = visit_run()
    keep(page, "viewer")
    page.page.keyboard.press("c")
    page.settle()
    keep(page, "viewer-curtain")
    page.page.keyboard.press("c")
    page.page.keyboard.press("x")
    page.settle()
    keep(page, "viewer-pair")
    phone = visit_run(width=390, height=844, scheme="dark", has_touch=True)
    phone.page.locator("#fold-right").click()
    phone.page.wait_for_timeout(500)
    keep(phone, "viewer-phone")
