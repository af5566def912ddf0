"""Settings of `synth`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText, Seed, Share
from wsi_vmamba.config.marks import Argument, SetOnly


class SynthConfig(RunConfig):
    """`wsi-vmamba synth`: a generated cohort whose answer is known."""

    cohort: Annotated[Literal["nodes", "near-far", "ring-line"], Argument()] = "nodes"
    """`nodes`: lymph nodes with and without metastases. `near-far`, `ring-line`: pairs of slides of the same patches,
    which differ only in how those of tumour are arranged: two lesions close or apart, a ring or a line."""
    out: PathText = "cohort"
    """Folder for slides and manifest.csv; slides that are there already are kept."""
    slides: Annotated[int, Field(ge=8)] = 200
    """How many slides; of the pairs an even number."""
    blocks: Annotated[int, Field(ge=8, le=256), SetOnly()] = 16
    """Of the pairs: patches of 128 px at 1 um along each side of a slide."""
    difficulty: Annotated[Share, SetOnly()] = 0.2
    """How like normal nuclei those of tumour are, 0 to 1."""
    seed: Seed = 0
    """Seed of the cohort."""

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> SynthConfig:
        if self.cohort != "nodes" and self.slides % 2:
            raise ValueError(f"{self.cohort} is made of pairs: slides must be even, got {self.slides}")
        return self
