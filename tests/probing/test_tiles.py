"""Tiles and cells as they are found: classes, groups, sites, masks; what is wrong with them is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_vmamba.errors import DatasetError, MissingDataError
from wsi_vmamba.probing.folds import cross_validation
from wsi_vmamba.probing.masked import find_cells, label_cells, read_classes
from wsi_vmamba.probing.tiles import find_tiles


def picture(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "b/3.tif"):
        picture(tmp_path / "tiles" / name, np.zeros((8, 8, 3)))
    return tmp_path / "tiles"


def test_groups_are_found_by_path_or_by_a_name_that_only_one_file_has(folder: Path) -> None:
    (folder / "groups.csv").write_text(
        "file,group,site\na/1.png,p,x\n2.jpg,p,x\n./b/1.png,q,x\nb\\3.tif,r,y\n"
    )
    found = find_tiles(folder)
    assert found.files == ("a/1.png", "a/2.jpg", "b/1.png", "b/3.tif")
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.groups.tolist() == ["p", "p", "q", "r"]
    assert found.sites is not None
    assert found.sites.tolist() == ["x", "x", "x", "y"]
    assert found.has_groups


def test_without_groups_each_tile_is_one(folder: Path) -> None:
    found = find_tiles(folder)
    assert not found.has_groups
    assert found.groups.tolist() == list(found.files)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,group\na/1.png,p\n", r"3 of 4 files have no line: a/2.jpg, b/1.png, b/3.tif"),
        ("file,group\na/9.png,p\n", r"line 2: there is no a/9.png in .*expected paths like a/1.png"),
        ("file,group\n1.png,p\n", r"line 2: 1.png is the name of 2 files; write it as a/1.png"),
        ("file,group\na/1.png,p\na/1.png,q\n", r"line 3: a/1.png is in two groups or sites, p and q"),
        ("file,group\na/1.png,\n", r"line 2: a/1.png has no group"),
        ("file,patient\na/1.png,p\n", r"group is missing"),
        ("file,group,site\na/1.png,p,\n", r"line 2: a/1.png has no site"),
    ],
)
def test_a_table_of_groups_that_does_not_fit_is_refused(folder: Path, table: str, message: str) -> None:
    (folder / "groups.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        find_tiles(folder)


def test_folders_that_cannot_be_judged_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no folder .*nowhere"):
        find_tiles(tmp_path / "nowhere")
    (tmp_path / "one" / "a").mkdir(parents=True)
    with pytest.raises(DatasetError, match="at least two classes"):
        find_tiles(tmp_path / "one")
    (folder / "groups.csv").write_text("file,group\na/1.png,p\na/2.jpg,p\nb/1.png,p\nb/3.tif,q\n")
    with pytest.raises(DatasetError, match="class 'a' is in one group only, p"):
        cross_validation(find_tiles(folder), seed=0)
    (folder / "groups.csv").write_text("file,group\na/1.png,p\na/2.jpg,p\nb/1.png,p\nb/3.tif,p\n")
    with pytest.raises(DatasetError, match=r"all 4 tiles are of one group, p.*--test"):
        cross_validation(find_tiles(folder), seed=0)


def test_groups_are_never_split(tmp_path: Path) -> None:
    lines = ["file,group"]
    for number in range(90):
        for name in "ab":
            picture(tmp_path / name / f"{number}.png", np.zeros((2, 2, 3)))
            lines.append(f"{name}/{number}.png,slide {number % 15}")
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    task = cross_validation(find_tiles(tmp_path), seed=0)
    assert task.scheme == "5 folds of 15 groups"
    assert sorted(np.concatenate([fold.test for fold in task.folds])) == list(range(180))
    for fold in task.folds:
        assert not set(task.groups[fold.train]) & set(task.groups[fold.test])
        assert len(fold.train) + len(fold.test) == 180


def test_a_limit_draws_of_each_class_and_keeps_what_belongs_together(tmp_path: Path) -> None:
    lines = ["file,group"]
    for name, count in (("a", 30), ("b", 3)):
        for number in range(count):
            picture(tmp_path / name / f"{number}.png", np.zeros((2, 2, 3)))
            lines.append(f"{name}/{number}.png,{name} {number}")
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    found = find_tiles(tmp_path).limited(5, seed=0)
    assert np.bincount(found.labels).tolist() == [5, 3]
    for file, group in zip(found.files, found.groups, strict=True):
        assert file == group.replace(" ", "/") + ".png"


def test_a_cell_has_the_class_that_covers_it() -> None:
    mask = np.zeros((20, 30), dtype=np.int64)
    mask[:8, :8] = 1  # all of the first cell
    mask[:8, 8:14] = 2  # three quarters of the second
    mask[8:16, 8:13] = 1  # five eighths: not enough
    mask[8:16, 16:20], mask[8:16, 20:24] = 1, 3  # two values of one class
    labels, places = label_cells(
        mask, {1: "tumour", 2: "stroma", 3: "tumour"}, ["stroma", "tumour"], cell_px=8, cover=0.75
    )
    assert places.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert labels.tolist() == [1, 0, 1]


def test_cells_come_from_masks_of_grey_values_palettes_and_colours(tmp_path: Path) -> None:
    values = np.kron([[1, 2], [0, 1]], np.ones((16, 16)))
    for stem in ("p", "q"):
        picture(tmp_path / "images" / f"{stem}.jpg", np.zeros((32, 32, 3)))
    palette = Image.fromarray(values.astype(np.uint8), mode=None).convert("P")
    palette.putdata(values.astype(np.uint8).ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    (tmp_path / "masks").mkdir()
    palette.save(tmp_path / "masks" / "p.png")
    picture(tmp_path / "masks" / "q.png", values)
    (tmp_path / "classes.csv").write_text("value,class\n1,tumour\n2,stroma\n")
    folders = (tmp_path / "images", tmp_path / "masks", tmp_path / "classes.csv")
    found = find_cells(*folders, groups=None, cell_px=16, cover=0.75)
    assert found.files == ("p.jpg@0,0", "p.jpg@16,0", "p.jpg@16,16", "q.jpg@0,0", "q.jpg@16,0", "q.jpg@16,16")
    assert [found.classes[label] for label in found.labels] == ["tumour", "stroma", "tumour"] * 2
    assert found.groups.tolist() == ["p.jpg"] * 3 + ["q.jpg"] * 3
    colours = np.array([[9, 9, 9], [255, 0, 0], [0, 128, 0]])[values.astype(int)]
    for stem in ("p", "q"):
        picture(tmp_path / "masks" / f"{stem}.png", colours)
    (tmp_path / "classes.csv").write_text("value,class\n#FF0000,tumour\n#008000,stroma\n")
    again = find_cells(*folders, groups=None, cell_px=16, cover=0.75)
    assert again.files == found.files
    assert again.labels.tolist() == found.labels.tolist()


def test_masks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "p.png", np.zeros((32, 32, 3)))
    picture(tmp_path / "masks" / "other.png", np.zeros((32, 32)))
    (tmp_path / "classes.csv").write_text("value,class\n1,tumour\n2,stroma\n")
    folders = (tmp_path / "images", tmp_path / "masks", tmp_path / "classes.csv")
    with pytest.raises(MissingDataError, match=r"no mask for 1 of 1 pictures: p.png"):
        find_cells(*folders, groups=None, cell_px=16, cover=0.75)
    picture(tmp_path / "masks" / "p.png", np.zeros((16, 32)))
    with pytest.raises(DatasetError, match=r"p.png has 32 x 16 px, its picture 32 x 32"):
        find_cells(*folders, groups=None, cell_px=16, cover=0.75)
    picture(tmp_path / "masks" / "p.png", np.ones((32, 32)))
    with pytest.raises(DatasetError, match="no cell of 16 px has 75% of stroma"):
        find_cells(*folders, groups=None, cell_px=16, cover=0.75)
    (tmp_path / "classes.csv").write_text("value,class\nred,tumour\n")
    with pytest.raises(DatasetError, match="line 2: expected a whole number or a colour like #ff0000"):
        read_classes(tmp_path / "classes.csv")
