"""What the surroundings of a patch are worth to its features: the same patches in regions of several sizes.

    python benchmarks/context.py SLIDE --target-mpp 1.0 --patch-px 128 --sizes 256 1024 4096 10000 --json out.json

**cuts**: the slide is extracted with regions of each size and in one pass. Of each patch, the difference between its
features and those of the whole pass is given as cosine, and as a share of the spread (how far features of two patches
of the slide lie apart, median): 1 means that the cut moves a patch as far as another patch is away. Patches at a cut
(one of the eight around is tissue and in another region) stand apart from those that have three patches of their own
region or of glass on every side.

**felt**: a square of ``--window-px`` in the middle of the tissue is encoded as it is, and with one patch replaced by
another of the slide, ``--changes`` times. How far the others move, again as a share of the spread, by their distance
from it: those in its row or column of patches, which a scan reaches straight, and all others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import wsi_vmamba as wv
from wsi_vmamba.encode import Encoder, build_encoder
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.slide import open_slide
from wsi_vmamba.stream import read_target

Floats = NDArray[np.float64]
#: Patches on every side that a patch in the middle of a region has.
DEEP = 3
#: Distances in patches; each stands for itself and what is nearer than the next.
DISTANCES = (1, 2, 3, 5, 8, 12, 20)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print two tables, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    encoder = build_encoder(options.model, weights=options.weights, precision=options.precision, device="cpu")
    whole = _embed(options, encoder, "whole")
    spread = _spread(whole.features.astype(np.float64))
    found = {
        "slide": Path(options.slide).name,
        "options": {name: str(value) for name, value in vars(options).items() if name != "slide"},
        "patches": len(whole),
        "spread": spread,
        "cuts": {size: _cut(_embed(options, encoder, size), whole, spread) for size in options.sizes},
        "felt": _felt(options, encoder, whole, spread),
    }
    _show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _embed(options: argparse.Namespace, encoder: Encoder, region_px: int | str) -> wv.Embedding:
    return wv.embed(
        options.slide, encoder=encoder, region_px=region_px, target_mpp=options.target_mpp, patch_px=options.patch_px,
        mpp_override=options.mpp, segmenter=options.segmenter,
        scratch=options.scratch if region_px == "whole" else None,
    )  # fmt: skip


def _spread(features: Floats, pairs: int = 20_000) -> float:
    """Median distance between the features of two patches."""
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, len(features), size=(2, pairs))
    other = first != second
    return float(np.median(np.linalg.norm(features[first[other]] - features[second[other]], axis=1)))


def _cut(cut: wv.Embedding, whole: wv.Embedding, spread: float) -> dict[str, Any]:
    plan = RegionPlan.from_dict(cut.meta.plan)
    region_of = {tuple(patch): region.index for region in plan.regions for patch in region.patches.tolist()}
    places = [tuple(place) for place in plan.patches_at(cut.coords_l0).tolist()]
    rows = {tuple(place): row for row, place in enumerate(plan.patches_at(whole.coords_l0).tolist())}
    a = cut.features.astype(np.float64)
    b = whole.features.astype(np.float64)[[rows[place] for place in places]]
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    moved = np.linalg.norm(a - b, axis=1) / spread
    at_cut = np.array([_meets_other(place, region_of, 1) for place in places])
    deep = np.array([not _meets_other(place, region_of, DEEP) for place in places])
    found: dict[str, Any] = {"regions": len(plan.regions)}
    for name, kept in (("all", np.full(len(a), True)), ("at a cut", at_cut), ("in the middle", deep)):
        found[name] = {"patches": int(kept.sum())}
        if kept.any():
            found[name] |= {
                "cosine": float(np.median(cosine[kept])),
                "cosine, 5th percentile": float(np.percentile(cosine[kept], 5)),
                "moved": float(np.median(moved[kept])),
                "moved, 95th percentile": float(np.percentile(moved[kept], 95)),
            }
    return found


def _meets_other(place: tuple[int, ...], region_of: dict[tuple[int, ...], int], reach: int) -> bool:
    """Whether a patch within so many columns and rows is tissue of another region."""
    column, row = place
    around = range(-reach, reach + 1)
    mine = region_of[place]
    return any(region_of.get((column + i, row + j), mine) != mine for i in around for j in around)


def _felt(
    options: argparse.Namespace, encoder: Encoder, whole: wv.Embedding, spread: float
) -> list[dict[str, Any]]:
    plan = RegionPlan.from_dict(whole.meta.plan)
    patches = plan.patches_at(whole.coords_l0)
    side = options.window_px // options.patch_px
    column, row = (np.median(patches, axis=0).astype(int) - side // 2).tolist()
    draw = np.random.default_rng(1)
    px = options.patch_px
    with open_slide(options.slide) as slide:
        window = _read(slide, plan, column, row, side)
        others = [
            _read(slide, plan, *patch, 1)
            for patch in patches[draw.integers(len(patches), size=options.changes)].tolist()
        ]
    before = _pooled(encoder, window, px)
    straight: list[tuple[int, float]] = []
    aside: list[tuple[int, float]] = []
    for other in others:
        at_row, at_column = draw.integers(side // 4, side - side // 4, size=2).tolist()
        changed = window.copy()
        changed[at_row * px : (at_row + 1) * px, at_column * px : (at_column + 1) * px] = other
        moved = np.linalg.norm(_pooled(encoder, changed, px) - before, axis=-1) / spread
        for (i, j), value in np.ndenumerate(moved):
            rows, columns = abs(i - at_row), abs(j - at_column)
            (aside if rows and columns else straight).append((max(rows, columns), float(value)))
    edges = [*DISTANCES, side]
    return [
        {"patches": low, "straight": _median(straight, low, high), "aside": _median(aside, low, high)}
        for low, high in zip([0, *edges[:-1]], edges, strict=True)
        if low < side // 2
    ]


def _read(slide: Any, plan: RegionPlan, column: int, row: int, side: int) -> NDArray[np.uint8]:
    px = plan.spec.patch_px
    return read_target(slide, plan, x_px=column * px, y_px=row * px, width_px=side * px, height_px=side * px)


def _pooled(encoder: Encoder, pixels: NDArray[np.uint8], patch_px: int) -> Floats:
    """Mean tokens of each patch, (rows, columns, dim)."""
    tokens = np.asarray(encoder.encode(pixels), dtype=np.float64)
    side, each = len(pixels) // patch_px, patch_px // encoder.stride_px
    found: Floats = tokens.reshape(side, each, side, each, -1).mean(axis=(1, 3))
    return found


def _median(values: list[tuple[int, float]], low: int, high: int) -> float | None:
    chosen = [value for distance, value in values if low <= distance < high]
    return float(np.median(chosen)) if chosen else None


def _show(found: dict[str, Any]) -> None:
    print(
        "| regions of at most | which patches | how many | cosine (5th percentile) | moved (95th percentile) |"
    )
    print("| --- | --- | --- | --- | --- |")
    for size, cut in found["cuts"].items():
        for name in ("all", "at a cut", "in the middle"):
            one = cut[name]
            if "cosine" in one:
                cosine = f"{one['cosine']:.4f} ({one['cosine, 5th percentile']:.4f})"
                moved = f"{one['moved']:.3f} ({one['moved, 95th percentile']:.3f})"
                print(f"| {size} px | {name} | {one['patches']} | {cosine} | {moved} |")
    print("\n| patches away | in its row or column | elsewhere |\n| --- | --- | --- |")
    for one in found["felt"]:
        shown = ["–" if one[kind] is None else f"{one[kind]:.4f}" for kind in ("straight", "aside")]
        print(f"| {one['patches']} | {' | '.join(shown)} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide")
    parser.add_argument("--model", default="vmamba_pico")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target-mpp", type=float, default=1.0)
    parser.add_argument("--mpp", type=float, help="micrometres per level-0 pixel where the file says none")
    parser.add_argument("--patch-px", type=int, default=128)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 10_000])
    parser.add_argument("--window-px", type=int, default=2048)
    parser.add_argument("--changes", type=int, default=3)
    parser.add_argument("--segmenter", default="otsu")
    parser.add_argument("--scratch", help="folder for the maps of the whole pass")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
