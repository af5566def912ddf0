"""Fixtures every room shares: reference numbers, and real slides if they are here; one thread; hostile files;
small slides that are quick to make, and the extract command on them."""

from __future__ import annotations

import csv
import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np

    from wsi_vmamba.config import ExtractConfig

# Tests run beside each other, one process to a core, and torch's threads spin while they wait: several processes with
# several threads took twice the CPU time. Here, for torch reads it once; the commands that tests start inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

ROOT = Path(__file__).resolve().parents[1]
#: Side of the patches of made-up features, in level-0 pixels.
PATCH_L0 = 256
GOLDEN = Path(__file__).with_name("golden")


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: the garbage collector need not look through it each time."""
    gc.freeze()


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} does not name a folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    return _folder("WSI_VMAMBA_REAL_DATA", "../shared/data")


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference numbers of `tests/golden`, unpacked; everybody has them, so nothing is skipped for want of them."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    with tarfile.open(GOLDEN / "froc.tar.xz") as archive:
        archive.extractall(folder / "froc", filter="data")
    return folder


@pytest.fixture(scope="session")
def large_golden() -> Path:
    """The larger set of reference numbers, where there is one."""
    return _folder("WSI_VMAMBA_GOLDEN", "../shared/golden")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch, and the kernels that ask it how many threads to use, on two."""
    import torch  # most tests need none, and it is slow to import

    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def serve_hostile() -> Iterator[Callable[..., Callable[[Path | str], dict[str, object]]]]:
    """Start `hostile_server.py`, which opens a file in a process of its own and reports error, time and memory.

    What is called with words for its command line, and returns what is called with the path or URL of a file.
    """
    servers: list[subprocess.Popen[str]] = []

    def start(*words: str) -> Callable[[Path | str], dict[str, object]]:
        program = [sys.executable, str(Path(__file__).with_name("hostile_server.py")), *words]
        server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        servers.append(server)

        def ask(path: Path | str) -> dict[str, object]:
            assert server.stdin is not None
            assert server.stdout is not None
            print(json.dumps(str(path)), file=server.stdin, flush=True)
            found: dict[str, object] = json.loads(server.stdout.readline())
            return found

        return ask

    yield start
    for server in servers:
        server.communicate()


@pytest.fixture(scope="session")
def write_tiny_slide() -> Callable[..., Path]:
    """Write a pink, noisy slide of 640 x 512 px at 0.5 um in JPEG tiles of 64 px, with one level of a quarter."""

    import numpy as np
    import tifffile

    def write(path: Path, seed: int = 0, *, width: int = 640, height: int = 512, **options: object) -> Path:
        generator = np.random.default_rng(seed)
        rgb = np.clip(generator.normal((200, 120, 170), 25, (height, width, 3)), 0, 255).astype(np.uint8)
        options = {"compression": "jpeg", "tile": (64, 64), "photometric": "rgb", **options}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(path) as tif:
            for factor in (1, 4):
                per_cm = 20_000 / factor
                tif.write(
                    rgb[::factor, ::factor],
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(factor > 1),
                    metadata=None,
                    **options,
                )
        return path

    return write


@pytest.fixture
def tiny_slides(tmp_path: Path, write_tiny_slide: Callable[..., Path]) -> Path:
    """A folder of three slides; those of a test may be damaged."""
    for index in range(3):
        write_tiny_slide(tmp_path / "slides" / f"s{index}.tif", index)
    return tmp_path / "slides"


@pytest.fixture(scope="session")
def extract_config() -> Callable[..., ExtractConfig]:
    """Settings that cut a tiny slide into 4 regions of 80 patches."""
    from wsi_vmamba.config import ExtractConfig

    def make(slides: Path, out: Path, **changes: object) -> ExtractConfig:
        values = {"slides": str(slides), "out": str(out), "backbone": "null", "segmenter": "all"}
        return ExtractConfig.model_validate({**values, "patch_px": 64, "region_px": 320, **changes})

    return make


@pytest.fixture(scope="session")
def read_outcomes() -> Callable[[Path], dict[str, dict[str, str]]]:
    """Rows of the table of an output folder, by slide."""

    def read(out: Path) -> dict[str, dict[str, str]]:
        with (out / "extract.csv").open() as file:
            return {row["slide_id"]: row for row in csv.DictReader(file)}

    return read


