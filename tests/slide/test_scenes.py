"""One rule for which picture of a file is the slide, by the files of two formats and by numbers alone."""

from __future__ import annotations

import json
import re
import zipfile
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.errors import MissingMppError, SceneError, UnreadableSlideError
from wsi_vmamba.slide import open_slide, resolve_mpp
from wsi_vmamba.slide.resolution import mpp_note
from wsi_vmamba.slide.scenes import Scene, choose_scene, other_scenes, scene_note, scene_of


def scene(number, width, height, *, name="", mpp=None):
    return Scene(number=number, width_px=width, height_px=height, name=name, mpp=mpp)


@pytest.mark.parametrize(
    ("scenes", "chosen"),
    [
        ([scene(0, 600, 1600, name="macro", mpp=16), scene(1, 2048, 1536, name="20x", mpp=0.5)], 1),
        ([scene(0, 3000, 2000, name="Macro image", mpp=16), scene(1, 2048, 1536, mpp=0.5)], 1),
        ([scene(0, 3000, 2000, mpp=16), scene(1, 2048, 1536, mpp=0.5)], 1),
        ([scene(0, 3000, 2000, name="slide.svs [label image]"), scene(1, 2048, 1536, name="macrophages")], 1),
        ([scene(0, 400, 300, name="40x snapshot", mpp=0.25), scene(1, 2048, 1536, mpp=0.5)], 1),
        ([scene(0, 2048, 1536, mpp=0.5), scene(1, 1024, 768), scene(2, 512, 384)], 0),
        ([scene(0, 600, 400, mpp=2.0), scene(1, 2048, 1536, mpp=0.5)], 1),
        ([scene(3, 90, 80, name="macro")], 3),
        ([scene(0, 90, 80, name="macro"), scene(1, 30, 20, name="label")], 0),
    ],
)
def test_the_largest_that_is_no_picture_of_the_glass(scenes, chosen):
    assert choose_scene("s", scenes, asked=None).number == chosen
    for each in scenes:
        assert choose_scene("s", scenes, asked=each.number) is each


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ([scene(0, 90, 80), scene(1, 90, 80)], "0 and 1 have the same size, and either may be the slide"),
        (
            [scene(0, 300, 200), scene(1, 200, 150, mpp=0.5)],
            "scene 0 has the most pixels, but only smaller ones have a resolution",
        ),
        ([scene(0, 300, 200, mpp=0.25), scene(1, 200, 150, mpp=0.5)], "scene 1 shows a larger area"),
    ],
)
def test_where_nothing_tells_it_is_refused(scenes, message):
    with pytest.raises(SceneError, match=rf"{message}; the file holds scenes 0.*choose one with --scene N"):
        choose_scene("s", scenes, asked=None)
    with pytest.raises(SceneError, match="there is no scene 7; the file holds scenes 0 "):
        choose_scene("s", scenes, asked=7)


def ome_xml(images):
    """OME-XML of images given as (name, width, height, attributes of Pixels)."""
    parts = []
    for i, (name, width, height, facts) in enumerate(images):
        extra = " ".join(f"{key}={quoteattr(str(value))}" for key, value in facts.items() if key != "uuid")
        uuid = (
            f'<UUID FileName="{facts["uuid"]}.ome.tif">urn:uuid:{facts["uuid"]}</UUID>'
            if "uuid" in facts
            else ""
        )
        parts.append(
            f'<Image ID="Image:{i}" Name={quoteattr(name)}><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint8" '
            f'SizeC="3" SizeT="1" SizeZ="1" SizeX="{width}" SizeY="{height}" {extra}><Channel ID="Channel:{i}:0" '
            f'SamplesPerPixel="3"/><TiffData IFD="{i}" PlaneCount="1">{uuid}</TiffData></Pixels></Image>'
        )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}" UUID="urn:uuid:a">{"".join(parts)}</OME>'


def write_ome(path, images, *, xml=None):
    """Write (name, levels, attributes) as OME-TIFF, the smaller levels of each as directories inside its own."""
    xml = xml or ome_xml([(n, p[0].shape[1], p[0].shape[0], facts) for n, p, facts in images])
    common = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        for number, (_, pictures, _) in enumerate(images):
            text = xml.encode() if number == 0 else None
            tif.write(pictures[0], subifds=len(pictures) - 1, description=text, **common)
            for picture in pictures[1:]:
                tif.write(picture, subfiletype=1, **common)
    return path


