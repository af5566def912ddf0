"""A folder of Deep Zoom through the whole of extract: found, given its mpp, and read around a damaged tile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features

TILE, SIDE = 100, 256


@pytest.fixture
def atlas(tmp_path):
    """A picture as an atlas publishes it, in a folder of its own; and the picture."""
    picture = np.random.default_rng(0).integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    folder = tmp_path / "atlas" / "a"
    folder.mkdir(parents=True)
    (folder / "HE.dzi").write_text(
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="1" TileSize="{TILE}">'
        f'<Size Width="{SIDE}" Height="{SIDE}"/></Image>'
    )
    for number in (8, 7, 6):
        level = picture[:: 1 << (8 - number), :: 1 << (8 - number)]
        place = folder / "HE_files" / str(number)
        place.mkdir(parents=True)
        count = math.ceil(level.shape[0] / TILE)
        for column, row in np.ndindex(count, count):
            x, y = column * TILE, row * TILE
            part = level[max(0, y - 1) : y + TILE + 1, max(0, x - 1) : x + TILE + 1]
            Image.fromarray(part).save(place / f"{column}_{row}.png")
    return folder.parent, picture


def features(out):
    file = open_features(out / "HE.zarr")
    corners = map(tuple, file.coords_l0[:].tolist())
    return dict(zip(corners, (row.tobytes() for row in file.features[:]), strict=True))


def test_extract_reads_the_pixels_and_skips_what_a_damaged_tile_touches(
    atlas, tmp_path, extract_config, capsys
):
    folder, _ = atlas
    extract.run(extract_config(folder, tmp_path / "without"))
    assert not (tmp_path / "without" / "HE.zarr").exists()
    assert "--mpp-override" in capsys.readouterr().out

    settings = {"mpp_override": 0.5, "on_bad_tile": "skip"}
    extract.run(extract_config(folder, tmp_path / "sound", **settings))
    sound = features(tmp_path / "sound")
    assert set(sound) == {(x, y) for x in range(0, SIDE, 64) for y in range(0, SIDE, 64)}

    tile = folder / "a" / "HE_files" / "8" / "1_1.png"
    tile.write_bytes(tile.read_bytes()[:-500])
    extract.run(extract_config(folder, tmp_path / "failed", mpp_override=0.5))
    assert not (tmp_path / "failed" / "HE.zarr").exists()
    assert "tile (col, row) (1, 1)" in capsys.readouterr().out
    extract.run(extract_config(folder, tmp_path / "skipped", **settings))
    # The tile's own square is (100, 100) to (200, 200).
    kept = {place: row for place, row in sound.items() if not all(64 <= corner < 200 for corner in place)}
    assert features(tmp_path / "skipped") == kept