@pytest.fixture(scope="session")
def store_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Every byte of the feature files in a folder, hidden leftovers included; the run's own records left out."""

    def read(out: Path) -> dict[str, bytes]:
        records = {"extract.csv", "extract.yaml", "extract.run.json"}
        return {
            str(file.relative_to(out)): file.read_bytes()
            for file in sorted(out.rglob("*"))
            if file.is_file() and file.name not in records
        }

    return read


@pytest.fixture(scope="session")
def write_cohort() -> Callable[..., None]:
    """Write features of slides s00, s01 ..., every second one of a tumour, and cohort.csv with the last as test slides.

    ``draw(index, tumour)`` gives a slide's patches, float32 (rows, columns, dim); other columns of the CSV go by name.
    """

    def write(
        folder: Path,
        draw: Callable[[int, bool], np.ndarray],
        *,
        slides: int,
        train: int,
        **columns: list[str],
    ) -> None:
        with (folder / "cohort.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["slide_id", "path", "label", "split", *columns])
            for index in range(slides):
                slide_id, tumour = f"s{index:02d}", index % 2 == 1
                _write_patches(folder / "features", slide_id, draw(index, tumour))
                split = "train" if index < train else "test"
                more = [values[index] for values in columns.values()]
                writer.writerow([slide_id, f"{slide_id}.tif", int(tumour), split, *more])

    return write


@pytest.fixture(scope="session")
def write_patches() -> Callable[..., None]:
    """Write the features of one slide: folder, slide_id, patches float32 (rows, columns, dim)."""
    return _write_patches


def _write_patches(folder: Path, slide_id: str, patches: np.ndarray) -> None:
    import numpy as np

    from wsi_vmamba.store import FeatureMeta, FeatureWriter

    rows, columns, dim = patches.shape
    corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * PATCH_L0
    meta = FeatureMeta(
        slide_id=slide_id, slide_path=f"{slide_id}.tif", reader="tiff", mpp=0.5, mpp_source="override",
        target_mpp=0.5, patch_px=PATCH_L0, patch_l0=float(PATCH_L0), segmenter="otsu", model="null", weights_hash="0",
        plan={"width_l0": columns * PATCH_L0, "height_l0": rows * PATCH_L0}, precision="fp32", versions={},
    )  # fmt: skip
    with FeatureWriter(folder / f"{slide_id}.zarr", meta, dim) as writer:
        writer.append(patches.reshape(-1, dim), corners.astype(np.int64))
        writer.commit()


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """`fake_timm.py`: a stand-in for timm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("fake_timm")


@pytest.fixture
def install_timm(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Put the stand-in in timm's place; gives the module."""

    def install(*arguments: object, **options: object) -> ModuleType:
        module = fakes.fake_timm(*arguments, **options)
        monkeypatch.setitem(sys.modules, "timm", module)
        return module

    return install


#: Left, top, right and bottom of the dark square, level-0 pixels.
DARK = (256, 128, 448, 320)


@pytest.fixture(scope="session")
def write_dark() -> Callable[..., Path]:
    """Write a slide of 640 x 512 px at 0.5 um: tissue but for glass of 64 px around, and a dark square in it."""

    import numpy as np
    import tifffile

    def write(path: Path, *, seed: int = 0, dark: tuple[int, int, int, int] | None = DARK) -> Path:
        generator = np.random.default_rng(seed)
        rgb = np.full((512, 640, 3), 244, np.uint8)
        tissue = generator.normal((215, 150, 190), 8, (384, 512, 3))
        rgb[64:448, 64:576] = np.clip(tissue, 0, 255).astype(np.uint8)
        if dark is not None:
            left, top, right, bottom = dark
            rgb[top:bottom, left:right] = np.clip(
                generator.normal((90, 40, 120), 8, (bottom - top, right - left, 3)), 0, 255
            ).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            path, rgb, tile=(128, 128), photometric="rgb", compression="adobe_deflate", metadata=None,
            resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
        )  # fmt: skip
        return path

    return write


@pytest.fixture(scope="session")
def write_outlines() -> Callable[..., Path]:
    """Write a GeoJSON of boxes (left, top, right, bottom) with the class of each, None for no class."""

    import json

    def write(path: Path, *boxes: tuple[tuple[float, float, float, float], str | None]) -> Path:
        features = [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [
                        [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
                    ],
                },
                "properties": {} if name is None else {"classification": {"name": name}},
            }
            for (left, top, right, bottom), name in boxes
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write