def um(x):
    return {"PhysicalSizeX": x, "PhysicalSizeY": x}


def whole(slide, level=0):
    there = slide.levels[level]
    return slide.read_region(x_l0=0, y_l0=0, level=level, width_px=there.width_px, height_px=there.height_px)


def test_a_second_scene_of_the_size_of_a_level_is_no_level(tmp_path, coordinates):
    first, half = coordinates(400, 300), coordinates(200, 150)
    second = 255 - coordinates(100, 75)  # a quarter of the first
    path = write_ome(tmp_path / "a.ome.tif", [("one", [first, half], um(0.5)), ("two", [second], um(0.25))])
    with open_slide(path) as slide:
        assert [level.width_px for level in slide.levels] == [400, 200]
        np.testing.assert_array_equal(whole(slide, 1), half)
        assert (scene_of(slide), slide.mpp) == (0, 0.5)
        assert "the file also holds scene 1 'two' (100 x 75 px at 0.25 um)" in scene_note(slide)
    with open_slide(path, scene=1) as slide:
        assert (scene_of(slide), slide.mpp, len(slide.levels)) == (1, 0.25, 1)
        np.testing.assert_array_equal(whole(slide), second)
    with pytest.raises(SceneError, match=r"no scene 2; the file holds scenes 0 'one' .*, 1 'two'"):
        open_slide(path, scene=2)
    with open_slide(path, reader="openslide") as slide:
        np.testing.assert_array_equal(whole(slide), first)
        assert "also holds scene 1 'two'" in scene_note(slide)


@pytest.mark.parametrize(
    "other", [("macro", (90, 240), 16.0), ("macro", (900, 700), 16.0), ("40x snapshot", (80, 60), 0.25)]
)
def test_picture_and_resolution_are_of_one_image(tmp_path, coordinates, other):
    name, size, mpp = other
    slide_picture = coordinates(400, 300)
    path = write_ome(
        tmp_path / "a.ome.tif", [(name, [coordinates(*size)], um(mpp)), ("20x", [slide_picture], um(0.5))]
    )
    with open_slide(path) as slide:
        assert (scene_of(slide), resolve_mpp(slide).value) == (1, 0.5)
        np.testing.assert_array_equal(whole(slide), slide_picture)
        # OpenSlide takes the first page, whatever it is.
        with pytest.raises(SceneError, match=r"would take another picture.*leave out --reader openslide"):
            open_slide(path, reader="openslide")
        # A macro is named by `info` alone, a picture of tissue also where nobody looks.
        assert name in other_scenes(slide)
        assert bool(scene_note(slide)) == (name != "macro")


def test_a_scene_that_openslide_would_not_find_is_not_left_to_it(tmp_path, coordinates):
    macro, slide_picture = coordinates(80, 60), coordinates(400, 300)
    path = write_ome(tmp_path / "a.ome.tif", [("macro", [macro], um(16)), ("a", [slide_picture], um(0.5))])
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[1].tags["PhotometricInterpretation"].overwrite(
            6
        )  # uncompressed YCbCr, which OpenSlide reads
    with pytest.raises(
        UnreadableSlideError, match=r"photometric interpretation 6.*OpenSlide would take another"
    ):
        open_slide(path)
    with open_slide(path, scene=0) as slide:
        np.testing.assert_array_equal(whole(slide), macro)


@pytest.mark.parametrize(
    ("facts", "mpp"),
    [
        ({**um("0,5")}, 0.5),
        ({**um("0.5"), "PhysicalSizeXUnit": "μm", "PhysicalSizeYUnit": "μm"}, 0.5),
        ({**um("500"), "PhysicalSizeXUnit": "nanometer", "PhysicalSizeYUnit": "nm"}, 0.5),
    ],
)
def test_ome_spellings(tmp_path, coordinates, facts, mpp):
    path = write_ome(tmp_path / "a.ome.tif", [("a", [coordinates(100, 80)], facts)])
    with open_slide(path) as slide:
        assert resolve_mpp(slide).value == pytest.approx(mpp)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {**um("0.5"), "PhysicalSizeXUnit": "furlong"},
            "PhysicalSizeX is 0.5 'furlong', a unit that is not known",
        ),
        (um("half"), "PhysicalSizeX is 'half', expected a number"),
    ],
)
def test_an_ome_resolution_that_cannot_be_read_is_named(tmp_path, coordinates, facts, message):
    path = write_ome(tmp_path / "a.ome.tif", [("a", [coordinates(100, 80)], facts)])
    with open_slide(path) as slide:
        with pytest.raises(MissingMppError, match=f"{message}.*--mpp-override"):
            resolve_mpp(slide)
        assert resolve_mpp(slide, mpp_override=0.5).value == 0.5


