"""Slides that are damaged, blank, changed or many: counted and said, never silently shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from wsi_vmamba.errors import BadTileError, NoTissueError
from wsi_vmamba.pretraining import found_slides
from wsi_vmamba.pretraining.open_slides import OpenSlides
from wsi_vmamba.pretraining.views import Augmentation, SlideViews, ViewSettings

TILE = 64


@dataclass(frozen=True, kw_only=True)
class Listed:
    slide_id: str
    path: Path
    mpp: float | None = 0.5
    problem: str = ""


def write_deep_zoom(folder, picture):
    """A Deep Zoom slide of the finest and one coarse level, in tiles of 64 px without overlap."""
    height, width = picture.shape[:2]
    deepest = (max(height, width) - 1).bit_length()
    folder.mkdir(parents=True)
    (folder / "HE.dzi").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'Format="png" Overlap="0" TileSize="{TILE}"><Size Height="{height}" Width="{width}"/></Image>'
    )
    for number, level in ((deepest, picture), (deepest - 3, cv2.resize(picture, (width // 8, height // 8)))):
        place = folder / "HE_files" / str(number)
        place.mkdir(parents=True)
        for y in range(0, level.shape[0], TILE):
            for x in range(0, level.shape[1], TILE):
                Image.fromarray(level[y : y + TILE, x : x + TILE]).save(
                    place / f"{x // TILE}_{y // TILE}.png"
                )
    return folder / "HE.dzi", folder / "HE_files" / str(deepest)


def tissue(height=512, width=512, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal((200, 120, 170), 20, (height, width, 3)), 0, 255).astype(np.uint8)


def settings(**changes):
    return ViewSettings(
        **{
            "batch": 16, "large_px": 32, "small_px": 16, "n_small": 1, "field_px": 48, "um_per_px": (0.5, 0.5),
            **changes,
        }
    )  # fmt: skip


def source(*slides, **options):
    changes = options.pop("changes", {})
    return SlideViews(slides, settings(**changes), **{"seed": 1, "tissue": "all", **options})


def test_a_damaged_tile_is_counted_and_another_field_is_shown(tmp_path):
    descriptor, tiles = write_deep_zoom(tmp_path / "slide", tissue())
    for name in ("0_0", "3_4", "5_5", "2_2", "6_1", "1_6", "4_3", "7_7"):
        (tiles / f"{name}.png").write_bytes(b"\x89PNG no longer")
    slide = Listed(slide_id="damaged", path=descriptor)
    with source(slide) as views, source(slide, threads=2) as again:
        shown = [views.views(step) for step in range(4)]
        assert views.bad_reads["damaged"] > 0
        assert not views.blank_reads
        # What is shown is tissue, and the same however often it is asked for.
        assert max(float(picture.float().mean()) for view in shown for picture in view.large) < 200
        assert all(np.array_equal(shown[3].large[0], views.large[0]) for views in [again.views(3)])


def test_a_slide_of_damaged_tiles_stops_the_step_that_needs_it(tmp_path):
    # So many tiles that the batches prepared ahead do not leave them all decoded in memory.
    descriptor, tiles = write_deep_zoom(tmp_path / "slide", tissue(2048, 2048))
    with source(Listed(slide_id="broken", path=descriptor)) as views:
        batches = views.batches(0, 200)
        assert next(batches)[0] == 0
        for tile in tiles.iterdir():
            tile.unlink()
        with pytest.raises(BadTileError, match=r"12 fields of view in a row are damaged.*replace the slide"):
            for _ in batches:
                pass


def test_batches_that_are_no_longer_wanted_end(tmp_path):
    descriptor, _ = write_deep_zoom(tmp_path / "slide", tissue())
    with source(Listed(slide_id="s", path=descriptor)) as views:
        batches = views.batches(5, 10_000_000)
        assert [next(batches)[0] for _ in range(2)] == [5, 6]
        batches.close()


def test_blank_fields_are_counted_and_others_shown(tmp_path):
    picture = np.full((512, 512, 3), 245, dtype=np.uint8)
    picture[:, 256:] = tissue(512, 256)
    descriptor, _ = write_deep_zoom(tmp_path / "slide", picture)
    plain = Augmentation(stain_gain=0, stain_shift=0, stain_hue=0, haematoxylin_p=0, brightness=0, contrast=0)
    changes = {"min_stained": 0.5, "large_share": (1.0, 1.0), "augmentation": plain}
    with source(Listed(slide_id="half", path=descriptor), changes=changes) as views:
        shown = views.views(0)
        assert 4 <= views.blank_reads["half"] <= 40
        # Half of a view is tissue, of a mean of 163, or more than half.
        assert float(shown.large[0].float().mean(dim=(1, 2, 3)).max()) < (163 + 245) / 2 + 6


def test_a_slide_without_tissue_is_left_out_by_name(tmp_path):
    blank, _ = write_deep_zoom(tmp_path / "blank", np.full((512, 512, 3), 245, dtype=np.uint8))
    good, _ = write_deep_zoom(tmp_path / "good", tissue())
    slides = [Listed(slide_id="blank", path=blank), Listed(slide_id="good", path=good)]
    seen = []
    with source(*slides, tissue="otsu", on_slide=seen.append) as views:
        (error,) = views.left_out
        assert isinstance(error, NoTissueError)
        assert str(blank) in str(error)
        assert views.slide_ids == ("good",)
        assert views.views(0).slide.tolist() == [1] * 16
    assert seen == ["blank", "good"]


def test_tissue_is_found_once_and_again_when_the_slide_changes(tmp_path, monkeypatch):
    descriptor, _ = write_deep_zoom(tmp_path / "slide", tissue())
    slide, cache = Listed(slide_id="s", path=descriptor), tmp_path / "cache"
    found, segment = [], found_slides.segment_tissue
    monkeypatch.setattr(found_slides, "segment_tissue", lambda *a, **o: found.append(1) or segment(*a, **o))
    with source(slide, cache=cache) as first, source(slide, cache=cache) as second:
        assert len(found) == 1
        assert first.fingerprint == second.fingerprint
        assert np.array_equal(first.views(2).large[0], second.views(2).large[0])
    with source(replace(slide, mpp=0.6), cache=cache) as other:
        assert len(found) == 2
        assert other.fingerprint != first.fingerprint
    os.utime(descriptor, ns=(0, 0))
    source(slide, cache=cache).close()
    assert len(found) == 3
    for file in cache.iterdir():
        file.write_bytes(b"not what it was")
    source(slide, cache=cache).close()
    source(slide, cache=cache).close()
    assert len(found) == 4


def test_few_slides_are_open_at_a_time(tmp_path, write_tiny_slide, monkeypatch):
    paths = [write_tiny_slide(tmp_path / f"s{at}.tif", at) for at in range(6)]
    slides = OpenSlides(limit=2)
    opened = []
    with slides.use(paths[0]) as held:
        for path in paths[1:] + paths[1:2]:
            with slides.use(path) as slide:
                opened.append(slide)
            assert len(slides) <= 3  # two, and the one in use
        assert held.read_region(x_l0=0, y_l0=0, level=0, width_px=8, height_px=8).shape == (8, 8, 3)
    assert opened[-1] is not opened[0]  # it had been closed and was opened anew
    with slides.use(paths[1]) as slide:
        assert slide is opened[-1]
    slides.close()
    assert len(slides) == 0
    with pytest.raises(OSError, match="closed"):
        opened[-1].read_region(x_l0=0, y_l0=0, level=0, width_px=8, height_px=8)


@pytest.mark.real_slides
def test_a_real_slide_shows_tissue(real_data):
    path = real_data / "slides" / "lymph-node-metastasis.tif"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    listed = Listed(slide_id="node", path=path, mpp=None)
    with SlideViews([listed], ViewSettings(batch=12), seed=1, mpp_override=0.5) as views:
        shown = views.views(0)
    for view in shown.large:
        pixels = view.numpy().astype(int)
        stained = (pixels.min(axis=-1) < 215).mean(axis=(1, 2))
        assert (stained > 0.1).all()
    assert float(shown.um_per_px.min()) >= 0.5
