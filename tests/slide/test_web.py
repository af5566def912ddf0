"""Zarr slides on web servers: one on this machine, with parts of files or without, refusing, failing and hanging."""

from __future__ import annotations

import importlib
import socket
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.pipelines import extract
from wsi_vmamba.slide import open_slide, web
from wsi_vmamba.slide.zarr.slide import ZarrSlide
from wsi_vmamba.store import open_features

pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra 'remote')")

UM = {"type": "space", "unit": "micrometer"}


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).integers(0, 256, (203, 301, 3), np.uint8)


@pytest.fixture(scope="module")
def files(picture, tmp_path_factory) -> Path:
    """OME-Zarr 0.4 and 0.5, one with shards, one in a zip."""
    root = tmp_path_factory.mktemp("web")
    for name, options in {
        "v2.zarr": {"zarr_format": 2},
        "v3.zarr": {"zarr_format": 3},
        "sharded.zarr": {"zarr_format": 3, "shards": (128, 128, 3)},
    }.items():
        group = zarr.open_group(root / name, mode="w", zarr_format=options.pop("zarr_format"))
        group.create_array("0", data=picture, chunks=(64, 64, 3), **options)
        dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5, 1.0]}]}
        axes = [{"name": "y", **UM}, {"name": "x", **UM}, {"name": "c", "type": "channel"}]
        multiscales = [{"axes": axes, "datasets": [dataset]}]
        group.attrs.update(
            {"multiscales": multiscales} if "v2" in name else {"ome": {"multiscales": multiscales}}
        )
    with zipfile.ZipFile(root / "zipped.zarr.zip", "w") as archive:
        for file in sorted((root / "v3.zarr").rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root / "v3.zarr"))
    return root


@pytest.fixture(scope="module")
def serving():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.setenv("no_proxy", "*")
        yield importlib.import_module("web_server").serve_folder


@pytest.fixture
def server(files, serving):
    """A server of its own for each test: the client keeps its connections."""
    with serving(files) as server:
        yield server


def whole(url: str, picture):
    with open_slide(url) as slide:
        assert (slide.reader, slide.mpp) == ("zarr", 0.5)
        return slide.read_region(x_l0=0, y_l0=0, level=0, width_px=301, height_px=203)


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr", "v3.zarr/", "sharded.zarr", "zipped.zarr.zip"])
def test_pixels_are_those_of_the_files(server, picture, name):
    np.testing.assert_array_equal(whole(f"{server.url}/{name}", picture), picture)


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr"])
def test_a_server_that_only_sends_whole_files_is_enough_for_whole_chunks(server, picture, name):
    server.ranges = False
    np.testing.assert_array_equal(whole(f"{server.url}/{name}", picture), picture)


@pytest.mark.parametrize("name", ["sharded.zarr", "zipped.zarr.zip"])
def test_parts_of_files_need_a_server_that_sends_them(server, picture, name):
    """The slide fails, not its chunks: a run told to leave bad chunks out would leave them all out."""
    server.ranges = False
    with pytest.raises(UnreadableSlideError, match="cannot send parts of files") as caught:
        whole(f"{server.url}/{name}", picture)
    assert not isinstance(caught.value, BadTileError)


@pytest.mark.parametrize("name", ["v2.zarr", "v3.zarr"])
def test_what_is_missing_may_be_answered_with_403(server, picture, name):
    """As buckets do to those who may not list them."""
    server.missing = 403
    np.testing.assert_array_equal(whole(f"{server.url}/{name}", picture), picture)


@pytest.mark.parametrize(
    ("name", "faults", "message"),
    [
        ("none.zarr", {}, r"no zarr picture there: .* list the slides in the path column of a CSV"),
        ("", {}, r"no zarr picture there"),
        ("none.zarr.zip", {}, r"cannot be reached: nothing there \(404\)"),
        ("none.zarr", {"missing": 403}, r"the server refused .* \(403\), is a password or key missing"),
        ("none.zarr.zip", {"missing": 403}, r"no permission, or nothing there \(403\)"),
        ("v3.zarr", {"fail": ("", 401)}, r"the server asks who you are \(401\)"),
        ("v3.zarr", {"fail": ("", 500)}, r"cannot be read: the server answers 500"),
        ("zipped.zarr.zip", {"fail": ("", 500)}, r"cannot be reached: the server answers 500"),
        ("v3.zarr", {"fail": ("c/0/1", 503)}, r"reading failed in the middle: the server answers 503"),
        ("v3.zarr", {"fail": ("c/0/1", 403)}, r"reading failed in the middle: no permission"),
        ("a.svs", {}, r"from a URL only OME-Zarr is read .* copy other slides to a local disk first"),
        ("a.tiff", {}, r"from a URL only OME-Zarr is read"),
    ],
)
def test_what_goes_wrong_is_said(server, picture, name, faults, message):
    for fault, value in faults.items():
        setattr(server, fault, value)
    with pytest.raises(UnreadableSlideError, match=message) as caught:
        whole(f"{server.url}/{name}", picture)
    assert type(caught.value) is UnreadableSlideError