@pytest.mark.parametrize(("reader", "used", "other"), [("tiff", "0.25", "0.5"), ("openslide", "0.5", "0.25")])
def test_ome_xml_and_tags_that_contradict_each_other_are_named(tmp_path, coordinates, reader, used, other):
    picture = coordinates(100, 80)
    for um_by_tags in (0.5, 0.25):
        tifffile.imwrite(
            tmp_path / "a.ome.tif", picture, photometric="rgb", tile=(64, 64), metadata=None,
            description=ome_xml([("a", 100, 80, um(0.25))]).encode(),
            resolution=(1e4 / um_by_tags,) * 2, resolutionunit="CENTIMETER",
        )  # fmt: skip
        with open_slide(tmp_path / "a.ome.tif", reader=reader) as slide:
            note = mpp_note(slide)
        assert bool(note) == (um_by_tags == 0.5)
        assert not note or re.search(rf": {used} um per pixel by .*, {other} by .*the first is used", note)


def test_ome_xml_of_another_size_is_not_believed(tmp_path, coordinates):
    xml = ome_xml([("a", 400, 320, um(0.25))])
    path = write_ome(tmp_path / "a.ome.tif", [("a", [coordinates(100, 80)], {})], xml=xml)
    with open_slide(path) as slide:
        with pytest.raises(
            MissingMppError, match=r"of a picture of 400 x 320 px, the page has 100 x 80.*override"
        ):
            resolve_mpp(slide)
        assert resolve_mpp(slide, mpp_override=1.0).value == 1.0


