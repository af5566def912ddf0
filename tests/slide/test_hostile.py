"""Files that mean harm: refused with a clear error, at once, and without growing."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

#: Seconds a refusal may take, on a machine that does other things too.
LONGEST_S = 1.0
#: What opening a sound file may cost, and no more.
LARGEST_MB = 60

SHORT, LONG, ASCII, LONG8 = 3, 4, 2, 16
Attempt = Callable[[Path], dict[str, object]]


def bigtiff(tags: dict[int, tuple[int, int, int]], *, data: bytes = b"", next_ifd: int = 0) -> bytes:
    """A BigTIFF of one directory: tag -> (type, count, value or offset); ``data`` begins at byte 16."""
    ifd = 16 + len(data)
    entries = b"".join(struct.pack("<HHQQ", tag, *tags[tag]) for tag in sorted(tags))
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, ifd) + data
    return head + struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", next_ifd)


def picture(width: int, height: int, tile: int, tiles: int, **more: tuple[int, int, int]) -> bytes:
    bits = struct.pack("<3H", 8, 8, 8)
    tags = {
        256: (LONG, 1, width), 257: (LONG, 1, height), 258: (SHORT, 3, int.from_bytes(bits, "little")),
        259: (SHORT, 1, 8), 262: (SHORT, 1, 2), 277: (SHORT, 1, 3), 284: (SHORT, 1, 1), 322: (LONG, 1, tile),
        323: (LONG, 1, tile), 324: (LONG8, tiles, 16), 325: (LONG8, tiles, 16),
    }  # fmt: skip
    return bigtiff({**tags, **{int(tag.removeprefix("t")): value for tag, value in more.items()}})


def claims_2_to_31(path: Path) -> None:
    path.write_bytes(picture(2**31 - 1, 2**31 - 1, 256, 1))


def claims_more_than_32_bits(path: Path) -> None:
    path.write_bytes(picture(2**31, 2**31, 256, 1))


def tile_count_overflows(path: Path) -> None:
    # 2**31 tiles a side; their number is 0 modulo 2**32 and 2**64.
    path.write_bytes(picture(2**31 - 16, 2**31 - 16, 16, 2**61))


def tables_longer_than_the_file(path: Path) -> None:
    path.write_bytes(picture(4096, 4096, 16, 65536))


def huge_tables_in_a_sparse_file(path: Path) -> None:
    path.write_bytes(picture(2**20, 2**20, 64, 2**28))
    os.truncate(path, 2**40)


def description_of_4_gb(path: Path) -> None:
    path.write_bytes(picture(256, 256, 256, 1, t270=(ASCII, 2**32 - 1, 16)))
    os.truncate(path, 2**33)


def endless_directories(path: Path) -> None:
    ifd = bigtiff({256: (LONG, 1, 16)})
    path.write_bytes(ifd[:-8] + struct.pack("<Q", 16))


def a_million_directories(path: Path) -> None:
    entry = struct.pack("<HHHII", 1, 256, LONG, 1, 16)
    size = len(entry) + 4
    chain = b"".join(entry + struct.pack("<I", 8 + (i + 1) * size) for i in range(1_000_000))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + chain[:-4] + bytes(4))


def deflate_bomb(path: Path) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            iter([bomb]), shape=(256, 256, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb",
            compression="deflate", metadata=None,
        )  # fmt: skip


def of_codec(path: Path, data: bytes, compression: str) -> None:
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            iter([data]), shape=(256, 256, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb",
            compression=compression, metadata=None,
        )  # fmt: skip


def jpeg_of_another_size(path: Path) -> None:
    data = bytearray(imagecodecs.jpeg8_encode(np.zeros((256, 256, 3), np.uint8)))
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    of_codec(path, bytes(data), "jpeg")


def jpeg_with_two_sizes(path: Path) -> None:
    data = imagecodecs.jpeg8_encode(np.zeros((256, 256, 3), np.uint8))
    frame = data.find(b"\xff\xc0")
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4])
    second = bytearray(data[frame : frame + length])
    second[5:9] = struct.pack(">HH", 65500, 65500)
    of_codec(path, data[: frame + length] + second + data[frame + length :], "jpeg")


def jpeg2000_of_another_size(path: Path) -> None:
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((256, 256, 3), np.uint8), codecformat="j2k"))
    size = data.find(b"\xff\x51")
    data[size + 6 : size + 14] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    of_codec(path, bytes(data), "jpeg2000")


def jpeg2000_of_many_tiles(path: Path) -> None:
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((256, 256, 3), np.uint8), codecformat="j2k"))
    size = data.find(b"\xff\x51")
    data[size + 22 : size + 30] = struct.pack(">II", 2, 1)  # 32,768 tiles inside the tile
    of_codec(path, bytes(data), "jpeg2000")


def picture_of_another_size(path: Path, codec: str) -> None:
    encode = getattr(imagecodecs, f"{codec}_encode")
    of_codec(path, encode(np.zeros((4096, 4096, 3), np.uint8)), codec)


def webp_of_another_size(path: Path) -> None:
    picture_of_another_size(path, "webp")


def jpegxl_of_another_size(path: Path) -> None:
    picture_of_another_size(path, "jpegxl")


def jpegxr_of_another_size(path: Path) -> None:
    picture_of_another_size(path, "jpegxr")


def lerc_of_another_size(path: Path) -> None:
    picture_of_another_size(path, "lerc")


def lzma_bomb(path: Path) -> None:
    of_codec(path, imagecodecs.lzma_encode(bytes(1 << 26)), "lzma")


def ome_with_entities(path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha" * 9}">' for i in range(10))
    xml = f'<?xml version="1.0"?><!DOCTYPE x [{laughs}]><OME><Image Name="&l9;"/></OME>'
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb", description=xml, metadata=None)


TIFFS = {
    claims_2_to_31: "claims 2147483647 x 2147483647 px",
    claims_more_than_32_bits: "damaged",
    tile_count_overflows: "table of 2305843009213693952 tiles",
    tables_longer_than_the_file: "",
    huge_tables_in_a_sparse_file: "table of 268435456 tiles",
    description_of_4_gb: "4294967295 bytes for the tag 270",
    endless_directories: "",
    a_million_directories: "more than 10000 directories",
    deflate_bomb: r"level 0, tile \(col, row\) \(0, 0\)",
    jpeg_of_another_size: "data say 65500 x 65500 px",
    jpeg_with_two_sizes: "2 frame headers",
    jpeg2000_of_another_size: "data say 2147483647 x 2147483647 px",
    jpeg2000_of_many_tiles: "32768 tiles",
    webp_of_another_size: "expected a picture of 256 x 256 px of 3 samples",
    jpegxl_of_another_size: "expected a picture of 256 x 256 px of 3 samples",
    jpegxr_of_another_size: "JPEG XR data do not decode",
    lerc_of_another_size: "expected a picture of 256 x 256 px of 3 samples",
    lzma_bomb: "expected 196608 bytes of pixels, got 196609",
    ome_with_entities: "OME-XML",
}


def refused(report: dict[str, object], words: str) -> None:
    assert report["error"] in ("UnreadableSlideError", "BadTileError", "AnnotationError"), report
    assert re.search(words, str(report["message"])), report
    assert float(str(report["s"])) < LONGEST_S, report
    assert float(str(report["mb"])) < LARGEST_MB, report


#: Making it takes long.
SLOW_TIFFS = (jpegxl_of_another_size,)


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=pytest.mark.slow) if make in SLOW_TIFFS else make for make in TIFFS],
    ids=lambda make: make.__name__,
)
def test_hostile_tiff(attempt: Attempt, tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "hostile.tif")
    refused(attempt(tmp_path / "hostile.tif"), TIFFS[make])


# --- zarr ---


def zarr_of(folder: Path, *, shape: tuple[int, ...], chunks: tuple[int, ...], **options: object) -> Path:
    zarr.create_array(folder, shape=shape, chunks=chunks, dtype="uint8", **options)
    return folder


def huge_shape(tmp: Path) -> Path:
    return zarr_of(tmp / "h.zarr", shape=(2**40, 2**40, 3), chunks=(256, 256, 3))


def huge_chunk(tmp: Path) -> Path:
    path = zarr_of(tmp / "h.zarr", shape=(2**16, 2**16, 3), chunks=(2**16, 2**16, 3))
    (path / "c" / "0" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0" / "0").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    return path


def one_chunk(tmp: Path, content: bytes, codec: object) -> Path:
    path = zarr_of(tmp / "h.zarr", shape=(256, 256, 3), chunks=(256, 256, 3), compressors=[codec])
    (path / "c" / "0" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0" / "0").write_bytes(content)
    return path


def zeros_gzipped(gigabytes: float) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(int(gigabytes * 1024))) + packer.flush()


def gzip_bomb(tmp: Path) -> Path:
    return one_chunk(tmp, zeros_gzipped(0.25), zarr.codecs.GzipCodec())


def zstd_bomb(tmp: Path) -> Path:
    return one_chunk(tmp, imagecodecs.zstd_encode(bytes(1 << 28)), zarr.codecs.ZstdCodec())


def blosc_bomb(tmp: Path) -> Path:
    import numcodecs

    return one_chunk(tmp, numcodecs.Blosc(cname="zstd").encode(bytes(1 << 28)), zarr.codecs.BloscCodec())


def metadata_of_1_gb(tmp: Path) -> Path:
    path = zarr_of(tmp / "h.zarr", shape=(256, 256, 3), chunks=(256, 256, 3))
    os.truncate(path / "zarr.json", 1 << 30)
    return path


def metadata_nested_deeply(tmp: Path) -> Path:
    path = zarr_of(tmp / "h.zarr", shape=(256, 256, 3), chunks=(256, 256, 3))
    text = (path / "zarr.json").read_text().rstrip().removesuffix("}")
    (path / "zarr.json").write_text(text + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return path


def zip_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def metadata_bomb_in_a_zip(tmp: Path) -> Path:
    return zip_of(tmp / "h.zarr.zip", {"zarr.json": b" " * (1 << 28)})


def escaping_zip(tmp: Path) -> Path:
    sound = zarr_of(tmp / "s.zarr", shape=(64, 64, 3), chunks=(64, 64, 3))
    return zip_of(
        tmp / "h.zarr.zip",
        {"zarr.json": (sound / "zarr.json").read_bytes(), "c/0/0/0": b"", "../../escaped": b"outside"},
    )


def absolute_zip(tmp: Path) -> Path:
    return zip_of(tmp / "h.zarr.zip", {"zarr.json": b"{}", "/tmp/escaped": b"outside"})


ZARRS = {
    huge_shape: "the metadata claim",
    huge_chunk: "one chunk",
    gzip_bomb: r"chunk \(col, row\) \(0, 0\)",
    zstd_bomb: r"chunk \(col, row\) \(0, 0\)",
    blosc_bomb: r"chunk \(col, row\) \(0, 0\)",
    metadata_of_1_gb: "zarr.json",
    metadata_nested_deeply: "metadata",
    metadata_bomb_in_a_zip: "zarr.json",
    escaping_zip: r"\.\./\.\./escaped",
    absolute_zip: "/tmp/escaped",
}


@pytest.mark.parametrize("make", ZARRS, ids=lambda make: make.__name__)
def test_hostile_zarr(attempt: Attempt, tmp_path: Path, make: Callable[[Path], Path]):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(attempt(path), ZARRS[make])
    assert sorted(tmp_path.rglob("*")) == before


# --- annotations ---

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha" * 9}">' for i in range(10))
ANNOTATIONS = {
    "entities.xml": f"<!DOCTYPE x [{LAUGHS}]><ASAP_Annotations>&l9;</ASAP_Annotations>",
    "quadratic.xml": f'<!DOCTYPE x [<!ENTITY a "{"a" * 100_000}">]>'
    f"<ASAP_Annotations>{'&a;' * 10_000}</ASAP_Annotations>",
    "external.xml": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><ASAP_Annotations>&a;</ASAP_Annotations>',
    "remote.xml": '<!DOCTYPE x SYSTEM "http://localhost:1/x.dtd"><ASAP_Annotations/>',
    "nested.xml": "<ASAP_Annotations>" + "<a>" * 50_000 + "</a>" * 50_000 + "</ASAP_Annotations",
    "nested.geojson": "[" * 1_000_000,
    "deep_ring.geojson": '{"type": "Feature", "properties": {"classification": {"name": "Tumor"}}, "geometry": '
    f'{{"type": "Polygon", "coordinates": {"[" * 900 + "]" * 900}}}}}',
    "long_number.geojson": '{"type": "Feature", "geometry": ' + "9" * 1_000_000 + "}",
    "infinity.geojson": '{"type": "Feature", "properties": {"classification": {"name": "Tumor"}}, "geometry": '
    '{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [0, 1e999]]]}}',
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_hostile_annotation(attempt: Attempt, tmp_path: Path, name: str):
    (tmp_path / name).write_text(ANNOTATIONS[name])
    refused(attempt(tmp_path / name), "")


def test_a_sound_slide_costs_no_more_than_is_allowed_here(attempt: Attempt, tmp_path: Path):
    """Or the limits above would mean nothing."""
    with tifffile.TiffWriter(tmp_path / "sound.tif") as tif:
        pixels = np.zeros((4096, 4096, 3), np.uint8)
        tif.write(pixels, tile=(256, 256), photometric="rgb", compression="jpeg", metadata=None)
    report = attempt(tmp_path / "sound.tif")
    assert report["error"] == "none"
    assert float(str(report["mb"])) < LARGEST_MB
    assert gzip.decompress(zeros_gzipped(1 / 1024)) == bytes(1 << 20)
