"""--on-bad-tile skip: exactly the patches that a damaged tile touches are left out, and it is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features


def rot(path: Path, *, level: int, tiles: list[int]) -> None:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        spans = [(page.dataoffsets[index], page.databytecounts[index]) for index in tiles]
    with path.open("r+b") as file:
        for start, length in spans:
            file.seek(start + length // 2)
            file.write(bytes(length // 2 - 2))


def patches(out: Path, name: str) -> dict[tuple[int, int], bytes]:
    file = open_features(out / f"{name}.zarr")
    return {
        (int(x), int(y)): feature.tobytes()
        for (x, y), feature in zip(file.coords_l0, file.features, strict=True)
    }


def touched(
    tiles: set[tuple[int, int]], *, tile_px: int, patch_l0: float, reach_px: float
) -> set[tuple[int, int]]:
    """Patches of the whole slide, by their level-0 corner, that lie within ``reach_px`` of a tile (col, row)."""
    found = set()
    for column in range(int(np.ceil(640 / patch_l0))):
        for row in range(int(np.ceil(512 / patch_l0))):
            x, y = column * patch_l0, row * patch_l0
            for tile_column, tile_row in tiles:
                left, top = tile_column * tile_px, tile_row * tile_px
                if (
                    x - reach_px < left + tile_px
                    and x + patch_l0 + reach_px > left
                    and y - reach_px < top + tile_px
                    and y + patch_l0 + reach_px > top
                ):
                    found.add((round(x), round(y)))
    return found


@pytest.mark.parametrize(("region_px", "prefetch"), [(64, 1), (320, 3), (1024, 1)])
def test_exactly_the_patches_under_the_tiles_are_left_out(
    tiny_slides, tmp_path, extract_config, read_outcomes, capsys, region_px: int, prefetch: int
):
    settings = {"patch_px": 32, "region_px": region_px, "prefetch": prefetch, "on_bad_tile": "skip"}
    assert extract.run(extract_config(tiny_slides, tmp_path / "sound", **settings)) is True
    rot(tiny_slides / "s1.tif", level=0, tiles=[23, 24, 70])
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", **settings)) is True
    sound, found = patches(tmp_path / "sound", "s1"), patches(tmp_path / "out", "s1")
    gone = touched({(3, 2), (4, 2), (0, 7)}, tile_px=64, patch_l0=32, reach_px=0)
    assert len(gone) == 12
    assert found == {place: feature for place, feature in sound.items() if place not in gone}
    assert patches(tmp_path / "out", "s0") == patches(tmp_path / "sound", "s0")
    left_out = open_features(tmp_path / "out" / "s1.zarr").meta.left_out
    recorded = {(32 * (c + i), 32 * r) for r, c, n in left_out["patches"] for i in range(n)}
    assert recorded == gone
    assert left_out["tiles"] == [[0, 192, 128, 64, 64], [0, 256, 128, 64, 64], [0, 0, 448, 64, 64]]
    assert open_features(tmp_path / "out" / "s0.zarr").meta.left_out == {}
    row = read_outcomes(tmp_path / "out")["s1"]
    assert (row["outcome"], row["left_out"], row["patches"]) == ("done", "12", "308")
    assert "s1\t12\t3 damaged tile(s): level 0 at (192, 128)" in capsys.readouterr().out


def test_patches_that_the_filter_reaches_from_are_left_out_too(tiny_slides, tmp_path, extract_config):
    """At a scale of 1.5 a target pixel is made of source pixels up to three away from its centre."""
    settings = {"patch_px": 32, "target_mpp": 0.75, "on_bad_tile": "skip"}
    assert extract.run(extract_config(tiny_slides, tmp_path / "sound", **settings)) is True
    rot(tiny_slides / "s1.tif", level=0, tiles=[23])
    for prefetch in (1, 4):
        out = tmp_path / str(prefetch)
        assert extract.run(extract_config(tiny_slides, out, prefetch=prefetch, **settings)) is True
        sound, found = patches(tmp_path / "sound", "s1"), patches(out, "s1")
        assert found.items() <= sound.items()
        gone = sound.keys() - found.keys()
        assert touched({(3, 2)}, tile_px=64, patch_l0=48, reach_px=2) <= gone
        assert gone <= touched({(3, 2)}, tile_px=64, patch_l0=48, reach_px=5)


def test_two_runs_that_skip_give_equal_bytes(tiny_slides, tmp_path, extract_config, store_bytes):
    rot(tiny_slides / "s1.tif", level=0, tiles=[3, 4, 50])
    for name in ("a", "b"):
        config = extract_config(tiny_slides, tmp_path / name, on_bad_tile="skip", prefetch=2, region_px=64)
        assert extract.run(config) is True
    assert store_bytes(tmp_path / "a") == store_bytes(tmp_path / "b")


def test_a_damaged_overview_hides_no_patches(tiny_slides, tmp_path, extract_config):
    """Where the tissue cannot be seen, patches are kept: their own pixels are sound."""
    settings = {"on_bad_tile": "skip", "segmenter": "otsu"}
    assert extract.run(extract_config(tiny_slides, tmp_path / "sound", **settings)) is True
    rot(tiny_slides / "s1.tif", level=1, tiles=[1, 4])
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", **settings)) is True
    sound, found = patches(tmp_path / "sound", "s1"), patches(tmp_path / "out", "s1")
    assert found == sound


def test_a_mask_says_where_tissue_is_however_damaged_the_overview(tiny_slides, tmp_path, extract_config):
    ring = [[64, 64], [256, 64], [256, 192], [64, 192], [64, 64]]
    mask = tmp_path / "mask"
    mask.mkdir()
    for index in range(3):
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
        (mask / f"s{index}.geojson").write_text(json.dumps(feature))
    rot(tiny_slides / "s1.tif", level=1, tiles=[1, 4])
    settings = {"on_bad_tile": "skip", "mask": str(mask)}
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", **settings)) is True
    assert patches(tmp_path / "out", "s1").keys() == {(x, y) for x in (64, 128, 192) for y in (64, 128)}
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", **settings)) is True


def test_what_was_left_out_is_not_taken_for_whole_later(tiny_slides, tmp_path, extract_config, read_outcomes):
    rot(tiny_slides / "s1.tif", level=0, tiles=[23])
    assert extract.run(extract_config(tiny_slides, tmp_path, on_bad_tile="skip")) is True
    assert extract.run(extract_config(tiny_slides, tmp_path, on_bad_tile="skip")) is True
    row = read_outcomes(tmp_path)["s1"]
    assert (row["outcome"], row["left_out"]) == ("already done", "1")
    assert extract.run(extract_config(tiny_slides, tmp_path)) is False
    row = read_outcomes(tmp_path)["s1"]
    assert row["outcome"] == "failed"
    assert "lacks 1 patches that damaged tiles touch" in row["detail"]


def test_a_slide_without_one_sound_patch_fails(tiny_slides, tmp_path, extract_config, read_outcomes):
    rot(tiny_slides / "s1.tif", level=0, tiles=list(range(80)))
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", on_bad_tile="skip")) is False
    assert "every one of its 80 patches" in read_outcomes(tmp_path / "out")["s1"]["detail"]
    assert not (tmp_path / "out" / "s1.zarr").exists()


@pytest.mark.parametrize("chunk_px", [64, 80])
def test_a_damaged_zarr_chunk(tmp_path, extract_config, chunk_px: int):
    slide = tmp_path / "slides" / "z.zarr"
    slide.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8)
    zarr.create_array(slide, data=pixels, chunks=(chunk_px, chunk_px, 3))
    settings = {"mpp_override": 0.5, "on_bad_tile": "skip", "patch_px": 32}
    assert extract.run(extract_config(slide.parent, tmp_path / "sound", **settings)) is True
    (slide / "c" / "2" / "3" / "0").write_bytes(b"rotten")
    assert extract.run(extract_config(slide.parent, tmp_path / "out", **settings)) is True
    sound, found = patches(tmp_path / "sound", "z"), patches(tmp_path / "out", "z")
    gone = touched({(3, 2)}, tile_px=chunk_px, patch_l0=32, reach_px=0)
    assert found == {place: feature for place, feature in sound.items() if place not in gone}


def test_through_openslide_the_damage_is_closed_in_on(tiny_slides, tmp_path, extract_config):
    """OpenSlide says only that something in a rectangle is bad."""
    settings = {"reader": "openslide", "on_bad_tile": "skip", "mpp_override": 0.5}
    assert extract.run(extract_config(tiny_slides, tmp_path / "sound", **settings)) is True
    path = tiny_slides / "s1.tif"
    with tifffile.TiffFile(path) as tif:
        start, length = tif.pages[0].dataoffsets[23], tif.pages[0].databytecounts[23]
    content = bytearray(path.read_bytes())
    content[start : start + length] = b"\x55" * length
    path.write_bytes(content)
    assert extract.run(extract_config(tiny_slides, tmp_path / "out", **settings)) is True
    sound, found = patches(tmp_path / "sound", "s1"), patches(tmp_path / "out", "s1")
    assert sound.keys() - found.keys() == {(192, 128)}
    assert found.items() <= sound.items()