@pytest.mark.parametrize("name", ["v3.zarr", "zipped.zarr.zip"])
def test_nobody_answers(picture, name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreadableSlideError, match=r"Cannot connect to host 127\.0\.0\.1"):
        whole(f"http://127.0.0.1:{port}/{name}", picture)


@pytest.mark.parametrize("name", ["v3.zarr", "zipped.zarr.zip"])
def test_a_server_that_hangs_is_left(server, picture, monkeypatch, name):
    monkeypatch.setattr(web, "SILENCE_S", 0.2)
    server.hang_s = 1.0
    with pytest.raises(UnreadableSlideError, match="no answer in time"):
        whole(f"{server.url}/{name}", picture)


def test_the_proxy_of_the_environment_is_used(server, picture, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    url = "http://slides.invalid/v3.zarr"
    np.testing.assert_array_equal(whole(url, picture), picture)
    assert f"{url}/zarr.json" in server.asked


@pytest.mark.parametrize("name", ["v3.zarr", "zipped.zarr.zip"])
def test_without_the_client_the_remedy_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UnreadableSlideError, match=r"https:// run `pip install 'wsi-vmamba\[remote\]'`"):
        open_slide(f"https://slides.invalid/{name}")


def test_extract_from_the_web_equals_extract_from_the_disk(server, files, tmp_path):
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide_id,path\nweb,{server.url}/v2.zarr\nlocal,{files}/v2.zarr\n")
    values = {"backbone": "null", "patch_px": 32, "target_mpp": 0.5, "segmenter": "all"}
    for slides, out in ((str(manifest), "a"), (f"{server.url}/v2.zarr", "b")):
        config = {**values, "slides": slides, "out": str(tmp_path / out)}
        assert extract.run(ExtractConfig.model_validate(config)) is True
    found = [open_features(tmp_path / place) for place in ("a/local.zarr", "a/web.zarr", "b/v2.zarr")]
    for other in found[1:]:
        np.testing.assert_array_equal(other.features, found[0].features)
        assert other.meta.slide_path == f"{server.url}/v2.zarr"


def make_claim(folder: Path, *, width: int, height: int, **options: object) -> Path:
    zarr.create_array(folder, shape=(height, width, 3), chunks=(256, 256, 3), dtype="uint8", **options)
    return folder


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("both", (2**31, 2**31), {}),
        ("one", (2**31, 1000), {}),
        ("likely", (2**17, 2**17), {}),
        ("v2", (2**17, 2**17), {"zarr_format": 2}),
        ("sharded", (2**17, 2**17), {"shards": (1024, 1024, 3)}),
    ],
)
def test_claims_are_refused_at_once_and_without_growing(attempt, serving, tmp_path, name, size, options):
    make_claim(tmp_path / f"{name}.zarr", width=size[0], height=size[1], **options)
    with serving(tmp_path) as server:
        report = attempt(f"{server.url}/{name}.zarr")
    assert report["error"] == "UnreadableSlideError"
    assert "the metadata claim" in report["message"]
    # Half a second on a quiet machine; what bounds it is how often the server is asked.
    assert len(server.asked) < 600
    assert report["s"] < 10
    assert report["mb"] < 60


def test_a_sound_slide_of_which_little_is_written_is_not_refused(serving, tmp_path):
    """96 GiB of pixels, one chunk in twenty written: the rest is background."""
    path = make_claim(tmp_path / "sparse.zarr", width=2**18, height=2**17, compressors=None)
    # What compresses least is not looked into here, so one file stands for all.
    chunk = tmp_path / "chunk"
    chunk.write_bytes(b"tissue" * 8000)
    for row in range(200, 306):
        for column in range(300, 536):
            place = path / "c" / str(row) / str(column) / "0"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(chunk)
    with serving(tmp_path) as server, ZarrSlide(f"{server.url}/sparse.zarr") as slide:
        assert slide.levels[0].width_px == 2**18
        assert len(server.asked) < 600


def test_a_zip_that_claims_more_than_it_holds_is_refused(serving, tmp_path):
    make_claim(tmp_path / "s.zarr", width=2**17, height=2**17)
    with zipfile.ZipFile(tmp_path / "s.zarr.zip", "w") as archive:
        archive.write(tmp_path / "s.zarr" / "zarr.json", "zarr.json")
    with serving(tmp_path) as server, pytest.raises(UnreadableSlideError, match="its files cannot hold"):
        open_slide(f"{server.url}/s.zarr.zip")
