"""One synthetic slide: plan -> anatomy -> paint -> files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.anatomy import Lesion, draw_anatomy
from wsi_vmamba.datasets.synthetic.artefacts import add_artefacts
from wsi_vmamba.datasets.synthetic.files import write_asap, write_slide
from wsi_vmamba.datasets.synthetic.noise import FloatArray, periodic_noise
from wsi_vmamba.datasets.synthetic.scene import Scene, paint
from wsi_vmamba.datasets.synthetic.spec import CohortSpec, SlidePlan, plan_cohort
from wsi_vmamba.datasets.synthetic.stain import StainLut, as_bytes, make_stain, match_colour
from wsi_vmamba.datasets.synthetic.textures import GLANDS, make_textures


@dataclass(frozen=True, kw_only=True)
class SyntheticSlide:
    """One slide on disk; ``annotation_path`` is an ASAP XML file, there (and empty) for normal slides too."""

    slide_id: str
    path: Path
    annotation_path: Path
    label: int
    lesions: tuple[Lesion, ...]
    lesion_size: str
    centre: str
    patient_id: str
    split: str


def generate_slide(spec: CohortSpec, index: int, out_dir: Path | str) -> SyntheticSlide:
    """Paint slide ``index`` of a cohort into ``out_dir`` as TIFF and ASAP XML.

    A slide whose two files are there is left alone. Equal spec and index give equal bytes.
    """
    plan = plan_cohort(spec)[index]
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, annotation_path = folder / f"{plan.slide_id}.tif", folder / f"{plan.slide_id}.xml"
    layout, grain, marks = _streams(spec, plan)
    scene, lesions = draw_anatomy(
        layout, width_px=plan.width_px, height_px=plan.height_px, lesion_size=plan.lesion_size
    )
    if not (path.is_file() and annotation_path.is_file()):
        lut = make_stain(np.random.default_rng([spec.seed, 0x57A1, plan.stain_batch]), plan.centre)
        rgb = paint_slide(grain, scene, lut, difficulty=spec.difficulty)
        add_artefacts(marks, rgb)
        write_slide(path, rgb, level_factor=spec.level_factor, jpeg_quality=spec.jpeg_quality)
        write_asap(annotation_path, lesions)
    return SyntheticSlide(
        slide_id=plan.slide_id,
        path=path,
        annotation_path=annotation_path,
        label=plan.label,
        lesions=lesions,
        lesion_size=plan.lesion_size,
        centre=plan.centre,
        patient_id=plan.patient_id,
        split=plan.split,
    )


def _streams(spec: CohortSpec, plan: SlidePlan) -> list[np.random.Generator]:
    """Independent generators for layout, textures and artefacts of one slide."""
    return [np.random.default_rng([spec.seed, 0x511DE, plan.index, purpose]) for purpose in range(3)]


def paint_slide(
    rng: np.random.Generator, scene: Scene, lut: StainLut, *, difficulty: float
) -> NDArray[np.uint8]:
    """Draw textures for a scene and paint it; returns RGB (height_px, width_px, 3)."""
    side_px = 1024 if max(scene.width_px, scene.height_px) > 1600 else 512
    textures = dict(make_textures(rng, side_px=side_px, difficulty=difficulty))
    disguise_tumour(rng, textures, lut, replaced=scene.under_tumour())
    wander = 0.7 * periodic_noise(rng, side_px=side_px, grain_px=14)
    wander += 0.7 * periodic_noise(rng, side_px=side_px, grain_px=40)
    return paint(scene, {name: as_bytes(tile) for name, tile in textures.items()}, lut, wander=wander)


def disguise_tumour(
    rng: np.random.Generator, textures: dict[str, FloatArray], lut: StainLut, *, replaced: Mapping[str, float]
) -> None:
    """Give the tumour textures the mean colour of the tissue they replace, give or take a few percent of stain.

    Mean colour then says nothing about the label; what is left is the size, shape and arrangement of nuclei.
    ``replaced`` holds the share of each tissue, empty where there is no tumour to disguise.
    """
    if not replaced:
        return
    means = {name: lut.mean_rgb(as_bytes(textures[name][::5, ::5])) for name in replaced}
    target = sum((share * means[name] for name, share in replaced.items()), start=np.zeros(3))
    target = 245 * (target / 245) ** float(np.exp(rng.normal(0, 0.07)))
    for name in ("tumour", GLANDS):
        textures[name] = match_colour(textures[name], lut, target_rgb=target)
