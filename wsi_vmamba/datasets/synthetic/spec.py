"""What a synthetic cohort is: its settings and, for every slide, label, centre, lesion size and split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from wsi_vmamba.errors import UsageError

#: Resolution of every synthetic slide, um per pixel, and the one recorded in the files.
MPP = 0.5
#: Centres the cohort pretends to come from; each has a stain of its own.
CENTRES = ("centre_a", "centre_b")
#: Sizes the tumour slides of one split and centre go through in turn; centres start half a cycle apart.
LESION_CYCLE = ("macro", "micro", "small", "micro", "macro", "micro")
#: Value of `SlidePlan.lesion_size` for a slide without tumour.
NO_LESION = "none"


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """Settings of a synthetic cohort; equal settings give equal bytes.

    Attributes:
        slides: number of slides.
        seed: seed of everything.
        width_px: least and greatest level-0 width; each slide draws its own.
        height_px: least and greatest level-0 height.
        tumour_fraction: share of slides that hold at least one lesion, 0–1.
        test_fraction: share of slides held out, 0–1, taken from each label and centre alike.
        difficulty: 0–1; at 0 tumour nuclei are twice as wide as those of lymphocytes and more uneven, at 1
            they come close to those of germinal centres.
        level_factor: step of the pyramid, 2 or 4.
        jpeg_quality: 1–100.
    """

    slides: int = 24
    seed: int = 0
    width_px: tuple[int, int] = (4000, 8000)
    height_px: tuple[int, int] = (3000, 6000)
    tumour_fraction: float = 0.5
    test_fraction: float = 0.5
    difficulty: float = 0.5
    level_factor: int = 2
    jpeg_quality: int = 80

    def __post_init__(self) -> None:
        if self.slides < 1:
            raise UsageError(f"a cohort needs at least one slide, got slides={self.slides}")
        for name, (least, greatest) in (("width_px", self.width_px), ("height_px", self.height_px)):
            if not 256 <= least <= greatest:
                raise UsageError(
                    f"{name} must be (least, greatest) with 256 <= least <= greatest, got {(least, greatest)}"
                )
        for name in ("tumour_fraction", "test_fraction", "difficulty"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} must lie in 0–1, got {value}")
        if self.level_factor not in (2, 4):
            raise UsageError(f"level_factor must be 2 or 4, got {self.level_factor}")
        if not 1 <= self.jpeg_quality <= 100:
            raise UsageError(f"jpeg_quality must lie in 1–100, got {self.jpeg_quality}")


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """What one slide of the cohort will be, decided before a pixel is painted.

    Slides of one ``stain_batch`` share a stain; a batch holds a tumour slide and a normal one of the same centre and
    split, as far as there are as many of both, so that stain cannot stand in for the label even in a small cohort.
    """

    index: int
    slide_id: str
    patient_id: str
    label: int
    centre: str
    lesion_size: str
    split: str
    stain_batch: int
    width_px: int
    height_px: int


def plan_cohort(spec: CohortSpec) -> tuple[SlidePlan, ...]:
    """Decide label, centre, lesion size, split and dimensions of every slide; one patient each.

    Label and centre are crossed, so that neither predicts the other; the split is stratified by both.
    """
    rng = np.random.default_rng([spec.seed, 0xC0])
    tumours = round(spec.slides * spec.tumour_fraction)
    drafts = [
        (label, rank % 2)
        for label, count in ((1, tumours), (0, spec.slides - tumours))
        for rank in range(count)
    ]
    held_out = _held_out(drafts, spec.test_fraction)
    sizes = _lesion_sizes(drafts, held_out)
    batches = _stain_batches(drafts, held_out)
    order = rng.permutation(spec.slides)
    plans = []
    for index, draft in enumerate(order):
        label, centre = drafts[draft]
        plans.append(
            SlidePlan(
                index=index,
                slide_id=f"slide_{index:03d}",
                patient_id=f"patient_{index:03d}",
                label=label,
                centre=CENTRES[centre],
                lesion_size=sizes[draft],
                split="test" if held_out[draft] else "train",
                stain_batch=batches[draft],
                width_px=int(rng.integers(spec.width_px[0], spec.width_px[1], endpoint=True)),
                height_px=int(rng.integers(spec.height_px[0], spec.height_px[1], endpoint=True)),
            )
        )
    return tuple(plans)


def _held_out(drafts: list[tuple[int, int]], fraction: float) -> list[bool]:
    """Mark ``fraction`` of each (label, centre) stratum; remainders are carried to the next."""
    marked = [False] * len(drafts)
    owed = 0.0
    for stratum in sorted(set(drafts)):
        members = [i for i, draft in enumerate(drafts) if draft == stratum]
        owed += fraction * len(members)
        take = min(len(members), int(owed + 0.5))
        owed -= take
        for i in members[:take]:
            marked[i] = True
    return marked


def _stain_batches(drafts: list[tuple[int, int]], held_out: list[bool]) -> list[int]:
    """Number the drafts so that the k-th tumour and the k-th normal slide of a centre and split are alike."""
    numbers: dict[tuple[int, bool, int], int] = {}
    seen: Counter[tuple[int, int, bool]] = Counter()
    batches = []
    for (label, centre), test in zip(drafts, held_out, strict=True):
        key = (centre, test, seen[label, centre, test])
        seen[label, centre, test] += 1
        batches.append(numbers.setdefault(key, len(numbers)))
    return batches


def _lesion_sizes(drafts: list[tuple[int, int]], held_out: list[bool]) -> list[str]:
    """Lesion size of each draft; splits and centres have a cycle each, so that all hold every size."""
    sizes = []
    seen: Counter[tuple[bool, int]] = Counter()
    for (label, centre), test in zip(drafts, held_out, strict=True):
        if label == 0:
            sizes.append(NO_LESION)
            continue
        turn = seen[test, centre] + centre * len(LESION_CYCLE) // 2
        sizes.append(LESION_CYCLE[turn % len(LESION_CYCLE)])
        seen[test, centre] += 1
    return sizes
