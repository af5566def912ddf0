"""Labels name patients: they are never seen unless that was asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.view.context import Context


@pytest.fixture
def folder(tmp_path, picture):
    """An SVS with a thumbnail and a label, as Aperio writes it."""
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        options = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
        tif.write(
            picture(512, 256), tile=(256, 256), description="Aperio Image Library v11\n512x256 [0,0 512x256]|MPP = 0.5",
            **options,
        )  # fmt: skip
        tif.write(picture(64, 32), rowsperstrip=32, description="Aperio Image Library v11", **options)
        label = np.full((40, 50, 3), (10, 200, 30), np.uint8)
        tif.write(
            label, photometric="rgb", metadata=None, compression="lzw", predictor=2, subfiletype=1, rowsperstrip=40,
            description="Aperio Image Library v11\nlabel 50x40",
        )  # fmt: skip
    return tmp_path


def test_a_label_is_not_served_unless_asked_for(view, folder, monkeypatch):
    viewer = view(folder)
    one = f"/slides/{viewer.id_of('a')}"
    assert viewer.get(one).json["pictures"] == {}
    for name in ("label", "macro"):
        assert viewer.get(f"{one}/{name}.jpg").status == 404
    # Nor as a picture of the file by another way.
    assert viewer.get(one).json["size"] == {"width": 512, "height": 256}


def test_it_is_where_it_was_asked_for(view, folder, monkeypatch):
    made = Context.__init__
    monkeypatch.setattr(
        Context, "__init__", lambda self, *a, **k: made(self, *a, **{**k, "show_labels": True})
    )
    viewer = view(folder)
    one = f"/slides/{viewer.id_of('a')}"
    url = viewer.get(one).json["pictures"]["label"]
    pixels = np.asarray(Image.open(io.BytesIO(viewer.get(url).body)))
    np.testing.assert_allclose(pixels, np.broadcast_to((10, 200, 30), (40, 50, 3)), atol=4)
    assert viewer.get(f"{one}/macro.jpg").status == 404
    assert viewer.get(f"{one}/thumbnail.svs.jpg").status == 404
