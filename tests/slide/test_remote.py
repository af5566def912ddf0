"""Zarr slides behind URLs: a real S3 server on this machine, faults made on purpose, nothing from the network."""

from __future__ import annotations

import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.errors import UnreadableSlideError, UsageError
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.location import is_url, may_exist, place_of
from wsi_vmamba.slide.remote import find_remote_slides

UM = {"type": "space", "unit": "micrometer"}


def write_ome(path: Path, pictures) -> Path:
    """OME-Zarr 0.5 with chunks of 64 px."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets = []
    for level, picture in enumerate(pictures):
        group.create_array(str(level), data=picture, chunks=(64, 64, 3))
        scale = [0.25 * 2**level, 0.25 * 2**level, 1.0]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    axes = [{"name": "y", **UM}, {"name": "x", **UM}, {"name": "c", "type": "channel"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


def zip_folder(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return target


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (203, 301, 3), np.uint8), rng.integers(0, 256, (101, 150, 3), np.uint8)]


@pytest.fixture(scope="module")
def files(pictures, tmp_path_factory) -> Path:
    """What lies in the bucket: a folder slide, a zipped one, features, a TIFF and a note."""
    root = tmp_path_factory.mktemp("bucket")
    write_ome(root / "study" / "a.ome.zarr", pictures)
    (root / "study" / "deep").mkdir()
    zip_folder(root / "study" / "a.ome.zarr", root / "study" / "deep" / "b.zarr.zip")
    features = zarr.open_group(root / "study" / "c.zarr", mode="w")
    for name in ("features", "coords_l0"):
        features.create_array(name, data=np.zeros((3, 2)))
    (root / "study" / "d.svs").write_bytes(b"II*\0")
    (root / "study" / "notes.txt").write_text("x")
    zarr.create_array(
        root / "claims" / "likely.zarr", shape=(2**17, 2**17, 3), chunks=(256, 256, 3), dtype="uint8"
    )
    return root


@contextmanager
def serve(files: Path):
    """Run a moto S3 server with those files; the environment says where it is, as it does for real users."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra 'remote')")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
            "no_proxy": "*",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="slides")
        for file in sorted(files.rglob("*")):
            if file.is_file():
                client.upload_file(str(file), "slides", file.relative_to(files).as_posix())
        client.close()
        forget_clients()
        yield server
        forget_clients()
    server.stop()


def forget_clients() -> None:
    """Close what s3fs keeps for the next call; it was made for one server and would be asked about the next."""
    import fsspec
    import s3fs
    from zarr.core.sync import sync

    for system in s3fs.S3FileSystem._cache.values():
        creator = getattr(system, "_s3creator", None)
        if creator is None:
            continue
        leave = creator.__aexit__(None, None, None)
        if system.asynchronous:
            sync(leave)
        else:
            fsspec.asyn.sync(system.loop, lambda coroutine=leave: coroutine)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def bucket(files: Path):
    with serve(files):
        yield "s3://slides"


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [("study/a.ome.zarr", "a"), ("study/deep/b.zarr.zip", "b"), ("study/a.ome.zarr/", "a")],
)
def test_slides_in_a_bucket_have_the_pixels_of_the_files(bucket, pictures, name, slide_id):
    with open_slide(f"{bucket}/{name}") as slide:
        assert (slide.reader, slide.mpp, slide.slide_id) == ("zarr", 0.25, slide_id)
        for level, picture in enumerate(pictures):
            found = slide.read_region(
                x_l0=40 * 2**level, y_l0=30 * 2**level, level=level, width_px=90, height_px=60
            )
            np.testing.assert_array_equal(found, picture[30:90, 40:130])
        assert (slide.read_region(x_l0=290, y_l0=0, level=0, width_px=30, height_px=9)[:, 11:] == 255).all()


def test_a_bucket_is_searched_like_a_folder(bucket):
    study = f"{bucket}/study"
    assert find_remote_slides(study) == [f"{study}/a.ome.zarr", f"{study}/d.svs", f"{study}/deep/b.zarr.zip"]
    assert [(s.slide_id, s.path) for s in find_sources(f"{study}/")] == [
        ("a", f"{study}/a.ome.zarr"),
        ("d", f"{study}/d.svs"),
        ("b", f"{study}/deep/b.zarr.zip"),
    ]
    assert find_remote_slides("s3://nobody/x.svs") == ["s3://nobody/x.svs"]  # to be named as not readable
    assert find_remote_slides(f"{study}/a.ome.zarr") == [f"{study}/a.ome.zarr"]
    with pytest.raises(UnreadableSlideError, match="nothing there"):
        find_remote_slides(f"{bucket}/other")


