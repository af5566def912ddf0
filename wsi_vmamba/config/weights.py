"""Settings of `weights`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText
from wsi_vmamba.config.marks import Argument, Option


class WeightsConfig(RunConfig):
    """`wsi-vmamba weights`: the weights that have a name, here and published."""

    action: Annotated[Literal["list", "add", "verify"], Argument()] = "list"
    """`list` shows shipped, imported and published weights; `add` imports a checkpoint; `verify` checks every byte and
    every key of those that are here."""
    source: Annotated[PathText | None, Argument("NAME|URL|FILE")] = None
    """Of `add`: a published name (downloaded), a URL, or a file (FILE#NAME: one of its state dicts). Of `verify`: only
    the weights of this name."""
    name: Annotated[str | None, Option("--name", metavar="NAME")] = None
    """What `add` calls the weights; by default the published name, else that of the file."""
    licence: str | None = None
    """Licence of the weights, for the record of `add`; by default that of the published ones."""
    part: str | None = None
    """Where the keys of the wanted model begin in a checkpoint of several, such as teacher.backbone."""
    sha256: Annotated[
        Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None, Option("--sha256", metavar="HEX")
    ] = None
    """What the file to import must hash to."""
    overwrite: bool = False
    """Replace imported weights of the same name."""

    @model_validator(mode="after")
    def _fits_the_action(self) -> WeightsConfig:
        if self.action == "add" and self.source is None:
            raise ValueError("add needs a published name, a URL or a file")
        if self.action == "list" and self.source is not None:
            raise ValueError("list takes no name; it lists all weights")
        of_add = ("name", "licence", "part", "sha256", "overwrite")
        given = [key for key in of_add if getattr(self, key) not in (None, False)]
        if self.action != "add" and given:
            raise ValueError(f"{', '.join(given)}: of add only, not of {self.action}")
        return self
