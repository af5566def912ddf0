"""Which pixels are looked at: pictures and slides that colour each pixel by its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.analysis import windows
from wsi_vmamba.analysis.windows import find_windows, middle_of, stack
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.datasets.synthetic import TileBatch
from wsi_vmamba.errors import DatasetError, MissingMppError, UsageError


def by_place(width: int, height: int) -> np.ndarray:
    """Red and green tell x and y, modulo 251 and 241."""
    y, x = np.indices((height, width))
    return np.stack([x % 251, y % 241, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def config(*pictures: Path, **changes: object) -> AnalyseConfig:
    return AnalyseConfig(analysis="activation", pictures=[str(one) for one in pictures], **changes)


def test_the_square_of_a_picture_holds_the_pixel_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(by_place(200, 120)).save(path)
    for at, corner in (((100, 60), (68, 28)), ((3, 119), (0, 56)), ((199, 0), (136, 0))):
        (found,) = find_windows(config(path, at=at), side_px=64, count=1)
        assert found.corner_l0 == corner
        x, y = found.point_px
        assert tuple(found.pixels[y, x]) == (at[0], at[1], 90)
        assert tuple(found.pixels[0, 0, :2]) == corner
    (middle,) = find_windows(config(path), side_px=64, count=1)
    assert middle.corner_l0 == (68, 28)


def test_the_square_of_a_slide_holds_the_level_0_pixel_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path,
        by_place(640, 480),
        tile=(64, 64),
        photometric="rgb",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
    )
    (fine,) = find_windows(config(path, at=(250, 240), mpp=0.25), side_px=64, count=1)
    x, y = fine.point_px
    assert tuple(fine.pixels[y, x]) == (250, 240, 90)
    assert fine.l0_per_px == 1
    (coarse,) = find_windows(config(path, at=(230, 200), mpp=0.5), side_px=64, count=1)
    x, y = coarse.point_px
    # The mean of level-0 columns 230 and 231, rows 200 and 201.
    np.testing.assert_allclose(coarse.pixels[y, x], (230.5, 200.5, 90), atol=0.5)
    assert coarse.l0_per_px == 2
    assert coarse.corner_l0 == (230 - 64, 200 - 64)
    with pytest.raises(UsageError, match=r"640, 0 is outside .* 640 x 480 px"):
        find_windows(config(path, at=(640, 0)), side_px=64, count=1)


def test_squares_are_shared_among_pictures_and_drawn_from_the_seed(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(by_place(200, 120)).save(path)
    first, again = (find_windows(config(*paths, seed=4), side_px=48, count=5) for _ in range(2))
    assert [one.name for one in first] == [one.name for one in again]
    assert [one.name[0] for one in first] == list("aaabb")
    other = find_windows(config(*paths, seed=5), side_px=48, count=5)
    assert [one.name for one in other] != [one.name for one in first]
    for one in first:
        assert tuple(one.pixels[0, 0, :2]) == one.corner_l0
    assert stack(first).shape == (5, 48, 48, 3)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The calls of the painter of tissue, which colours pixels by their place instead."""
    calls: list[tuple[int, int, int]] = []

    def paint(seed: int, n: int, size_px: int) -> TileBatch:
        calls.append((seed, n, size_px))
        none = np.zeros((n, 1, 1), np.uint8)
        return TileBatch(
            images=np.stack([by_place(size_px, size_px)] * n), tissue=none, tumour=np.zeros(n, bool)
        )

    monkeypatch.setattr(windows, "sample_tiles", paint)
    return calls


def test_painted_squares_are_the_middles_of_tiles_of_the_seed(painter: list[tuple[int, int, int]]) -> None:
    found = find_windows(config(seed=7), side_px=100, count=2)
    assert painter == [(7, 2, 104)]
    assert [one.pixels.shape for one in found] == [(100, 100, 3)] * 2
    assert tuple(found[0].pixels[0, 0, :2]) == (2, 2)
    assert found[0].point_px == (50, 50)


def test_a_square_larger_than_a_scene_is_mirrored_around_its_middle(
    painter: list[tuple[int, int, int]],
) -> None:
    (wide,) = find_windows(config(), side_px=2404, count=1)
    assert painter == [(0, 1, 2400)]
    assert wide.name == "painted tissue 0, mirrored beyond 2400 px"
    assert wide.pixels.shape == (2404, 2404, 3)
    np.testing.assert_array_equal(wide.pixels[2:-2, 2:-2], by_place(2400, 2400))
    np.testing.assert_array_equal(wide.pixels[:2], wide.pixels[2:4][::-1])
    np.testing.assert_array_equal(wide.pixels[:, -2:], wide.pixels[:, -4:-2][:, ::-1])


def test_the_middle_of_a_square() -> None:
    np.testing.assert_array_equal(middle_of(by_place(100, 100), 20)[0, 0, :2], (40, 40))


def test_what_does_not_do_is_refused_with_what_would(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(by_place(200, 120)).save(path)
    with pytest.raises(UsageError, match=r"200 x 120 px, less than a square of 256 px; .* --region-px 120"):
        find_windows(config(path), side_px=256, count=1)
    with pytest.raises(UsageError, match=r"pixel 10, 120 is outside .*x is to be below 200 and y below 120"):
        find_windows(config(path, at=(10, 120)), side_px=64, count=1)
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(DatasetError, match=r"no such picture: .*absent\.png"):
        find_windows(config(tmp_path / "absent.png"), side_px=64, count=1)
    with pytest.raises(DatasetError, match="cannot be decoded"):
        find_windows(config(tmp_path / "bad.png"), side_px=64, count=1)
    tifffile.imwrite(tmp_path / "s.tif", by_place(128, 128), tile=(64, 64), photometric="rgb")
    with pytest.raises(MissingMppError, match="--mpp-override"):
        find_windows(config(tmp_path / "s.tif"), side_px=64, count=1)
