"""`download` and `check` against a local S3 server: interrupted, cut, damaged, full."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from wsi_vmamba.config import CheckConfig, DownloadConfig
from wsi_vmamba.datasets import fetch as fetching
from wsi_vmamba.datasets.bucket import Bucket
from wsi_vmamba.datasets.camelyon16_remote import REMOTE
from wsi_vmamba.datasets.fetch import fetch, part_path
from wsi_vmamba.datasets.remote import parse_checksums
from wsi_vmamba.errors import DiskSpaceError, DownloadError, MissingDataError, UsageError
from wsi_vmamba.pipelines import check, download

SLIDES = ["normal_001", "tumor_001", "tumor_002"]
BIG = "images/tumor_002.tif"


@pytest.fixture
def bucket(wire):
    return Bucket(REMOTE.bucket, region=REMOTE.region, endpoint_url=wire.endpoint)


@pytest.fixture
def big(bucket):
    return bucket.list(f"CAMELYON16/{BIG}")[0]


def config(to: Path, endpoint: str, **changes: object) -> DownloadConfig:
    values = {"dataset": "camelyon16", "to": str(to), "slides": SLIDES, "endpoint_url": endpoint, **changes}
    return DownloadConfig.model_validate(values)


def test_every_byte_arrives_and_is_not_fetched_again(camelyon, wire, tmp_path, capsys):
    assert download.run(config(tmp_path, wire.endpoint)) is True
    wanted = {name: content for name, content in camelyon.files.items() if PurePosixPath(name).stem in SLIDES}
    assert len(wanted) == 5
    for name, content in wanted.items():
        assert (tmp_path / name).read_bytes() == content
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        *wanted, "download.json"
    }  # fmt: skip
    inventory = json.loads((tmp_path / "download.json").read_text())
    assert inventory == {
        name: {"size_bytes": len(content), "md5": camelyon.md5[name]}
        for name, content in sorted(wanted.items())
    }
    assert "3 slides, 5 files" in capsys.readouterr().out
    wire.requests.clear()
    assert download.run(config(tmp_path, wire.endpoint)) is True
    assert not [path for path, _ in wire.requests if path.endswith((".tif", ".xml"))]


def test_a_cut_connection_is_taken_up_where_it_broke(camelyon, wire, bucket, big, tmp_path):
    wire.cut_after, wire.cuts = 5_000_000, 3
    arrived = []
    md5 = camelyon.md5[BIG]
    fetch(bucket, big, tmp_path / "slide.tif", md5=md5, on_bytes=arrived.append, wait_s=0.01)
    assert (tmp_path / "slide.tif").read_bytes() == camelyon.files[BIG]
    assert sum(arrived) == big.size_bytes
    starts = [int(span.removeprefix("bytes=").rstrip("-")) for path, span in wire.requests if span]
    assert len(starts) == 4
    assert starts[0] == 0
    assert all(later - earlier >= 4 * 2**20 for earlier, later in itertools.pairwise(starts))
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


def test_a_connection_that_only_breaks_is_given_up(wire, bucket, big, tmp_path, monkeypatch):
    # The client waits between its own attempts, as it should on a real network; here that took a minute.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    wire.cut_after, wire.cuts = 0, 10**6
    with pytest.raises(DownloadError, match="tumor_002"):
        fetch(bucket, big, tmp_path / "slide.tif", md5=None, wait_s=0.001)


@pytest.mark.slow
def test_a_killed_download_goes_on(camelyon, wire, tmp_path):
    call = [sys.executable, "-m", "wsi_vmamba", "download", "camelyon16", "--to", str(tmp_path), "--slides",
            "tumor_002", "--endpoint-url", wire.endpoint]  # fmt: skip
    wire.hold_after = 9_000_000
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert wire.held.wait(60)
    parts = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (not parts or parts[0].stat().st_size < 6_000_000):
        time.sleep(0.05)
        parts = list((tmp_path / "images").glob(".tumor_002.tif.*.part"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (tmp_path / BIG).exists()
    have = parts[0].stat().st_size
    assert have >= 6_000_000
    wire.hold_after = None
    wire.requests.clear()
    again = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / BIG).read_bytes() == camelyon.files[BIG]
    assert [span for path, span in wire.requests if path.endswith("tumor_002.tif")] == [f"bytes={have}-"]
    assert not list((tmp_path / "images").glob("*.part"))


def test_a_part_of_another_version_is_not_continued(camelyon, bucket, big, tmp_path):
    stale = tmp_path / ".slide.tif.0123456789.part"
    stale.write_bytes(b"x" * 1000)
    fetch(bucket, big, tmp_path / "slide.tif", md5=camelyon.md5[BIG])
    assert (tmp_path / "slide.tif").read_bytes() == camelyon.files[BIG]
    assert not stale.exists()


def test_damaged_content_never_gets_the_final_name(camelyon, bucket, big, tmp_path):
    part = part_path(tmp_path / "slide.tif", big)
    part.write_bytes(b"x" + camelyon.files[BIG][1:4000])
    with pytest.raises(DownloadError, match="MD5"):
        fetch(bucket, big, tmp_path / "slide.tif", md5=camelyon.md5[BIG])
    assert list(tmp_path.iterdir()) == []
    fetch(bucket, big, tmp_path / "slide.tif", md5=camelyon.md5[BIG])
    assert (tmp_path / "slide.tif").read_bytes() == camelyon.files[BIG]


def test_an_object_replaced_since_it_was_listed_is_refused(camelyon, bucket, tmp_path, monkeypatch):
    key = "CAMELYON16/images/normal_002.tif"
    file = bucket.list(key)[0]
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    try:
        camelyon.client.put_object(Bucket=camelyon.bucket, Key=key, Body=b"normal_00X", ACL="public-read")
        with pytest.raises(DownloadError, match=r"412|Precondition|pre-conditions"):
            fetch(bucket, file, tmp_path / "slide.tif", md5=None, wait_s=0.001)
    finally:
        camelyon.client.put_object(Bucket=camelyon.bucket, Key=key, Body=b"normal_002", ACL="public-read")


def test_what_cannot_fit_is_refused_before_the_first_byte(wire, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 2**30 + 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match=r"are to come and 1\.1 GB are free"):
        download.run(config(tmp_path / "data", wire.endpoint))
    assert not (tmp_path / "data").exists()


def test_a_failed_file_is_named_and_the_others_are_kept(camelyon, wire, tmp_path, capsys, monkeypatch):
    wrong = {**camelyon.md5, "images/tumor_001.tif": "0" * 32}
    listed = "".join(f"{digest} *{name}\n" for name, digest in wrong.items()).encode()
    monkeypatch.setattr(Bucket, "read", lambda self, key: listed)
    assert download.run(config(tmp_path, wire.endpoint)) is False
    assert "images/tumor_001.tif" in capsys.readouterr().err
    assert not (tmp_path / "images" / "tumor_001.tif").exists()
    assert (tmp_path / BIG).read_bytes() == camelyon.files[BIG]
    assert "images/tumor_001.tif" not in json.loads((tmp_path / "download.json").read_text())


def test_patterns_choose_slides_and_misspelt_ones_are_refused():
    assert len(REMOTE.slide_ids) == 399
    assert len(REMOTE.choose(["test_*"])) == 129
    assert REMOTE.choose(["tumor_002, normal_001", "test_001"]) == ("normal_001", "tumor_002", "test_001")
    assert REMOTE.choose(["tumor_00?", "normal_001"])[0] == "normal_001"
    for odd in ("normal_086", "test_049", "tumour_001"):
        with pytest.raises(UsageError, match="did you mean"):
            REMOTE.choose([odd])


def test_checksums_are_read_as_md5sum_writes_them():
    text = f"{'a' * 32} *images/a.tif\n{'B' * 32}  masks/b c.tif\n\nnot a line\n"
    assert parse_checksums(text) == {
        PurePosixPath("images/a.tif"): "a" * 32,
        PurePosixPath("masks/b c.tif"): "b" * 32,
    }


def test_check_reports_missing_extra_and_damaged(camelyon, tmp_path, capsys):
    download.run(config(tmp_path, camelyon.endpoint))
    asked = {"dataset": "camelyon16", "folder": str(tmp_path), "json_out": str(tmp_path / "found.json")}
    assert check.run(CheckConfig(**asked, slides=SLIDES, checksums=True)) is True
    content = bytearray((tmp_path / BIG).read_bytes())
    (tmp_path / BIG).write_bytes(content[: len(content) // 2])
    (tmp_path / "images" / "tumor_001.tif").unlink()
    (tmp_path / "images" / "normal_086.tif").write_bytes(b"old")
    (tmp_path / "images" / ".tumor_003.tif.abc.part").write_bytes(b"half")
    (tmp_path / "annotations" / "tumor_001.xml").write_text("<ASAP_Annotations><Annotations>")
    (tmp_path / "annotations" / "tumor_002.xml").unlink()
    assert check.run(CheckConfig(**asked, slides=SLIDES)) is False
    found = json.loads((tmp_path / "found.json").read_text())
    assert {(one["kind"], one["path"]) for one in found["findings"]} == {
        ("damaged", BIG),
        ("missing", "images/tumor_001.tif"),
        ("extra", "images/normal_086.tif"),
        ("extra", "images/.tumor_003.tif.abc.part"),
        ("damaged", "annotations/tumor_001.xml"),
        ("missing", "annotations/tumor_002.xml"),
    }
    assert "2 missing, 2 extra, 2 damaged" in capsys.readouterr().out
    # Without the list of sizes the file itself must betray that its end is gone.
    (tmp_path / "download.json").unlink()
    assert check.run(CheckConfig(**asked, slides=["tumor_002"])) is False
    assert json.loads((tmp_path / "found.json").read_text())["damaged"] == 2


def test_check_finds_a_flipped_byte_by_its_checksum(camelyon, tmp_path):
    download.run(config(tmp_path, camelyon.endpoint, slides=["tumor_001"]))
    path = tmp_path / "images" / "tumor_001.tif"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    asked = {"dataset": "camelyon16", "folder": str(tmp_path), "slides": ["tumor_001"]}
    assert check.run(CheckConfig(**asked)) is True
    assert check.run(CheckConfig(**asked, checksums=True)) is False


def test_check_without_a_folder_says_how_to_get_the_data(tmp_path):
    with pytest.raises(MissingDataError, match="wsi-vmamba download camelyon16"):
        check.run(CheckConfig(dataset="camelyon16", folder=str(tmp_path / "none")))


def test_without_botocore_the_extra_is_named(monkeypatch):
    from wsi_vmamba.datasets import bucket as room

    monkeypatch.setattr(room, "available", False)
    with pytest.raises(UsageError, match=r"wsi-vmamba\[download\]"):
        Bucket("b", region="r")
