"""Three channels are a picture in colour only where the file does not say that they are something else."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.errors import UnsupportedSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.channels import hex_rgb, signed_rgba

R, G, B, M, WHITE = "FF0000", "00FF00", "0000FF", "FF00FF", "FFFFFF"
NO_NAMES = ("", "", "")
#: What a file says of three channels, and whether they are refused.
SAID = {
    "nothing": ((None, None, None), NO_NAMES, False),
    "R G B": ((R, G, B), NO_NAMES, False),
    "R G B by name": ((R, G, B), ("Red", "Green", "Blue"), False),
    "nearly R G B": (("EE1010", "0AE00A", "1111D0"), ("0", "1", "2"), False),
    "white": ((WHITE,) * 3, NO_NAMES, False),
    "all green, as Nikon's brightfield": ((G,) * 3, ("Brightfield",) * 3, False),
    "B G R": ((B, G, R), NO_NAMES, True),
    "B G R by name alone": ((None,) * 3, ("B", "G", "R"), True),
    "R B G": ((R, B, G), NO_NAMES, True),
    "blue, green, magenta": ((B, G, M), ("DAPI", "FITC", "Cy5"), True),
    "magenta alone is told": ((None, None, M), NO_NAMES, True),
    "dyes in the default colours": ((R, G, B), ("Cy5", "FITC", "DAPI"), True),
    "dyes without a colour": ((None,) * 3, ("DAPI_1", "Alexa 488", "Cy 3"), True),
}  # fmt: skip
MESSAGE = r"its channels are .*fluorescence, or colours in another order.*export one picture as RGB"


def whole(path):
    with open_slide(path) as slide:
        level = slide.levels[0]
        return slide.read_region(x_l0=0, y_l0=0, level=0, width_px=level.width_px, height_px=level.height_px)


def write_zarr(path, picture, channels, *, version):
    """One level, axes c, y, x; ``channels`` are what omero lists."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=np.moveaxis(picture, -1, 0), chunks=(1, 64, 64))
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    facts = {
        "multiscales": [{"version": version, "axes": axes, "datasets": [{"path": "0"}]}],
        "omero": {"channels": channels},
    }
    group.attrs.update({"ome": facts} if version == "0.5" else facts)
    return path


def omero(colours, names):
    return [
        {**({"color": colour} if colour else {}), "label": name, "active": True}
        for colour, name in zip(colours, names, strict=True)
    ]


def ome_channels(colours, names, *, samples=1):
    """Channel elements, colours as the signed numbers that OME-XML has."""
    found = []
    for i, (colour, name) in enumerate(zip(colours, names, strict=True)):
        number = None if colour is None else int(colour + "FF", 16)
        text = "" if number is None else f' Color="{number - 2**32 if number >= 2**31 else number}"'
        found.append(
            f'<Channel ID="Channel:0:{i}" Name={quoteattr(name)} SamplesPerPixel="{samples}"{text}/>'
        )
    return "".join(found)


def ome_xml(channels, *, width, height):
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint8" SizeC="3" SizeT="1" SizeZ="1" SizeX="{width}" SizeY="{height}">'
        f'{channels}<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )


def write_tiff(path, picture, channels, *, planar=True):
    """OME-TIFF, the samples in planes of their own or, as OpenSlide reads them, side by side."""
    height, width = picture.shape[:2]
    stored = np.moveaxis(picture, -1, 0) if planar else picture
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig="separate" if planar else "contig", tile=(64, 64), metadata=None,
        description=ome_xml(channels, width=width, height=height).encode(),
    )  # fmt: skip
    return path


def check(path, picture, refused):
    if refused:
        with pytest.raises(UnsupportedSlideError, match=MESSAGE):
            open_slide(path)
    else:
        np.testing.assert_array_equal(whole(path), picture)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("said", SAID)
def test_omero_channels(tmp_path, coordinates, said, version):
    colours, names, refused = SAID[said]
    picture = coordinates(150, 100)
    check(write_zarr(tmp_path / "a.zarr", picture, omero(colours, names), version=version), picture, refused)


@pytest.mark.parametrize("said", SAID)
def test_ome_xml_channels_of_a_tiff(tmp_path, coordinates, said):
    colours, names, refused = SAID[said]
    picture = coordinates(150, 100)
    check(write_tiff(tmp_path / "a.ome.tif", picture, ome_channels(colours, names)), picture, refused)


@pytest.mark.parametrize("said", SAID)
def test_ome_xml_channels_of_bioformats2raw(tmp_path, coordinates, said):
    colours, names, refused = SAID[said]
    picture = coordinates(150, 100)
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME")
    xml = ome_xml(ome_channels(colours, names), width=150, height=100)
    (tmp_path / "a.zarr" / "OME" / "METADATA.ome.xml").write_text(xml, encoding="utf-8")
    write_zarr(tmp_path / "a.zarr" / "0", picture, [], version="0.4")
    check(tmp_path / "a.zarr", picture, refused)


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_openslide_is_no_way_round_it(tmp_path, coordinates, reader):
    picture = coordinates(150, 100)
    path = write_tiff(tmp_path / "a.ome.tif", picture, ome_channels([B, G, R], NO_NAMES), planar=False)
    with pytest.raises(UnsupportedSlideError, match=MESSAGE):
        open_slide(path, reader=reader)


def test_a_channel_of_all_samples_may_have_any_colour(tmp_path, coordinates):
    picture = coordinates(150, 100)
    channels = ome_channels([G], ["Brightfield"], samples=3)
    check(write_tiff(tmp_path / "a.ome.tif", picture, channels), picture, refused=False)


def test_colours_in_their_spellings():
    assert [hex_rgb(text) for text in ("ff8000", "#FF8000", "FF8000FF")] == [(255, 128, 0)] * 3
    assert [hex_rgb(text) for text in (None, "", "red", "FFF", 255)] == [None] * 5
    assert [signed_rgba(text) for text in ("-16776961", "16711935", "65535", "-1", "")] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), None
    ]  # fmt: skip
