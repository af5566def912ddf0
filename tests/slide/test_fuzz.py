"""Readers and parsers on damaged input: refusal by name or sound pixels, never anything else.

A short run here; `benchmarks/fuzz.py` runs the same for as long as one likes.
"""

from __future__ import annotations

import atexit
import copy
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.errors import AnnotationError, SlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.jpeg import Colours, DamagedTileError, decode_jpeg, jpeg_size
from wsi_vmamba.slide.openslide.dicom import series_uid
from wsi_vmamba.slide.tiff.slide import TiffSlide
from wsi_vmamba.slide.tile_codecs import check_jpeg2000_parts, jpeg2000_size

pytestmark = pytest.mark.filterwarnings("ignore")

#: benchmarks/fuzz.py brings a profile of its own.
SHORT = (
    settings()
    if settings.get_current_profile_name() == "fuzz"
    else settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

#: Places to damage, as a share of the file, and what to put there.
DAMAGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12)
#: Numbers that break arithmetic more often than others.
ODD = st.sampled_from([0, 1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1])


def gradient(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 251, y % 241, (x + y) % 256], axis=-1).astype(np.uint8)


def tiff_bytes(**options: Any) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=options.pop("bigtiff", False), ome=False) as tif:
        first = {"subifds": 1} if options.pop("subifds", False) else {}
        form = {"photometric": "rgb", "metadata": None, "resolution": (20_000, 20_000), **options}
        tif.write(gradient(200, 150), **first, **form)
        tif.write(gradient(100, 75), subfiletype=1, **form)
    return file.getvalue()


TIFFS = [
    tiff_bytes(tile=(64, 64), compression="jpeg"),
    tiff_bytes(tile=(64, 64), compression="jpeg", subifds=True, bigtiff=True),
    tiff_bytes(tile=(64, 64), compression="deflate", predictor=True),
    tiff_bytes(tile=(64, 64), compression="lzw", bigtiff=True),
    tiff_bytes(tile=(64, 64), compression="jpeg2000"),
    tiff_bytes(tile=(64, 64), compression="webp"),
    tiff_bytes(tile=(64, 64), compression="jpegxl"),
    tiff_bytes(tile=(64, 64), compression="lerc"),
    tiff_bytes(tile=(64, 64), compression="lzma"),
    tiff_bytes(rowsperstrip=20, compression="packbits"),
    tiff_bytes(rowsperstrip=150),
    tiff_bytes(tile=(64, 64), compression="zstd", description="Aperio Image\r\nx |MPP = 0.25|AppMag = 40"),
]


def head_first(content: bytes, damages: list[tuple[float, int]], *, heads: int) -> bytes:
    """Damage a file; half of the blows fall on its first or last bytes, where the directories are."""
    out = bytearray(content)
    for number, (place, value) in enumerate(damages):
        reach = len(out) if number % 2 else min(heads, len(out))
        at = int(place * reach)
        out[len(out) - 1 - at if number % 4 == 2 else at] = value
    return bytes(out)


def read_all(path: Path, opener: Callable[[Path], Any]) -> None:
    """Open and read every level; damage must have a name, and what reads must read alike in part and as a whole."""
    refusal = None
    try:
        with opener(path) as slide:
            for index, level in enumerate(slide.levels):
                width, height = min(level.width_px, 256), min(level.height_px, 256)
                place = {"x_l0": 0, "y_l0": 0, "level": index, "width_px": width, "height_px": height}
                pixels = slide.read_region(**place)
                assert pixels.shape == (height, width, 3)
                assert pixels.dtype == np.uint8
                half = (-(-width // 2), -(-height // 2))
                part = slide.read_region(x_l0=0, y_l0=0, level=index, width_px=half[0], height_px=half[1])
                np.testing.assert_array_equal(part, pixels[: half[1], : half[0]])
    except SlideError as error:
        refusal = str(error)
    if refusal is not None:
        assert str(path) in refusal


@SHORT
@given(st.sampled_from(range(len(TIFFS))), DAMAGES, st.integers(0, 600))
def test_damaged_tiff(which: int, damages: list[tuple[float, int]], heads: int):
    path = FOLDER / "a.tif"
    path.write_bytes(head_first(TIFFS[which], damages, heads=heads + 1))
    read_all(path, TiffSlide)


@SHORT
@given(st.sampled_from(range(len(TIFFS))), DAMAGES, st.floats(0, 1))
def test_damaged_and_cut_tiff_through_any_reader(which: int, damages: list[tuple[float, int]], cut: float):
    path = FOLDER / "b.tif"
    content = head_first(TIFFS[which], damages, heads=400)
    path.write_bytes(content[: int(cut * len(content)) + 1])
    read_all(path, open_slide)


def tag_places(content: bytes) -> list[int]:
    """Offsets of the 12 or 20 bytes of every tag of the first directories."""
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        return [tag.offset for page in tif.pages for tag in page.tags]


TAGS = [tag_places(content) for content in TIFFS]


@SHORT
@given(
    st.sampled_from(range(len(TIFFS))),
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 3), ODD | st.integers(0, 2**32 - 1)),
        min_size=1,
        max_size=3,
    ),
)
def test_tags_that_lie(which: int, changes: list[tuple[int, int, int]]):
    """Change the tag, type, count or value of whole directory entries."""
    content = bytearray(TIFFS[which])
    big = content[2] == 43
    fields = ((0, 2), (2, 2), (4, 8), (12, 8)) if big else ((0, 2), (2, 2), (4, 4), (8, 4))
    for number, field, value in changes:
        start, length = fields[field]
        at = TAGS[which][number % len(TAGS[which])] + start
        content[at : at + length] = (value % 256**length).to_bytes(length, "little")
    path = FOLDER / "c.tif"
    path.write_bytes(content)
    read_all(path, TiffSlide)


