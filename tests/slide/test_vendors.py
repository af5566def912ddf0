"""Files of each vendor's own format, made here: right pixels, levels and resolution, and never read as plain TIFF."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import openslide
import pytest
import tifffile

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.pipelines import extract
from wsi_vmamba.slide import find_slides, open_slide
from wsi_vmamba.slide.base import VendorLayoutError
from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.tiff.slide import TiffSlide
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.store import open_features

VENDORS = ["czi", "leica", "mirax", "ndpi", "philips", "trestle", "ventana", "vms"]
TIFFS = ["leica", "ndpi", "philips", "trestle", "ventana"]
DEFLATE = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}


def test_every_vendor_is_here(vendor_files):
    assert sorted(vendor_files) == VENDORS


@pytest.mark.parametrize("name", VENDORS)
def test_levels_resolution_and_pixels(vendor_files, expected, name):
    made = vendor_files[name]
    rng = np.random.default_rng(11)
    with open_slide(made.path) as slide:
        assert (slide.reader, slide.properties["vendor"]) == ("openslide", made.vendor)
        assert slide.mpp == pytest.approx(made.mpp)
        assert slide.properties["mpp_x"] == slide.properties["mpp_y"]
        for level, truth in made.truth.items():
            there = slide.levels[level]
            assert (there.width_px, there.height_px) == (truth.shape[1], truth.shape[0])
            assert there.downsample == round(made.truth[0].shape[1] / truth.shape[1])
            corners = [(-9, -7, there.width_px + 20, there.height_px + 20)]
            corners += [
                (*(int(rng.integers(n)) for n in (there.width_px, there.height_px)), 90, 70) for _ in range(6)
            ]
            for x, y, width, height in corners:
                found = slide.read_region(
                    x_l0=round(x * there.downsample), y_l0=round(y * there.downsample),
                    level=level, width_px=width, height_px=height,
                )  # fmt: skip
                want = expected(truth, x=x, y=y, width=width, height=height)
                assert np.abs(found.astype(int) - want).max() <= made.tolerance


@pytest.mark.parametrize("name", VENDORS)
def test_every_level_equals_openslide_over_white(vendor_files, name):
    made = vendor_files[name]
    with open_slide(made.path) as slide, openslide.OpenSlide(str(made.path)) as raw:
        assert [(level.width_px, level.height_px) for level in slide.levels] == list(raw.level_dimensions)
        assert [level.downsample for level in slide.levels] == list(raw.level_downsamples)
        for level, (width, height) in enumerate(raw.level_dimensions):
            want = np.zeros((height, width, 3), np.uint8)
            lay_over_white(want, np.asarray(raw.read_region((0, 0), level, (width, height))))
            found = slide.read_region(x_l0=0, y_l0=0, level=level, width_px=width, height_px=height)
            np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {}) for name in TIFFS],
        # OpenSlide knows these too; the signs that others go by are missing.
        ("ndpi", {"make": ""}),
        ("philips", {"software": "Philips IntelliSite"}),
        ("ventana", {"software": "converted", "first": "Thumbnail"}),
    ],
)
def test_none_is_taken_for_an_ordinary_tiff(vendor_writers, tmp_path, caplog, name, options):
    made = vendor_writers[name](tmp_path, **options)
    with caplog.at_level(logging.WARNING), pytest.raises(VendorLayoutError, match="through OpenSlide"):
        TiffSlide(made.path)
    assert not caplog.records  # tifffile's own complaints would go to the user's screen
    with open_slide(made.path) as slide:
        truth = made.truth[0]
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=truth.shape[1], height_px=truth.shape[0])
        np.testing.assert_array_equal(found, truth)


def test_a_variant_that_openslide_does_not_know_is_refused_and_not_read_as_tiff(vendor_files, tmp_path):
    path = tmp_path / "a.scn"
    path.write_bytes(vendor_files["leica"].path.read_bytes().replace(b"scn/2010/10/01", b"scn/2031/10/01"))
    assert openslide.OpenSlide.detect_format(str(path)) == "generic-tiff"
    with pytest.raises(UnreadableSlideError, match=r"Leica SCN.*does not recognise this variant.*OME-TIFF"):
        open_slide(path)


def test_the_cover_of_a_vsi_is_not_taken_for_the_slide(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.vsi", [coordinates(100, 90)])
    assert find_slides(tmp_path) == [path]
    with pytest.raises(
        UnreadableSlideError, match=r"the folder _a_, in a format that is not read; convert it"
    ):
        open_slide(path)


def test_channels_of_a_fluorescence_scan_are_not_taken_for_the_slide(tmp_path):
    """As QPTIFF has them: a page each, and a pyramid of pages each."""
    path = tmp_path / "a.qptiff"
    with tifffile.TiffWriter(path) as tif:
        for size in (256, 128):
            for channel in range(3):
                grey = np.full((size, size), 40 * channel, np.uint8)
                options = {**DEFLATE, "photometric": "minisblack"}
                tif.write(grey, subfiletype=int(size < 256), software="PerkinElmer-QPI", **options)
    with pytest.raises(
        UnreadableSlideError, match="has 3 grey pages of 256 x 256 px, channels or focal planes"
    ):
        open_slide(path)


def test_names_that_are_no_text_do_not_matter(vendor_writers, tmp_path):
    """A scanner set to German writes Latin-1."""
    made = vendor_writers["vms"](tmp_path)
    made.path.write_bytes(made.path.read_bytes() + b"Gr\xf6\xdfe=7\nBarcode=A7\n")
    with open_slide(made.path) as slide:
        assert slide.properties["hamamatsu.Barcode"] == "A7"
        assert slide.mpp == 0.5


def test_mirax_without_its_folder_or_with_a_part_of_it(vendor_files, tmp_path):
    made = vendor_files["mirax"]
    alone = tmp_path / "alone.mrxs"
    shutil.copy(made.path, alone)
    with pytest.raises(UnreadableSlideError, match=r"the folder alone with Slidedat.ini .* is not beside it"):
        open_slide(alone)
    whole = tmp_path / "whole.mrxs"
    shutil.copy(made.path, whole)
    shutil.copytree(made.path.with_suffix(""), tmp_path / "whole")
    (tmp_path / "whole" / "Data0000.dat").unlink()
    with pytest.raises(UnreadableSlideError, match=r"Data0000\.dat: No such file"):
        open_slide(whole)


def test_holes_in_the_smaller_levels_of_an_svs_are_filled_from_level_0(tmp_path):
    """Scanners lose tiles there. White would hide the tissue under them."""
    whole = np.full((256, 512, 3), (150, 60, 160), np.uint8)

    def tiles(pixels, missing):
        for y in range(0, pixels.shape[0], 128):
            for x in range(0, pixels.shape[1], 128):
                yield None if (x, y) == missing else pixels[y : y + 128, x : x + 128].copy()

    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tif:
        header = "Aperio Image Library v10\n512x256|AppMag = 20|MPP = 0.5"
        for pixels, missing in ((whole, (384, 128)), (whole[::2, ::2], (128, 0))):
            tif.write(
                tiles(pixels, missing), shape=pixels.shape, dtype=np.uint8, description=header, **DEFLATE
            )
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp) == ("openslide", 0.5)
        found = slide.read_region(x_l0=0, y_l0=0, level=1, width_px=256, height_px=128)
        assert (found[:60] == (150, 60, 160)).all()
        assert (found[68:, 196:] == 255).all()  # never scanned at level 0 either


def test_extract_from_all_of_them(vendor_files, tmp_path):
    """Patches lie where something was scanned: what was not is background, whatever colour the file gives it."""
    folder = vendor_files["leica"].path.parent
    values = {
        "slides": str(folder),
        "out": str(tmp_path),
        "backbone": "null",
        "patch_px": 32,
        "target_mpp": 1.0,
    }
    assert extract.run(ExtractConfig.model_validate(values)) is True
    for name, made in vendor_files.items():
        features = open_features(tmp_path / f"{name}.zarr")
        assert features.meta.mpp == pytest.approx(made.mpp)
        patch, truth = round(features.meta.patch_l0), made.truth[0]
        scanned = (truth != 255).any(axis=-1)
        covered = np.zeros_like(scanned)
        for x, y in np.asarray(features.coords_l0):
            assert scanned[y : y + patch, x : x + patch].mean() > 0.05
            covered[y : y + patch, x : x + patch] = True
        assert (covered & scanned).sum() > 0.95 * scanned.sum()


def test_a_rotten_photo_of_mirax_is_found_and_read_around(vendor_files, tmp_path):
    """OpenSlide says neither which it is nor how large: it is closed in on."""
    made = vendor_files["mirax"]
    path = tmp_path / "rotten.mrxs"
    shutil.copy(made.path, path)
    shutil.copytree(made.path.with_suffix(""), tmp_path / "rotten")
    data = bytearray((tmp_path / "rotten" / "Data0000.dat").read_bytes())
    second = data.index(b"\x89PNG", 100)
    data[second + 8 : second + 400] = bytes(392)
    (tmp_path / "rotten" / "Data0000.dat").write_bytes(data)
    truth = made.truth[0]
    with TolerantSlide(open_slide(path)) as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=truth.shape[1], height_px=truth.shape[0])
        damaged = np.zeros(truth.shape[:2], bool)
        for area in slide.damage(0):
            damaged[area.y_px : area.y_px + area.height_px, area.x_px : area.x_px + area.width_px] = True
    # The second photo is at (112, 0) and 128 px wide.
    assert damaged[:128, 112:240].all()
    assert damaged.sum() < 3 * 128 * 128  # in squares of 64 px
    np.testing.assert_array_equal(found[~damaged], truth[~damaged])
