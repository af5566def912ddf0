"""Synthetic lymph-node-like slides: a seeded cohort with lesions, for the demo and the tests.

The pictures are stylised. They exercise the pipeline and pose a task with a known answer; nothing measured on
them says anything about real tissue.
"""

from __future__ import annotations

from wsi_vmamba.datasets.synthetic.anatomy import Lesion
from wsi_vmamba.datasets.synthetic.arranged_slides import generate_arranged
from wsi_vmamba.datasets.synthetic.arrangement import ARRANGEMENTS, ArrangementSpec
from wsi_vmamba.datasets.synthetic.cohort import generate_cohort
from wsi_vmamba.datasets.synthetic.slides import SyntheticSlide, generate_slide
from wsi_vmamba.datasets.synthetic.spec import MPP, CohortSpec, plan_cohort
from wsi_vmamba.datasets.synthetic.tiles import TISSUES, TUMOUR_INDEX, TileBatch, sample_tiles

__all__ = [
    "ARRANGEMENTS",
    "MPP",
    "TISSUES",
    "TUMOUR_INDEX",
    "ArrangementSpec",
    "CohortSpec",
    "Lesion",
    "SyntheticSlide",
    "TileBatch",
    "generate_arranged",
    "generate_cohort",
    "generate_slide",
    "plan_cohort",
    "sample_tiles",
]