def test_extract_from_a_bucket_equals_extract_from_the_disk(bucket, files, tmp_path):
    from wsi_vmamba.config import ExtractConfig
    from wsi_vmamba.pipelines import extract
    from wsi_vmamba.store import open_features

    manifest = tmp_path / "slides.csv"
    manifest.write_text(
        f"slide_id,path,mpp\nremote,{bucket}/study/a.ome.zarr,\nlocal,{files}/study/a.ome.zarr,\n"
    )
    values = {"slides": str(manifest), "out": str(tmp_path / "out"), "segmenter": "all"}
    config = ExtractConfig.model_validate({**values, "backbone": "null", "patch_px": 32, "target_mpp": 0.5})
    assert extract.run(config) is True
    remote, local = (open_features(tmp_path / "out" / f"{name}.zarr") for name in ("remote", "local"))
    np.testing.assert_array_equal(remote.features, local.features)
    np.testing.assert_array_equal(remote.coords_l0, local.coords_l0)
    assert remote.meta.slide_path == f"{bucket}/study/a.ome.zarr"


@pytest.mark.parametrize(
    ("url", "reader", "message"),
    [
        ("s3://slides/study/d.svs", None, "from a URL only OME-Zarr is read"),
        ("s3://slides/study/a.ome.zarr", "openslide", "from a URL only OME-Zarr is read"),
        ("s3://slides/study/none.zarr", None, "no zarr picture there"),
        ("s3://slides/claims/likely.zarr", None, "the metadata claim .* 48 GiB, which its files cannot hold"),
        ("s3://nobody/none.zarr.zip", None, "cannot be reached"),
        ("gopher://host/a.zarr", None, "cannot be reached.*gopher"),
    ],
)
def test_what_cannot_be_read_from_a_url_is_said(bucket, url, reader, message):
    with pytest.raises(UnreadableSlideError, match=message) as caught:
        open_slide(url, reader=reader)
    assert caught.value.slide == url


def test_a_server_that_goes_away_fails_the_slide_and_not_the_tile(files, pictures, monkeypatch):
    """An outage must not look like a damaged chunk, whose patches a run may be told to leave out."""
    with serve(files) as server, open_slide("s3://slides/study/a.ome.zarr") as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=64, height_px=64)
        np.testing.assert_array_equal(found, pictures[0][:64, :64])
        server.stop()
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        with pytest.raises(UnreadableSlideError, match="reading failed in the middle") as caught:
            slide.read_region(x_l0=64, y_l0=0, level=0, width_px=64, height_px=64)
    assert type(caught.value) is UnreadableSlideError


def test_a_rotten_chunk_behind_a_url_is_named(pictures, tmp_path):
    import fsspec

    write_ome(tmp_path / "s.zarr", pictures)
    (tmp_path / "s.zarr" / "0" / "c" / "1" / "2" / "0").write_bytes(b"not what was written")
    fsspec.filesystem("memory").put(str(tmp_path / "s.zarr"), "/rotten/s.zarr", recursive=True)
    with (
        open_slide("memory://rotten/s.zarr") as slide,
        pytest.raises(UnreadableSlideError, match=r"chunk \(col, row\) \(2, 1\)"),
    ):
        slide.read_region(x_l0=0, y_l0=0, level=0, width_px=300, height_px=200)


def test_a_zipped_folder_behind_a_url_is_read_by_either_ending(pictures, tmp_path):
    write_ome(tmp_path / "s.zarr", pictures)
    for name in ("a.zarr.zip", "b.ozx"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in (tmp_path / "s.zarr").rglob("*"):
                if file.is_file():
                    archive.write(file, file.relative_to(tmp_path))
        with open_slide(f"file://{tmp_path / name}") as slide:
            found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=300, height_px=200)
            np.testing.assert_array_equal(found, pictures[0][:200, :300])


def test_a_zip_that_means_harm_is_refused_behind_a_url_too(tmp_path):
    path = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", "{}")
        archive.writestr("c/0/0/0", bytes(64 << 20))
    with pytest.raises(UnreadableSlideError, match="would inflate from"):
        open_slide(f"file://{path}")


def test_without_the_client_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    import fsspec  # noqa: F401 - makes the module below

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UnreadableSlideError, match=r"wsi-vmamba\[remote\]"):
        open_slide("s3://slides/a.zarr")


def test_urls_and_paths_are_told_apart(tmp_path: Path):
    assert all(map(is_url, ("s3://b/x.zarr", "zip::s3://b/x.zip", "file:///x", "gs+x://b")))
    assert not any(map(is_url, ("slides/a.svs", "C:/slides", "/x", "://x", Path("s3://b"))))
    assert place_of("s3://b/x.zarr/", root=tmp_path) == "s3://b/x.zarr"
    assert place_of("x.zarr", root=tmp_path) == tmp_path / "x.zarr"
    assert may_exist("s3://b/x.zarr")
    assert not may_exist(tmp_path / "none")
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path\na,s3://b/x.zarr\nb,y.svs\n")
    assert [record.path for record in read_manifest(manifest, root=tmp_path)] == [
        "s3://b/x.zarr",
        tmp_path / "y.svs",
    ]
    with pytest.raises(UsageError, match="a manifest must be a local file"):
        find_sources("s3://b/slides.csv")
