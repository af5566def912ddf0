"""Settings of `demo`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Mpp, PathText, Seed


class DemoConfig(RunConfig):
    """`wsi-vmamba demo`: the whole product on a generated cohort."""

    out: PathText = "demo"
    """Folder for everything the demo makes."""
    slides: Annotated[int, Field(ge=12)] = 24
    """How many slides to generate."""
    target_mpp: Mpp = 1.0
    """Micrometres per pixel that the backbone sees."""
    seed: Seed = 0
    """Seed of the cohort."""
