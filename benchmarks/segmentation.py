"""Segmentation on a generated cohort: Dice, IoU and lesion FROC of held-out slides, and the cost of one region.

    OMP_NUM_THREADS=1 python benchmarks/segmentation.py                 # 24 slides, ten rounds
    OMP_NUM_THREADS=1 python benchmarks/segmentation.py --quick         # the same code on the smallest cohort
    OMP_NUM_THREADS=1 python benchmarks/segmentation.py --only-cost --sides 2048 4096

The held-out slides are segmented with regions of each size of ``--regions``: as large as a training square, a window
knows nothing of its surroundings; at 10,000 px the whole slide is one pass. Cost is of a process of its own: CPU
seconds, and the peak of memory less what was held before (interpreter, torch, weights, pixels).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import wsi_vmamba as wv
from wsi_vmamba.datasets.synthetic.cohort import generate_cohort
from wsi_vmamba.datasets.synthetic.spec import CohortSpec
from wsi_vmamba.inference.memory import peak_resident_bytes, resident_bytes
from wsi_vmamba.segmentation.model import Segmenter, SegmenterSpec
from wsi_vmamba.segmentation.predict import RegionSegmenter

FULL = {"epochs": 10, "crops": 128, "batch": 8, "crop_px": 256, "validation_crops": 48}
QUICK = {"epochs": 1, "crops": 8, "batch": 4, "crop_px": 128, "validation_crops": 4, "channels": 16}
QUICK_COHORT = {"slides": 8, "width_px": (700, 900), "height_px": (600, 800), "test_fraction": 0.4}


def scores_of(cohort: Path, segmenter: Path, out: Path, *, region_px: int) -> dict[str, Any]:
    """Segment the test slides in regions of one size, and judge them."""
    began = time.process_time()
    found = wv.segment(segmenter, cohort / "manifest.csv", split="test", out=out, region_px=region_px)
    assert found.ok, found.rows
    assert found.scores is not None
    (tumour,) = found.scores.classes
    froc = found.scores.froc
    return {
        "region_px": region_px,
        "cpu_s": time.process_time() - began,
        "dice": tumour.dice,
        "dice_ci95": tumour.dice_ci95,
        "iou": tumour.iou,
        "iou_ci95": tumour.iou_ci95,
        "froc": None if froc is None else froc.value_without_quirks,
        "froc_ci95": None if froc is None else froc.ci95_without_quirks,
        "lesions": 0 if froc is None else froc.n_lesions,
    }


def cost_here(side_px: int) -> dict[str, float]:
    """One region of noise through pico and a head of 64 channels, in this process."""
    from wsi_vmamba.model.build import variant

    spec = SegmenterSpec(
        backbone="vmamba_pico", classes=("tumour",), outside="background", target_mpp=0.5, crop_px=512, channels=64,
        pool_scales=(1, 2, 3, 6),
    )  # fmt: skip
    at_work = RegionSegmenter(
        Segmenter(spec, variant("vmamba_pico", num_classes=1, weights=None, seed=0)), device="cpu"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    held, began = resident_bytes(), time.process_time()
    cells = sum(shares.shape[1] * shares.shape[2] for _, shares in at_work.bands(pixels))
    assert cells == (side_px // 4) ** 2
    return {"cpu_s": time.process_time() - began, "peak_bytes": peak_resident_bytes() - held}


def cost(side_px: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--cost-here", str(side_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def shown(value: float | None, interval: tuple[float, float] | None) -> str:
    """A figure with its interval."""
    if value is None or value != value or interval is None:
        return "not defined"
    return f"{value:.3f}" + (
        "" if interval[0] != interval[0] else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    )


def accuracy(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Paint, train and judge."""
    spec = CohortSpec(**({"slides": 24} | (QUICK_COHORT if arguments.quick else {})), seed=arguments.seed)
    cohort = Path(arguments.cohort) if arguments.cohort else folder / "cohort"
    if not arguments.cohort:
        generate_cohort(spec, cohort)
    settings = QUICK if arguments.quick else FULL
    segmenter = folder / "segmenter"
    wv.train_segmenter(cohort / "manifest.csv", out=segmenter, resume=True, seed=arguments.seed, **settings)
    rows = [
        scores_of(cohort, segmenter, folder / f"masks-{region_px}", region_px=region_px)
        for region_px in arguments.regions
    ]
    print(
        "\n| region | Dice | IoU | FROC | lesions that count | CPU s |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        print(
            f"| {row['region_px']} px | {shown(row['dice'], row['dice_ci95'])} | {shown(row['iou'], row['iou_ci95'])} "
            f"| {shown(row['froc'], row['froc_ci95'])} | {row['lesions']} | {row['cpu_s']:.0f} |",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smallest cohort, one round")
    parser.add_argument("--regions", nargs="+", type=int, default=[256, 10_000])
    parser.add_argument("--sides", nargs="*", type=int, default=[2048])
    parser.add_argument("--only-cost", action="store_true", help="leave the cohort out")
    parser.add_argument("--cohort", help="a cohort that was painted before")
    parser.add_argument("--work", type=Path, help="keep model and masks here; a training goes on there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cost-here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cost_here:
        print(json.dumps(cost_here(arguments.cost_here)))
        return
    found: dict[str, Any] = {"cost": {}}
    for side_px in arguments.sides:
        found["cost"][side_px] = one = cost(side_px)
        print(
            f"one region of {side_px} px: {one['cpu_s']:.1f} CPU s, {one['peak_bytes'] / 1e9:.2f} GB",
            flush=True,
        )
    if not arguments.only_cost:
        with tempfile.TemporaryDirectory() as temporary:
            found["scores"] = accuracy(arguments, arguments.work or Path(temporary))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