JPEG = imagecodecs.jpeg8_encode(gradient(64, 64), level=80)
J2K = imagecodecs.jpeg2k_encode(gradient(64, 64), codecformat="j2k", level=50)


@SHORT
@given(DAMAGES, st.integers(1, 700))
def test_damaged_jpeg(damages: list[tuple[float, int]], heads: int):
    data = head_first(JPEG, damages, heads=heads)
    try:
        width, height, samples = jpeg_size(data)
        if width <= 4096 and height <= 4096 and samples == 3:
            assert decode_jpeg(data, tables=None, stored=Colours.YCBCR).shape == (height, width, 3)
    except DamagedTileError:
        pass


@SHORT
@given(DAMAGES, st.integers(1, 200))
def test_damaged_jpeg2000(damages: list[tuple[float, int]], heads: int):
    data = head_first(J2K, damages, heads=heads)
    try:
        jpeg2000_size(data)
        check_jpeg2000_parts(data)
    except DamagedTileError:
        pass


@SHORT
@given(st.binary(max_size=400))
def test_any_bytes_are_no_slide_or_one(content: bytes):
    path = FOLDER / "d.bin"
    for head in (
        b"",
        b"II*\0\x08\0\0\0",
        b"II+\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"PK\x03\x04",
        bytes(128) + b"DICM",
    ):
        path.write_bytes(head + content)
        read_all(path, open_slide)
        series_uid(path)


JSON = st.recursive(
    st.none() | st.booleans() | ODD | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def ome_zarr() -> Path:
    path = FOLDER / "sound.zarr"
    scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": n, "type": "space", "unit": "micrometer"} for n in "yx"
    ]
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    group = zarr.create_group(
        path, attributes={"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}}
    )
    group.create_array("0", data=gradient(96, 80).transpose(2, 0, 1), chunks=(3, 64, 64))
    return path


ZARR = ome_zarr()
METADATA = {name: json.loads((ZARR / name).read_text()) for name in ("zarr.json", "0/zarr.json")}


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way] * bool(way) + [place for key, item in inner for place in places(item, (*way, key))]


@SHORT
@given(st.sampled_from(sorted(METADATA)), st.integers(0, 999), JSON)
def test_zarr_metadata_that_make_no_sense(name: str, which: int, value: Any):
    changed = copy.deepcopy(METADATA[name])
    ways = places(changed)
    *way, last = ways[which % len(ways)]
    owner = changed
    for key in way:
        owner = owner[key]
    owner[last] = value
    path = FOLDER / "e.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(ZARR.rglob("*")):
            relative = str(file.relative_to(ZARR))
            if file.is_file():
                archive.writestr(relative, json.dumps(changed) if relative == name else file.read_bytes())
    read_all(path, open_slide)


ASAP = (
    '<?xml version="1.0"?>\n<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor">'
    '<Coordinates><Coordinate Order="0" X="1.5" Y="2" /><Coordinate Order="1" X="9" Y="2" /><Coordinate Order="2" '
    'X="9" Y="8" /></Coordinates></Annotation></Annotations></ASAP_Annotations>'
)


def read_outlines(path: Path) -> None:
    refusal: AnnotationError | None = None
    try:
        annotation = read_annotation(path)
        mask = annotation.rasterize(width_px=20, height_px=15, downsample=1.0)
        assert mask.shape == (15, 20)
        assert annotation.region().is_valid
        assert annotation.included or not mask.any()
    except AnnotationError as error:
        refusal = error
    assert refusal is None or str(path) in str(refusal)


@SHORT
@given(DAMAGES)
def test_damaged_asap(damages: list[tuple[float, int]]):
    path = FOLDER / "f.xml"
    path.write_bytes(head_first(ASAP.encode(), damages, heads=len(ASAP)))
    read_outlines(path)


NUMBERS = st.floats(width=64) | st.integers(-(10**6), 10**6)


@SHORT
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8))
def test_any_asap_coordinates(vertices: list[tuple[float, float]]):
    path = FOLDER / "g.xml"
    listed = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(vertices))
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>'
        f"{listed}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    read_outlines(path)


RINGS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS) | JSON, max_size=6) | JSON, max_size=3)


@SHORT
@given(
    st.sampled_from(["Polygon", "MultiPolygon", "Point", "GeometryCollection"]),
    RINGS | st.lists(RINGS, max_size=2) | JSON,
    JSON | st.just({"classification": {"name": "Tumor"}}),
)
def test_any_geojson(kind: str, coordinates: Any, properties: Any):
    path = FOLDER / "h.geojson"
    feature = {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    read_outlines(path)


@SHORT
@given(JSON)
def test_any_json_is_no_annotation_or_one(value: Any):
    path = FOLDER / "i.json"
    path.write_text(json.dumps(value))
    read_outlines(path)
