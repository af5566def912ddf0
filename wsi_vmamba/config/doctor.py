"""Settings of `doctor`."""

from __future__ import annotations

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Device


class DoctorConfig(RunConfig):
    """`wsi-vmamba doctor`: what this installation can do."""

    device: Device = "auto"
    """The device whose active kernel is named beside the CPU's; one that is not there is an error."""
