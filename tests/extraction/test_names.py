"""Slides of equal names in different folders: never one file for two slides, never another name for the same slide."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.errors import UsageError
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features


@pytest.fixture
def archive(tmp_path: Path, write_tiny_slide) -> Path:
    """a/slide.tif and b/slide.tif, of the same size in pixels."""
    for seed, folder in enumerate("ab"):
        write_tiny_slide(tmp_path / "archive" / folder / "slide.tif", seed)
    return tmp_path / "archive"


def ids(folder: Path, **how: bool) -> list[str]:
    return [source.slide_id for source in find_sources(str(folder), **how)]


def test_equal_names_are_refused_with_both_files_and_a_manifest_that_works(archive: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="2 slides are named 'slide'") as caught:
        find_sources(str(archive))
    said = str(caught.value)
    assert str(archive / "a" / "slide.tif") in said
    assert str(archive / "b" / "slide.tif") in said
    assert "ids_from_path=true" in said
    shown = said[said.index("  slide_id,path") :]
    manifest = tmp_path / "elsewhere" / "slides.csv"
    manifest.parent.mkdir()
    manifest.write_text("\n".join(line.strip() for line in shown.splitlines()) + "\n")
    assert [(r.slide_id, r.path) for r in read_manifest(manifest, root=manifest.parent)] == [
        ("a__slide", archive / "a" / "slide.tif"),
        ("b__slide", archive / "b" / "slide.tif"),
    ]


def test_a_name_does_not_change_when_its_like_is_added(archive: Path, write_tiny_slide):
    (archive / "b" / "slide.tif").unlink()
    assert ids(archive) == ["slide"]
    assert ids(archive, ids_from_path=True) == ["a__slide"]
    write_tiny_slide(archive / "c" / "deep" / "slide.tif")
    write_tiny_slide(archive / "other.tif")
    assert ids(archive, ids_from_path=True) == ["a__slide", "c__deep__slide", "other"]
    assert ids(archive / "other.tif", ids_from_path=True) == ["other"]


def test_names_that_collide_even_with_their_folders_are_refused(archive: Path, write_tiny_slide):
    write_tiny_slide(archive / "a__slide.tif")
    with pytest.raises(UsageError, match="2 slides are named 'a__slide'"):
        find_sources(str(archive), ids_from_path=True)


def test_a_name_too_long_for_a_file_is_refused(tmp_path: Path, write_tiny_slide):
    write_tiny_slide(tmp_path / ("x" * 100) / ("y" * 100) / "slide.tif")
    with pytest.raises(UsageError, match="more than 150 bytes; give a CSV"):
        find_sources(str(tmp_path), ids_from_path=True)


def test_extraction_with_folders_in_the_names_resumes(
    archive: Path, tmp_path: Path, extract_config, read_outcomes
):
    config = extract_config(archive, tmp_path / "out", ids_from_path=True)
    assert extract.run(config) is True
    assert sorted(path.name for path in (tmp_path / "out").glob("*.zarr")) == [
        "a__slide.zarr",
        "b__slide.zarr",
    ]
    first, second = (open_features(tmp_path / "out" / f"{folder}__slide.zarr") for folder in "ab")
    assert first.meta.slide_id == "a__slide"
    assert not np.array_equal(first.features, second.features)
    assert extract.run(config) is True
    assert {row["outcome"] for row in read_outcomes(tmp_path / "out").values()} == {"already done"}


def test_features_of_a_namesake_are_not_taken_for_a_slides_own(
    archive: Path, tmp_path: Path, extract_config, read_outcomes
):
    out = tmp_path / "out"
    assert extract.run(extract_config(archive / "a", out)) is True
    assert extract.run(extract_config(archive / "b", out)) is False
    row = read_outcomes(out)["slide"]
    assert row["outcome"] == "failed"
    assert str(archive / "a" / "slide.tif") in row["detail"]
    assert str(archive / "b" / "slide.tif") in row["detail"]


def test_slides_may_be_copied_and_moved(archive: Path, tmp_path: Path, extract_config, read_outcomes):
    out = tmp_path / "out"
    assert extract.run(extract_config(archive / "a", out)) is True
    shutil.copytree(archive / "a", tmp_path / "copied")
    assert extract.run(extract_config(tmp_path / "copied", out)) is True
    (archive / "a").rename(tmp_path / "moved")
    assert extract.run(extract_config(tmp_path / "moved", out)) is True
    assert read_outcomes(out)["slide"]["outcome"] == "already done"


def test_folders_of_a_url_name_slides_too(monkeypatch: pytest.MonkeyPatch):
    found = [f"s3://bucket/study/{folder}/slide.zarr" for folder in ("a", "b/c")]
    monkeypatch.setattr("wsi_vmamba.slide.remote.find_remote_slides", lambda url: found)
    sources = find_sources("s3://bucket/study/", ids_from_path=True)
    assert [source.slide_id for source in sources] == ["a__slide", "b__c__slide"]
    with pytest.raises(UsageError, match=r"\n  a__slide,s3://bucket/study/a/slide.zarr\n"):
        find_sources("s3://bucket/study/")
