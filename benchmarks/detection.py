"""Detection of generated nuclei: average precision on pictures that chose nothing, and on a large one in windows.

    OMP_NUM_THREADS=1 python benchmarks/detection.py                # the figure of the README
    OMP_NUM_THREADS=1 python benchmarks/detection.py --quick        # the same code at its smallest

The detector is that of the documented command, ``wsi-vmamba train-detector painted --width 64 --learning-rate 0.001
--epochs 4``: 48 painted pictures of 256 px, of four epochs the best, chosen on ten others. It is then judged on more of
them (``--pictures``), and on one of ``--large-px`` in windows of each size of ``--windows``. Needs the extra
``detection``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import wsi_vmamba as wv
from wsi_vmamba.datasets.synthetic.nucleus_pictures import NUCLEI, paint_nuclei
from wsi_vmamba.detection.average_precision import COCO_MOST, COCO_OVERLAPS, PrecisionCounter
from wsi_vmamba.detection.painted import objects_of

SETTINGS = {"width": 64, "learning_rate": 1e-3, "epochs": 4}
QUICK = {"width": 16, "painted_pictures": 2, "epochs": 1}
#: Seed of the pictures that are judged; training paints with twice its own seed, and one more.
JUDGED_SEED = 10_001
#: As in training: objects below this score do not change an average precision that is worth anything.
LEAST_SCORE = 0.05


def train(folder: Path, *, quick: bool) -> wv.OpenDetector:
    """Train, or go on with a training that was stopped, or take one that is finished."""
    return wv.train_detector("painted", out=folder, resume=True, **(QUICK if quick else SETTINGS))


def of_pictures(detector: wv.OpenDetector, *, count: int) -> dict[str, float]:
    """Average precision on pictures of the size that was learned from."""
    half = {of: PrecisionCounter((0.5,), of=of) for of in ("masks", "boxes")}
    over = {of: PrecisionCounter(COCO_OVERLAPS, of=of, most=COCO_MOST) for of in ("masks", "boxes")}
    nuclei = 0
    for index in range(count):
        picture = paint_nuclei(JUDGED_SEED, index)
        found, known = detector.picture(picture.image, least_score=LEAST_SCORE), objects_of(picture)
        nuclei += len(known)
        for counter in (*half.values(), *over.values()):
            counter.add(found, known)
    return {
        "pictures": count,
        "nuclei": nuclei,
        **{f"{of}_at_half": counter.at(0.5).mean for of, counter in half.items()},
        **{of: counter.mean() for of, counter in over.items()},
    }


def of_large(detector: wv.OpenDetector, *, side_px: int, window_px: int) -> dict[str, Any]:
    """Average precision of masks at an overlap of 0.5 on one large picture, in all and of each kind."""
    picture = paint_nuclei(JUDGED_SEED + 2, 0, side_px=side_px)
    known = objects_of(picture)
    began = time.process_time()
    counter = PrecisionCounter((0.5,), of="masks")
    counter.add(detector.picture(picture.image, window_px=window_px, least_score=LEAST_SCORE), known)
    found = counter.at(0.5)
    return {
        "window_px": window_px,
        "nuclei": len(known),
        "masks_at_half": found.mean,
        "of_kinds": {NUCLEI[label]: value for label, value in found.by_class.items()},
        "cpu_s": time.process_time() - began,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    chosen, one = figures["validation"]["masks_at_half"], figures["pictures"]
    print(
        f"best epoch {figures['best_epoch']}, {figures['cpu_s']:.0f} CPU s: masks at 0.5 {chosen:.3f} on the pictures "
        "that chose it"
    )
    print(
        f"{one['pictures']} other pictures, {one['nuclei']} nuclei: masks at 0.5 {one['masks_at_half']:.3f}, boxes "
        f"{one['boxes_at_half']:.3f}; 0.5 to 0.95 masks {one['masks']:.3f}, boxes {one['boxes']:.3f}"
    )
    print("\n| windows | masks at 0.5 | of kinds | CPU s |\n| --- | --- | --- | --- |")
    for row in figures["large"]:
        kinds = ", ".join(f"{name} {value:.2f}" for name, value in row["of_kinds"].items())
        print(f"| {row['window_px']} px | {row['masks_at_half']:.3f} | {kinds} | {row['cpu_s']:.0f} |")


def main() -> None:
    """Train, judge, print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two pictures, one epoch")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--large-px", type=int, default=700)
    parser.add_argument("--windows", nargs="*", type=int, default=[256, 512, 1024])
    parser.add_argument("--work", type=Path, help="keep the detector here; a training goes on there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        began = time.process_time()
        detector = train(arguments.work or Path(temporary) / "detector", quick=arguments.quick)
    best = detector.best
    figures: dict[str, Any] = {
        "cpu_s": time.process_time() - began,
        "best_epoch": best.epoch,
        "validation": {"masks_at_half": best.mask_ap50, "masks": best.mask_ap},
        "pictures": of_pictures(detector, count=arguments.pictures),
        "large": [
            of_large(detector, side_px=arguments.large_px, window_px=window) for window in arguments.windows
        ],
    }
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
