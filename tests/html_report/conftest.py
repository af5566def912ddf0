"""A run, predictions and features of small slides, one with a name that tries to be a script; and a reader of pages."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsi_vmamba as wv

MPP, PATCH_PX = 0.5, 32
WIDTH, HEIGHT = 320, 256
SLIDES, TRAINED = 18, 10
HOSTILE = "s11<script>alert('x')&\"<b>"
VOID = {"meta", "img", "br", "link", "input"}


def picture(index: int) -> np.ndarray:
    """Pink noise; in every second slide a dark square."""
    noise = np.random.default_rng(index).normal(0, 12, (HEIGHT, WIDTH, 3))
    found = np.array((205, 130, 175)) + noise
    if index % 2:
        found[64:160, 96:192] = np.array((80, 40, 130)) + noise[64:160, 96:192]
    return np.clip(found, 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: np.ndarray, *, mpp: float = MPP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None,
        resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report-cohort")
    rows = []
    for index in range(SLIDES):
        name = HOSTILE if index == 11 else f"s{index:02d}"
        path = write_slide(folder / "slides" / f"file{index:02d}.tif", picture(index))
        split = "train" if index < TRAINED else "test"
        # Two labels are wrong, so that not all is right.
        label = index % 2 if index not in (13, 16) else 1 - index % 2
        rows.append([name, str(path), f"patient{index:02d}", label, split])
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "path", "patient_id", "label", "split"])
        writer.writerows(rows)
    outcomes = wv.extract(
        folder / "cohort.csv", out=folder / "features", backbone="null", segmenter="all", patch_px=PATCH_PX,
        region_px=320, min_tissue=0.2, target_mpp=MPP,
    )  # fmt: skip
    assert outcomes.ok
    return folder


@pytest.fixture(scope="session")
def train_run(cohort: Path):
    def train(runs: Path, **changes: object) -> wv.Run:
        values = {
            "dataset": "csv", "manifest": cohort / "cohort.csv", "features": cohort / "features", "runs": runs,
            "name": "run", "epochs": 6, "learning_rate": 5e-3, "hidden_dim": 16, "dropout": 0.0, "progress": False,
            "aggregator": "abmil", **changes,
        }  # fmt: skip
        return wv.train(**values)

    return train


@pytest.fixture(scope="session")
def run(train_run, tmp_path_factory: pytest.TempPathFactory) -> wv.Run:
    return train_run(tmp_path_factory.mktemp("report-run"))


@pytest.fixture(scope="session")
def predictions(run: wv.Run, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report-predictions") / "predictions"
    run.predict_all(cohort / "features", out=out, progress=False)
    return out


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str) -> list[Node]:
        found = [self] if self.tag == tag else []
        for child in self.children:
            if isinstance(child, Node):
                found += child.all(tag)
        return found

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()


class Page(HTMLParser):
    """A page as a tree; a tag that is not closed where it should be fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.root = Node("root", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], [node.tag for node in self._open]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag):
        assert self._open[-1].tag == tag, f"</{tag}> in <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data):
        self._open[-1].children.append(data)

    def table(self, caption: str) -> list[list[str]]:
        """Rows of the table whose caption begins so."""
        (found,) = (one for one in self.root.all("table") if one.all("caption")[0].text.startswith(caption))
        return [[cell.text for cell in row.all("th") + row.all("td")] for row in found.all("tr")]

    def chart(self, title: str) -> Node:
        (found,) = (one for one in self.root.all("svg") if one.all("title")[0].text == title)
        return found

    def section(self, anchor: str) -> Node:
        return next(one for one in self.root.all("section") if one.attributes["aria-labelledby"] == anchor)


def points_of(chart: Node, *, place: int) -> list[tuple[float, float]]:
    """Points of a curve, in the units of the axes."""
    lines = [one for one in chart.all("polyline") if "curve" in one.attributes["class"]]
    pairs = (pair.split(",") for pair in lines[place].attributes["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


@pytest.fixture
def parse():
    return Page


@pytest.fixture
def points():
    return points_of


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def slide_writer():
    return write_slide


@pytest.fixture(scope="session")
def slide_picture():
    return picture