def test_images_of_a_file_set_that_are_elsewhere(tmp_path, coordinates):
    here, there = {**um(0.5), "uuid": "a"}, {**um(0.25), "uuid": "b"}
    picture = coordinates(100, 80)
    xml = ome_xml([("not here", 400, 300, there), ("here", 100, 80, here)]).replace('IFD="1"', 'IFD="0"')
    path = write_ome(tmp_path / "renamed.ome.tif", [("here", [picture], {})], xml=xml)
    with open_slide(path) as slide:
        assert (scene_of(slide), slide.mpp) == (1, 0.5)
        np.testing.assert_array_equal(whole(slide), picture)
    path = write_ome(
        tmp_path / "c.ome.tif", [("x", [picture], {})], xml=ome_xml([("not here", 100, 80, there)])
    )
    with pytest.raises(UnreadableSlideError, match=r"its picture is in other files \(b.ome.tif\)"):
        open_slide(path)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_stack_of_rgb_pages_is_not_its_first_page(tmp_path, coordinates, tile):
    pages = [coordinates(200, 150), 255 - coordinates(200, 150)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for page in pages:
            tif.write(page, photometric="rgb", tile=tile, metadata=None)
    with pytest.raises(SceneError, match=r"scenes 0 and 1 have the same size.*choose one with --scene N"):
        open_slide(tmp_path / "a.tif")
    for number, page in enumerate(pages):
        with open_slide(tmp_path / "a.tif", scene=number) as slide:
            np.testing.assert_array_equal(whole(slide), page)


def test_two_pyramids_in_a_plain_tiff_keep_their_levels_apart(tmp_path, coordinates):
    first = [coordinates(400, 300), coordinates(200, 150)]
    second = [255 - coordinates(100, 75), 255 - coordinates(50, 38)]  # both of the first's aspect
    common = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for pictures in (first, second):
            tif.write(pictures[0], **common)
            tif.write(pictures[1], subfiletype=1, **common)
    for number, pictures in enumerate((first, second)):
        with open_slide(tmp_path / "a.tif", scene=number) as slide:
            assert len(slide.levels) == 2
            for level, picture in enumerate(pictures):
                np.testing.assert_array_equal(whole(slide, level), picture)
    with pytest.raises(
        SceneError, match="would take another picture of this TIFF for the slide, or mix several"
    ):
        open_slide(tmp_path / "a.tif", reader="openslide")


def write_pages(path, pages):
    """Write (picture, marked as reduced, um per pixel or None) as the tiled pages of a plain TIFF."""
    with tifffile.TiffWriter(path) as tif:
        for picture, reduced, mpp in pages:
            tags = (
                {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            )
            tif.write(
                picture, photometric="rgb", tile=(64, 64), metadata=None, subfiletype=int(reduced), **tags
            )
    return path


def levels_of(path, number):
    """The pixels of every level of a scene, and what `info` says of scenes."""
    with open_slide(path, scene=number) as slide:
        return [whole(slide, level) for level in range(len(slide.levels))], other_scenes(slide)


#: Pages as (scene, width, reduced, um per pixel); the scene whose level each is, or None where nothing tells.
ORDERS = {
    "behind another picture": ([(0, 512, 0, None), (1, 256, 0, None), (0, 128, 1, None)], [0, 1, None]),
    "after its own first level": (
        [(0, 512, 0, None), (0, 256, 1, None), (1, 256, 0, None), (0, 128, 1, None)], [0, 0, 1, None],
    ),
    "all levels at the end": (
        [(0, 512, 0, None), (1, 256, 0, None), (0, 256, 1, None), (0, 128, 1, None), (1, 128, 1, None)],
        [0, 1, 0, None, None],
    ),
    "the first has its levels down to that size": (
        [(0, 512, 0, None), (0, 256, 1, None), (0, 128, 1, None), (1, 256, 0, None), (1, 128, 1, None)],
        [0, 0, 0, 1, 1],
    ),
    "tags say the first": ([(0, 512, 0, 0.5), (1, 256, 0, 0.5), (0, 128, 1, 2.0)], [0, 1, 0]),
    "tags say the second": ([(0, 512, 0, 0.5), (1, 256, 0, 0.5), (1, 128, 1, 1.0)], [0, 1, 1]),
    "tags are copies": ([(0, 512, 0, 0.25), (1, 256, 0, 1.0), (1, 128, 1, 1.0)], [0, 1, None]),
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_a_reduced_page_that_fits_several_pictures_is_not_given_to_one_by_guess(tmp_path, coordinates, order):
    pages, owners = ORDERS[order]
    painted = [
        (scene * 255) ^ coordinates(width, width * 3 // 4) for scene, width, _, _ in pages
    ]  # scene 1 is the negative
    path = write_pages(
        tmp_path / "a.tif",
        [(picture, reduced, mpp) for picture, (_, _, reduced, mpp) in zip(painted, pages, strict=True)],
    )
    for number in (0, 1):
        found, said = levels_of(path, number)
        due = [picture for picture, owner in zip(painted, owners, strict=True) if owner == number]
        assert len(found) == len(due)
        for level, picture in zip(found, due, strict=True):
            np.testing.assert_array_equal(level, picture)
        assert bool(re.search(r"left out: page .*\(128 x 96 px\)", said)) == (None in owners)


def test_brightfield_qptiff_by_what_its_pages_say_they_are(tmp_path, coordinates):
    def page(kind, picture, **options):
        text = f'<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription><ImageType>{kind}</ImageType></P>'
        tif.write(picture, photometric="rgb", metadata=None, description=text, **options)

    pictures = [coordinates(400, 300), coordinates(200, 150)]
    with tifffile.TiffWriter(tmp_path / "a.qptiff") as tif:
        page("FullResolution", pictures[0], tile=(64, 64))
        page("Thumbnail", coordinates(100, 75))
        page("ReducedResolution", pictures[1], tile=(64, 64))
        page("Overview", coordinates(500, 200), tile=(64, 64))
    with open_slide(tmp_path / "a.qptiff") as slide:
        assert len(slide.levels) == 2
        for level, picture in enumerate(pictures):
            np.testing.assert_array_equal(whole(slide, level), picture)
        assert ("Overview" in other_scenes(slide), scene_note(slide)) == (True, "")


@pytest.mark.parametrize("tags_scale", [True, False])
def test_unmarked_pages_are_levels_where_their_resolution_says_so(tmp_path, coordinates, tags_scale):
    pictures = [coordinates(400, 300), coordinates(200, 150)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for level, picture in enumerate(pictures):
            per_cm = 20_000 / (2**level if tags_scale else 1)
            tif.write(
                picture, photometric="rgb", tile=(64, 64), metadata=None, resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == 0.5
        assert [level.downsample for level in slide.levels] == ([1.0, 2.0] if tags_scale else [1.0])
        assert bool(scene_note(slide)) is not tags_scale


def test_scene_of_files_with_one_picture(tmp_path, coordinates, write_pyramid, vendor_files):
    tiff = write_pyramid(tmp_path / "a.tif", [coordinates(100, 80)])
    array = tmp_path / "a.zarr"
    zarr.create_array(array, data=coordinates(100, 80))
    for path, reader in ((tiff, "tiff"), (tiff, "openslide"), (array, "zarr")):
        with open_slide(path, reader=reader, scene=0) as slide:
            assert (scene_of(slide), scene_note(slide)) == (0, "")
        with pytest.raises(SceneError, match="there is no scene 1"):
            open_slide(path, reader=reader, scene=1)


# ---- OME-Zarr


def write_zarr(path, pictures, *, mpp=0.5, unit="micrometer", name="", scales=None, **attributes):
    """Write levels as OME-Zarr 0.4, axes y, x, c; ``scales`` in um, by default as the sizes have it."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    scales = scales or [mpp * pictures[0].shape[1] / picture.shape[1] for picture in pictures]
    datasets = []
    for level, (picture, scale) in enumerate(zip(pictures, scales, strict=True)):
        group.create_array(str(level), data=picture, chunks=(64, 64, 3))
        transformation = {"type": "scale", "scale": [scale, scale, 1.0]}
        datasets.append({"path": str(level), "coordinateTransformations": [transformation]})
    axes = [{"name": "y", "type": "space", "unit": unit}, {"name": "x", "type": "space", "unit": unit},
            {"name": "c", "type": "channel"}]  # fmt: skip
    group.attrs.update(
        {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets, "name": name}], **attributes}
    )
    return group


def write_bioformats2raw(path, images, *, series=None, xml=None):
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    ome = root.create_group("OME")
    if series:
        ome.attrs["series"] = series
    if xml:
        (path / "OME" / "METADATA.ome.xml").write_text(xml, encoding="utf-8")
    for group, (pictures, mpp) in images.items():
        write_zarr(path / group, pictures, mpp=mpp)
    return path


@pytest.mark.parametrize("series", [None, ["1", "0"]])
def test_zarr_takes_the_slide_and_not_the_macro_of_group_0(tmp_path, coordinates, series):
    macro, picture = coordinates(90, 60), 255 - coordinates(400, 300)
    path = write_bioformats2raw(
        tmp_path / "s.zarr", {"0": ([macro], 2.0), "1": ([picture], 0.5)}, series=series
    )
    slide_number, macro_number = (1, 0) if series is None else (0, 1)
    with open_slide(path) as slide:
        assert (scene_of(slide), slide.mpp) == (slide_number, 0.5)
        np.testing.assert_array_equal(whole(slide), picture)
        assert f"also holds scene {macro_number} (90 x 60 px at 2 um)" in scene_note(slide)
    with open_slide(path, scene=macro_number) as slide:
        np.testing.assert_array_equal(whole(slide), macro)
    with pytest.raises(SceneError, match="there is no scene 2"):
        open_slide(path, scene=2)


def test_zarr_macro_larger_than_the_slide_is_known_by_its_name(tmp_path, coordinates):
    images = {"0": ([coordinates(500, 400)], 2.0), "1": ([coordinates(100, 80)], 0.5)}
    xml = ome_xml([("macro image", 500, 400, {}), ("scan", 100, 80, {})])
    with open_slide(write_bioformats2raw(tmp_path / "named.zarr", images, xml=xml)) as slide:
        assert (scene_of(slide), slide.mpp) == (1, 0.5)


def test_zarr_group_that_is_listed_and_missing(tmp_path, coordinates):
    path = write_bioformats2raw(tmp_path / "s.zarr", {"0": ([coordinates(90, 60)], 2.0)}, series=["0", "1"])
    with pytest.raises(
        UnreadableSlideError, match="picture '1' is listed but not there; the copy is incomplete"
    ):
        open_slide(path)


@pytest.mark.parametrize(
    ("unit", "scale"), [("μm", 0.5), ("um", 0.5), ("micron", 0.5), ("Micrometre", 0.5), ("nanometer", 500)]
)
def test_zarr_unit_spellings(tmp_path, coordinates, unit, scale):
    write_zarr(tmp_path / "a.zarr", [coordinates(100, 80)], mpp=scale, unit=unit)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert resolve_mpp(slide).value == pytest.approx(0.5)


def test_zarr_unit_that_is_not_known_is_named(tmp_path, coordinates):
    write_zarr(tmp_path / "a.zarr", [coordinates(100, 80)], unit="furlong")
    with (
        open_slide(tmp_path / "a.zarr") as slide,
        pytest.raises(MissingMppError, match=r"0\.5 'furlong'.*override"),
    ):
        resolve_mpp(slide)


def test_zarr_scales_that_contradict_the_sizes_are_named(tmp_path, coordinates):
    pictures = [coordinates(200, 160), coordinates(100, 80)]
    write_zarr(tmp_path / "a.zarr", pictures, scales=[0.5, 2.0])
    with open_slide(tmp_path / "a.zarr") as slide:
        assert resolve_mpp(slide).value == 0.5
        assert re.search(r"4 times as wide as those of level 0.*\(100 of 200 px\) says 2", mpp_note(slide))


def test_zarr_levels_in_the_wrong_order_are_put_right(tmp_path, coordinates):
    small, large = coordinates(100, 80), coordinates(200, 160)
    write_zarr(tmp_path / "a.zarr", [small, large], scales=[1.0, 0.5])
    with open_slide(tmp_path / "a.zarr") as slide:
        assert ([level.downsample for level in slide.levels], slide.mpp) == ([1.0, 2.0], 0.5)
        np.testing.assert_array_equal(whole(slide), large)
        np.testing.assert_array_equal(whole(slide, 1), small)


def test_zarr_second_multiscales_entry_is_a_scene(tmp_path, coordinates):
    first, second = coordinates(100, 80), 255 - coordinates(300, 200)
    group = write_zarr(tmp_path / "a.zarr", [first])
    group.create_array("other", data=second, chunks=(64, 64, 3))
    entry = json.loads(json.dumps(group.attrs["multiscales"][0]))
    entry["datasets"] = [{**entry["datasets"][0], "path": "other"}]
    group.attrs["multiscales"] = [*group.attrs["multiscales"], {**entry, "name": "scan"}]
    with open_slide(tmp_path / "a.zarr") as slide:
        assert scene_of(slide) == 1
        np.testing.assert_array_equal(whole(slide), second)
    with open_slide(tmp_path / "a.zarr", scene=0) as slide:
        np.testing.assert_array_equal(whole(slide), first)


def test_a_mask_beside_the_picture_in_a_plain_group_is_no_level(tmp_path, coordinates):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", data=coordinates(100, 80), chunks=(64, 64, 3))
    group.create_array("mask", data=np.ones((80, 100), np.uint8), chunks=(64, 64))
    with pytest.raises(UnreadableSlideError, match="are not levels of one pyramid"):
        open_slide(tmp_path / "a.zarr")


def test_groups_of_pictures_say_where_the_pictures_are(tmp_path, coordinates):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    write_zarr(tmp_path / "a.zarr" / "scan", [coordinates(90, 60)])
    with pytest.raises(UnreadableSlideError, match="there are pictures in scan below it, name one"):
        open_slide(tmp_path / "a.zarr")
    root.attrs["plate"] = {"wells": []}
    with pytest.raises(UnreadableSlideError, match="it is a plate of many pictures"):
        open_slide(tmp_path / "a.zarr")


# ---- zips


def zip_folder(folder, target, *, below, extra=()):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(below))
        for name in extra:
            archive.writestr(name, b"\0\5\x16\7")
    return target


@pytest.mark.parametrize("name", ["s.ome.zarr.zip", "s.ozx", "s.ome.zarr.ozx"])
@pytest.mark.parametrize("inside", [False, True])
def test_zip_of_the_folder_and_not_of_its_content(tmp_path, coordinates, name, inside):
    picture = coordinates(150, 130)
    folder = tmp_path / "made" / "s.ome.zarr"
    write_zarr(folder, [picture])
    extra = ("__MACOSX/s.ome.zarr/._.zattrs", ".DS_Store", "s.ome.zarr/._0") if inside else ()
    path = zip_folder(folder, tmp_path / name, below=folder.parent if inside else folder, extra=extra)
    with open_slide(path) as slide:
        assert (slide.reader, slide.slide_id, slide.mpp) == ("zarr", "s", 0.5)
        np.testing.assert_array_equal(whole(slide), picture)


def test_zip_of_two_folders_is_refused_by_their_names(tmp_path, coordinates):
    for name in ("a.zarr", "b.zarr"):
        write_zarr(tmp_path / "made" / name, [coordinates(90, 60)])
    path = zip_folder(tmp_path / "made", tmp_path / "two.zarr.zip", below=tmp_path / "made")
    with pytest.raises(UnreadableSlideError, match=r"holds 2 zarr folders \(a.zarr, b.zarr\)"):
        open_slide(path)
